"""What a SQLite file is asked and told, in its own language.

Owns the tables and the statements, each of which is one step of a transaction. Refuses to know who carries them out.
"""

from __future__ import annotations

from typing import Final

# The rules are those of `Shelf` and `Ledger`, where each is explained.
TOKENS: Final = """
CREATE TABLE IF NOT EXISTS tokens (
    key TEXT PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0,
    sealed BLOB NOT NULL DEFAULT x'',
    fence INTEGER NOT NULL DEFAULT 0,
    until REAL NOT NULL DEFAULT 0,
    working INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    touched REAL NOT NULL
) WITHOUT ROWID
"""
# Columns that files of the first versions lack.
TOKENS_LATER: Final = {
    "begun": "ALTER TABLE tokens ADD COLUMN begun REAL NOT NULL DEFAULT 0",
    "owner": "ALTER TABLE tokens ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
}
TOKENS_COLUMNS: Final = "SELECT name FROM pragma_table_info('tokens')"
# Without a seal there is no record any more, only the number of the one that was erased.
RECORDS: Final = """
CREATE TABLE IF NOT EXISTS records (
    key TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    sealed BLOB,
    until REAL NOT NULL
) WITHOUT ROWID
"""
RECORDS_BY_END: Final = "CREATE INDEX IF NOT EXISTS records_by_end ON records (until)"
LASTING: Final = "PRAGMA synchronous = FULL"
FLEETING: Final = "PRAGMA synchronous = NORMAL"
TOUCH: Final = """
INSERT INTO tokens (key, touched) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET touched = excluded.touched
"""
BUSY: Final = """
SELECT until - :now, working, failures, owner FROM tokens
WHERE key = :key AND until > :now AND begun <= :now + :slack
"""
LEASE: Final = """
UPDATE tokens SET fence = max(fence + 1, CAST(:now * 1000 AS INTEGER)), begun = :now, until = :now + :seconds,
    working = 1, owner = :owner
WHERE key = :key RETURNING fence, failures
"""
PUT: Final = """
UPDATE tokens SET generation = :generation, sealed = :sealed, failures = 0,
    until = CASE WHEN :fence IS NULL THEN until ELSE 0 END,
    working = CASE WHEN :fence IS NULL THEN working ELSE 0 END
WHERE key = :key AND generation = :after AND :generation > :after
    AND (:fence IS NULL OR (working AND fence = :fence AND until > :now))
"""
RESEAL: Final = "UPDATE tokens SET sealed = :sealed WHERE key = :key AND generation = :generation AND :generation > 0"
RELEASE: Final = """
UPDATE tokens SET working = 0, begun = :now, until = :now + :hold, failures = failures + (:hold > 0)
WHERE key = :key AND (working OR :hold = 0) AND fence = :fence AND until > :now
"""
GET: Final = "SELECT version, sealed FROM records WHERE key = ? AND sealed IS NOT NULL AND until > ?"
LEFT: Final = "SELECT version, sealed IS NOT NULL AND until > ? FROM records WHERE key = ?"
WRITE: Final = "INSERT OR REPLACE INTO records (key, version, sealed, until) VALUES (?, ?, ?, ?)"
ERASE: Final = """
UPDATE records SET sealed = NULL, until = :past
WHERE key = :key AND version = :after AND sealed IS NOT NULL AND until > :now
"""
# A few at a time, and more than a write adds.
DROP_ENDED: Final = """
DELETE FROM records WHERE key IN (SELECT key FROM records WHERE until <= ? ORDER BY until LIMIT 8)
"""
