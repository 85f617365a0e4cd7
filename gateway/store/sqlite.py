"""The store of one machine: a file that several processes may share and that outlives them all.

Owns the file, its mode, its schema, its thread, and the sign beside it that its process lives. Refuses a file that
others than its owner and group can read, if it can't take that from them; and to block the event loop: every statement
runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from gateway.store import sqlite_statements as statements
from gateway.store.ledger import Page, end_of, past, version_after
from gateway.store.presence import Presence
from gateway.store.protocol import new_owner
from gateway.store.shelf import FORGET_SECONDS, SLACK_SECONDS, Busy, Lease, Stored, StoreUnavailable

T = TypeVar("T")

_SCHEMA_VERSION: Final = 3  # 1 had no records, 2 not when a lease began and whose it is
_BUSY_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.25
_AGAIN_SECONDS: Final = 0.01
_PRIMARY: Final = 0xFF  # the part of an error code without its details
_PRIVATE: Final = 0o600


class SqliteStore:
    """A file in SQLite's format, in write-ahead mode.

    `wall` is in epoch seconds, the same for all on this machine, `monotonic` in seconds. `busy_seconds` is how long to
    wait for others, and for what was asked before, each.
    """

    shared = True

    def __init__(
        self,
        path: Path,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        busy_seconds: float = _BUSY_SECONDS,
    ) -> None:
        self.owner = new_owner()
        self._path = path
        self._presence = Presence(path.resolve(), self.owner)
        self._listeners: list[Callable[[str | None], None]] = []
        self._busy_seconds = busy_seconds
        self._wall = wall
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._opened = 0
        self._ended = False

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
            # Those who wait ask again and again: a transaction that writes, for each of them, would keep all others
            # from the file.
            if (busy := self._busy(connection, key, self._wall())) is not None:
                return busy
            with self._touching(connection, key, lasting=False) as now:
                if (busy := self._busy(connection, key, now)) is not None:
                    return busy
                values = {"key": key, "seconds": seconds, "owner": self.owner, "now": now}
                return Lease(*connection.execute(statements.LEASE, values).fetchone())

        return await self._run(work)

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        """See `Shelf.put`."""
        values = {"key": key, "sealed": sealed, "generation": generation, "after": after, "fence": fence}
        return await self._change(statements.PUT, key, values)

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """See `Shelf.reseal`."""
        return await self._change(statements.RESEAL, key, {"key": key, "sealed": sealed, "generation": generation})

    async def release(self, key: str, *, fence: int, hold: float) -> None:
        """See `Shelf.release`."""
        await self._change(statements.RELEASE, key, {"key": key, "fence": fence, "hold": hold}, lasting=False)

    async def get(self, key: str) -> Page | None:
        """See `Ledger.get`."""

        def work(connection: sqlite3.Connection) -> Page | None:
            found = connection.execute(statements.GET, (key, self._wall())).fetchone()
            return None if found is None else Page(*found)

        return await self._run(work)

    async def write(self, key: str, sealed: bytes, *, after: int, seconds: float) -> int:
        """See `Ledger.put`."""

        def work(connection: sqlite3.Connection) -> int:
            with self._writing(connection) as now:
                left, there = connection.execute(statements.LEFT, (now, key)).fetchone() or (0, False)
                if (left if there else 0) != after:
                    return 0
                version = version_after(left, now)
                connection.execute(statements.WRITE, (key, version, sealed, end_of(version, seconds, now)))
                connection.execute(statements.DROP_ENDED, (now,))
                return version

        version = await self._run(work)
        if version:
            self._tell(key)
        return version

    async def erase(self, key: str, *, after: int) -> bool:
        """See `Ledger.erase`."""

        def work(connection: sqlite3.Connection) -> bool:
            with self._writing(connection) as now:
                values = {"key": key, "after": after, "past": past(after), "now": now}
                erased = connection.execute(statements.ERASE, values).rowcount == 1
                if erased:
                    connection.execute(statements.DROP_ENDED, (now,))
                return erased

        erased = await self._run(work)
        if erased:
            self._tell(key)
        return erased

    async def alive(self, owner: str) -> bool:
        """See `Store.alive`."""
        return await self._run(lambda _: self._presence.is_there(owner))

    async def vouched(self) -> None:
        """See `Store.vouched`. Whatever is asked of the file shows it first."""

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """See `Store.listen`. SQLite says that somebody else has written, and not what; of our own we know."""
        seen: tuple[int, int] | None = None
        self._listeners.append(heard)
        try:
            while True:
                present = await self._run(self._data_version)
                if present != seen:
                    seen = present
                    heard(None)
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._listeners.remove(heard)

    async def close(self) -> None:
        """Close the file and end the thread."""
        if self._ended:
            return
        self._ended = True

        def work() -> None:
            try:
                if self._connection is not None:
                    self._connection.close()
            finally:
                self._presence.leave()

        with contextlib.suppress(sqlite3.Error):
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._thread.shutdown(wait=False)

    def _tell(self, key: str) -> None:
        for heard in self._listeners[:]:
            heard(key)

    # --- in the thread

    def _data_version(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """What changes when somebody else has written. Each connection counts from a number of its own."""
        return self._opened, connection.execute("PRAGMA data_version").fetchone()[0]

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        late = self._monotonic() + self._busy_seconds

        def step() -> T:
            if self._monotonic() > late:
                # Each of those before has waited for somebody who holds the file. To try it as well would keep the next
                # one waiting, and so on, for as long as calls come in.
                raise StoreUnavailable("queued")
            try:
                return work(self._connected())
            except (sqlite3.Error, OSError) as exc:
                if isinstance(exc, sqlite3.Error):
                    self._drop()
                raise StoreUnavailable(type(exc).__name__) from None

        return await asyncio.get_running_loop().run_in_executor(self._thread, step)

    def _busy(self, connection: sqlite3.Connection, key: str, now: float) -> Busy | None:
        found = connection.execute(statements.BUSY, {"key": key, "now": now, "slack": SLACK_SECONDS}).fetchone()
        if found is None:
            return None
        seconds, working, failures, owner = found
        if working and owner and not self._presence.is_there(owner):
            return None
        return Busy(seconds, bool(working), failures)

    async def _change(self, statement: str, key: str, values: dict[str, object], *, lasting: bool = True) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with self._touching(connection, key, lasting=lasting) as now:
                return connection.execute(statement, values | {"now": now}).rowcount == 1

        return await self._run(work)

    @contextlib.contextmanager
    def _touching(self, connection: sqlite3.Connection, key: str, *, lasting: bool) -> Iterator[float]:
        """A transaction that is alone, and its time; there is a row for the key of a token in it."""
        with self._writing(connection, lasting=lasting) as now:
            connection.execute(statements.TOUCH, (key, now))
            yield now

    @contextlib.contextmanager
    def _writing(self, connection: sqlite3.Connection, *, lasting: bool = True) -> Iterator[float]:
        """A transaction that is alone, and the time when it began to be.

        One that is not `lasting` does not wait for the disk: a power failure may undo it, which ends its process too.
        """
        connection.execute(statements.LASTING if lasting else statements.FLEETING)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._wall()
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self._path) != self._file:
            self._drop()  # somebody has put another file in its place, which others use by now
        self._presence.show()
        if self._connection is None:
            # SQLite gives its side files the mode of the file, and makes that one readable by everybody.
            # Only one that is not there is opened like this: to close it would end this process' locks on it (POSIX).
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE))
            _close_to_others(self._path)
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
            self._opened += 1
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise StoreUnavailable("the file is of a later version")
        self._write_ahead(connection)
        # What a newer token took the place of must not stay readable in pages that are free.
        connection.execute("PRAGMA secure_delete = ON")
        for table_or_index in (statements.TOKENS, statements.RECORDS, statements.RECORDS_BY_END):
            connection.execute(table_or_index)
        self._upgrade(connection)
        connection.execute("DELETE FROM tokens WHERE touched < ?", (self._wall() - FORGET_SECONDS,))

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Bring a file up to this version; of several who do it at once all but the first find it done."""
        with self._writing(connection):
            present = {name for (name,) in connection.execute(statements.TOKENS_COLUMNS)}
            for column, addition in statements.TOKENS_LATER.items():
                if column not in present:
                    connection.execute(addition)
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Change the mode of the file. For this alone SQLite does not wait while somebody else does the same."""
        late = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or time.monotonic() >= late:
                    raise
                time.sleep(_AGAIN_SECONDS)
            else:
                return

    def _drop(self) -> None:
        """After a failure the next one starts afresh: the file may have been replaced."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _close_to_others(path: Path) -> None:
    """Take all rights from who is neither owner nor of the group, whom a volume may be mounted for.

    Raises `StoreUnavailable` if the file belongs to somebody else, or its file system knows no modes.
    """
    # By their names: to open and close one would end this process' locks on it.
    for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & stat.S_IRWXO:
                with contextlib.suppress(PermissionError):
                    file.chmod(mode & ~stat.S_IRWXO)
                if file.stat().st_mode & stat.S_IRWXO:
                    raise StoreUnavailable("others can read the file")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
