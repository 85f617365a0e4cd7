"""The store of one machine: a file that several processes may share and that outlives them all.

Owns the file, its schema and its thread. Refuses a file that others can read, and to block the event loop: every
statement runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from gateway.store.shelf import FORGET_SECONDS, Busy, Lease, Stored, StoreUnavailable

T = TypeVar("T")

_SCHEMA_VERSION: Final = 1
_BUSY_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.25
_PRIVATE: Final = 0o600
# The rules are those of `Shelf`, where each is explained.
_SCHEMA: Final = """
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
_TOUCH: Final = """
INSERT INTO tokens (key, touched) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET touched = excluded.touched
"""
_LEASE: Final = """
UPDATE tokens SET fence = max(fence + 1, CAST(:now * 1000 AS INTEGER)), until = :now + :seconds, working = 1
WHERE key = :key AND until <= :now RETURNING fence, failures
"""
_PUT: Final = """
UPDATE tokens SET generation = :generation, sealed = :sealed, failures = 0,
    until = CASE WHEN :fence IS NULL THEN until ELSE 0 END,
    working = CASE WHEN :fence IS NULL THEN working ELSE 0 END
WHERE key = :key AND generation = :after AND :generation > :after
    AND (:fence IS NULL OR (working AND fence = :fence AND until > :now))
"""
_RESEAL: Final = "UPDATE tokens SET sealed = :sealed WHERE key = :key AND generation = :generation AND :generation > 0"
_RELEASE: Final = """
UPDATE tokens SET working = 0, until = :now + :hold, failures = failures + (:hold > 0)
WHERE key = :key AND working AND fence = :fence AND until > :now
"""


class SqliteStore:
    """A file in SQLite's format, in write-ahead mode.

    `wall` is in epoch seconds, the same for all on this machine; `busy_seconds` is how long to wait for others.
    """

    shared = True

    def __init__(
        self, path: Path, wall: Callable[[], float] = time.time, *, busy_seconds: float = _BUSY_SECONDS
    ) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._wall = wall
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def read(self, key: str) -> Stored | None:
        """See `Shelf.read`."""

        def work(connection: sqlite3.Connection) -> Stored | None:
            found = connection.execute(
                "SELECT generation, sealed FROM tokens WHERE key = ? AND generation > 0", (key,)
            ).fetchone()
            return None if found is None else Stored(*found)

        return await self._run(work)

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        """See `Shelf.lease`."""

        def work(connection: sqlite3.Connection) -> Lease | Busy:
            with self._writing(connection, key) as now:
                found = connection.execute(_LEASE, {"key": key, "seconds": seconds, "now": now}).fetchone()
                if found is not None:
                    return Lease(*found)
                until, working = connection.execute(
                    "SELECT until, working FROM tokens WHERE key = ?", (key,)
                ).fetchone()
                return Busy(until - now, bool(working))

        return await self._run(work)

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        """See `Shelf.put`."""
        values = {"key": key, "sealed": sealed, "generation": generation, "after": after, "fence": fence}
        return await self._change(_PUT, key, values)

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """See `Shelf.reseal`."""
        return await self._change(_RESEAL, key, {"key": key, "sealed": sealed, "generation": generation})

    async def release(self, key: str, *, fence: int, hold: float) -> None:
        """See `Shelf.release`."""
        await self._change(_RELEASE, key, {"key": key, "fence": fence, "hold": hold})

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """See `Store.listen`. SQLite says that somebody has written, and not what."""
        seen: int | None = None
        while True:
            version = await self._run(lambda connection: connection.execute("PRAGMA data_version").fetchone()[0])
            if version != seen:
                seen = version
                heard(None)
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """Close the file and end the thread."""

        def work() -> None:
            if self._connection is not None:
                self._connection.close()

        with contextlib.suppress(sqlite3.Error):
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._thread.shutdown(wait=False)

    # --- in the thread

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def step() -> T:
            try:
                return work(self._connected())
            except sqlite3.Error as exc:
                self._drop()
                raise StoreUnavailable(type(exc).__name__) from None
            except OSError as exc:
                raise StoreUnavailable(type(exc).__name__) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, step)

    async def _change(self, statement: str, key: str, values: dict[str, object]) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with self._writing(connection, key) as now:
                return connection.execute(statement, values | {"now": now}).rowcount == 1

        return await self._run(work)

    @contextlib.contextmanager
    def _writing(self, connection: sqlite3.Connection, key: str) -> Iterator[float]:
        """A transaction that is alone, and the time when it began to be."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            now = self._wall()
            connection.execute(_TOUCH, (key, now))
            yield now
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self._path) != self._file:
            self._drop()  # somebody has put another file in its place, which others use by now
        if self._connection is None:
            # SQLite gives its side files the mode of the file, and makes that one readable by everybody.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE))
            connection = sqlite3.connect(
                self._path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._file = _identity(self._path)
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise StoreUnavailable("the file is of a later version")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # What a newer token took the place of must not stay readable in pages that are free.
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        connection.execute("DELETE FROM tokens WHERE touched < ?", (self._wall() - FORGET_SECONDS,))

    def _drop(self) -> None:
        """After a failure the next one starts afresh: the file may have been replaced."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
