"""The store of one process alone: `memory:`.

Owns nothing but the clock that it puts to the shelf's rules. Refuses to outlive the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.store.shelf import Busy, Lease, Shelf, Stored


class MemoryStore:
    """A `Shelf` in this process. `wall` is in epoch seconds."""

    shared = False

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._shelf = Shelf()
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
            for heard in self._listeners:
                heard(key)
        return written

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """See `Shelf.reseal`."""
        return self._shelf.reseal(key, sealed, generation=generation)

    async def release(self, key: str, *, fence: int, hold: float) -> None:
        """See `Shelf.release`."""
        self._shelf.release(key, fence=fence, hold=hold, now=self._wall())

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
