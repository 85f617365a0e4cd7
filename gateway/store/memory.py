"""The store of one process alone: `memory:`.

Owns nothing but the clock that it puts to the rules of shelf and ledger. Refuses to outlive the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.store.ledger import Ledger, Page
from gateway.store.protocol import new_owner
from gateway.store.shelf import Busy, Lease, Shelf, Stored


class MemoryStore:
    """A `Shelf` and a `Ledger` in this process. `wall` is in epoch seconds."""

    shared = False

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self.owner = new_owner()
        self._shelf = Shelf()
        self._ledger = Ledger()
        self._wall = wall
        self._listeners: list[Callable[[str | None], None]] = []

    async def read(self, key: str) -> Stored | None:
        """See `Shelf.read`."""
        return self._shelf.read(key)

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        """See `Shelf.lease`."""
        return self._shelf.lease(key, seconds, self._wall())

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        """See `Shelf.put`."""
        written = self._shelf.put(key, sealed, generation=generation, after=after, fence=fence, now=self._wall())
        if written:
            self._tell(key)
        return written

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """See `Shelf.reseal`."""
        return self._shelf.reseal(key, sealed, generation=generation)

    async def release(self, key: str, *, fence: int, hold: float) -> None:
        """See `Shelf.release`."""
        self._shelf.release(key, fence=fence, hold=hold, now=self._wall())

    async def get(self, key: str) -> Page | None:
        """See `Ledger.get`."""
        return self._ledger.get(key, self._wall())

    async def write(self, key: str, sealed: bytes, *, after: int, seconds: float) -> int:
        """See `Ledger.put`."""
        version = self._ledger.put(key, sealed, after=after, seconds=seconds, now=self._wall())
        if version:
            self._tell(key)
        return version

    async def erase(self, key: str, *, after: int) -> bool:
        """See `Ledger.erase`."""
        erased = self._ledger.erase(key, after=after, now=self._wall())
        if erased:
            self._tell(key)
        return erased

    async def alive(self, owner: str) -> bool:
        """See `Store.alive`. What is not in this process has nothing here."""
        return owner == self.owner

    async def vouched(self) -> None:
        """See `Store.vouched`."""

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """See `Store.listen`."""
        self._listeners.append(heard)
        try:
            heard(None)
            await asyncio.Event().wait()
        finally:
            self._listeners.remove(heard)

    async def close(self) -> None:
        """Nothing is held."""

    def _tell(self, key: str) -> None:
        for heard in self._listeners[:]:
            heard(key)
