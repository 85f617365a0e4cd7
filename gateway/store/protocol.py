"""What every kind of store can be asked, wherever it keeps what it has.

Owns the names. Refuses to say more of an operation than the rules do: those of tokens are a `Shelf`, those of records
a `Ledger`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from gateway.store.ledger import Page
from gateway.store.shelf import Busy, Lease, Stored


def new_owner() -> str:
    """The id of a store object that nobody has had before."""
    return secrets.token_hex(16)


class Store(Protocol):
    """The same, wherever it is kept; every method but `listen` may raise `StoreUnavailable`.

    `shared` says that others than this process may write to it; `owner` is the id of this object among all that use
    the same store. The keys of tokens are hex digests; those of records have a colon in them, so none is both.
    """

    shared: bool
    owner: str

    async def read(self, key: str) -> Stored | None:
        """See `Shelf.read`."""
        ...

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        """See `Shelf.lease`; the lease of a process that is known not to be alive any more is over."""
        ...

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        """See `Shelf.put`; what was written is told to all who listen."""
        ...

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """See `Shelf.reseal`."""
        ...

    async def release(self, key: str, *, fence: int, hold: float) -> None:
        """See `Shelf.release`."""
        ...

    async def get(self, key: str) -> Page | None:
        """See `Ledger.get`."""
        ...

    async def write(self, key: str, sealed: bytes, *, after: int, seconds: float) -> int:
        """See `Ledger.put`; what was written is told to all who listen, and lasts if the store does."""
        ...

    async def erase(self, key: str, *, after: int) -> bool:
        """See `Ledger.erase`; what was taken away is told to all who listen."""
        ...

    async def alive(self, owner: str) -> bool:
        """Whether the process of the store object with that id still runs, and has its store open.

        An id is vouched for from the first answer of its store on; in Redis only while it listens, from the first
        `None` that it heard. This object's own is always alive, and what is no id never; but while it listens no more
        itself, and for a moment after that, it can't tell who is dead, and takes everybody for alive.
        """
        ...

    async def vouched(self) -> None:
        """Wait, for a moment at most, until others can see that this process runs. Raises `StoreUnavailable`."""
        ...

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """Tell of every token and record that somebody writes, by its key, and of every record that somebody erases.

        `None` is for all that may have been missed. Begins with a `None`, as soon as nothing can be missed any more.
        Goes on until it is cancelled, or raises `StoreUnavailable`.
        """
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
