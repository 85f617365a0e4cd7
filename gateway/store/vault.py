"""The store as the gateway uses it: tokens and records go in and come out, sealed in between, and seen from outside.

Owns sealing at the door, the metrics of the store, and the knowledge whether it can be reached. Refuses to let a
failing store be more than a state: whoever asks gets `StoreUnavailable`, and one line of the log tells of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from gateway.model import Token
from gateway.store.protocol import Store
from gateway.store.sealing import Seal
from gateway.store.shelf import Busy, Lease, StoreUnavailable
from gateway.telemetry import Log, Metrics

T = TypeVar("T")

_AGAIN_SECONDS: Final = 0.5
_FAILED_SECONDS: Final = 3.0
_LOOK_KEEP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Shelved:
    """What the store has for a key: the generation, and the token, unless no key opens it."""

    generation: int
    token: Token | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store has as a record: the version, and the content, unless no key opens it."""

    version: int
    content: bytes | None = field(repr=False)


class Vault:
    """Tokens and records in a store. `kind` is the scheme of its URL.

    With `reseals`, a token that was sealed with a former key is sealed anew.
    """

    def __init__(  # noqa: PLR0913 - where it is, how it is sealed, and who is told
        self, kind: str, store: Store, seal: Seal, log: Log, metrics: Metrics, *, reseals: bool = True
    ) -> None:
        self.kind = kind
        self.seal = seal
        self._reseals = reseals
        self.available = True
        self._failing: dict[str, float] = {}
        self._store = store
        self._log = log
        self._metrics = metrics
        self._followers: dict[str, list[Callable[[], None]]] = {}
        self._resealed: dict[str, tuple[int, Seal]] = {}
        self._unreadable: dict[str, int] = {}
        self._told_of_records = False
        self._looked = 0
        metrics.store_available(available=True)

    @property
    def store(self) -> Store:
        """The store itself."""
        return self._store

    async def token(self, key: str) -> Shelved | None:
        """What is in the store for a key."""
        stored = await self._do("read", self._store.read(key))
        if stored is None:
            return None
        try:
            token, current = self.seal.open(key, stored)
        except ValueError:
            if self._unreadable.get(key) != stored.generation:  # once for each token
                self._unreadable[key] = stored.generation
                self._log.error("store.unreadable", generation=stored.generation)
            return Shelved(stored.generation, None)
        if self._reseals and not current:
            await self._reseal(key, token)
        return Shelved(stored.generation, token)

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        """Leave to refresh the token of a key, for so many seconds."""
        return await self._do("lease", self._store.lease(key, seconds), refused=lambda given: isinstance(given, Busy))

    async def put(self, key: str, token: Token, *, after: int, fence: int | None) -> bool:
        """Put a token in the place of the one of the generation `after` (0: of none); whether it was put there."""
        sealed = self.seal.close(key, token)
        putting = self._store.put(key, sealed, generation=token.generation, after=after, fence=fence)
        return await self._do("put", putting, refused=False)

    async def release(self, key: str, *, fence: int, hold: float = 0.0) -> None:
        """End a lease that brought nothing; nobody gets another for `hold` seconds."""
        await self._do("release", self._store.release(key, fence=fence, hold=hold))

    # --- records

    @property
    def owner(self) -> str:
        """The id of this process' store, which `alive` knows."""
        return self._store.owner

    async def record(self, key: str) -> Kept | None:
        """The record of a key."""
        page = await self._do("get", self._store.get(key))
        if page is None:
            return None
        try:
            return Kept(page.version, self.seal.open_record(key, page.sealed))
        except ValueError:
            if not self._told_of_records:  # once for all: there may be as many as there were calls
                self._told_of_records = True
                self._log.error("store.unreadable", generation=page.version)
            return Kept(page.version, None)

    async def write(self, key: str, content: bytes, *, after: int, seconds: float) -> int:
        """Write a record in the place of the version `after` (0: of none); the new version, or 0 if it was not."""
        sealed = self.seal.close_record(key, content)
        return await self._do("write", self._store.write(key, sealed, after=after, seconds=seconds), refused=0)

    async def erase(self, key: str, *, after: int) -> bool:
        """Take away exactly that version of a record; whether it was there."""
        return await self._do("erase", self._store.erase(key, after=after), refused=False)

    async def alive(self, owner: str) -> bool:
        """Whether the process with that `owner` still runs; see `Store.alive` for what it takes to be known."""
        return await self._do("alive", self._store.alive(owner), refused=False)

    async def vouched(self) -> None:
        """Wait until `alive` of others knows this process; see `Store.vouched`."""
        await self._store.vouched()

    async def look(self) -> None:
        """Write something that nobody needs: a store that nothing is asked of would be taken for gone for ever."""
        key = f"look:{self.owner}"
        try:
            self._looked = await self.write(key, b"", after=self._looked, seconds=_LOOK_KEEP_SECONDS)
            if not self._looked and (page := await self.record(key)) is not None:
                self._looked = page.version
        except StoreUnavailable:
            return

    # --- news

    def follow(self, key: str, told: Callable[[], None]) -> None:
        """Have `told` called whenever there may be another token or record for a key."""
        self._followers.setdefault(key, []).append(told)

    def leave(self, key: str, told: Callable[[], None]) -> None:
        """No more of that."""
        followers = self._followers.get(key, [])
        if told in followers:
            followers.remove(told)
        if not followers:
            for by_key in (self._followers, self._resealed, self._unreadable):
                by_key.pop(key, None)

    async def watch(self) -> None:
        """Listen to the store until cancelled, through whatever happens to it."""
        while True:
            try:
                await self._store.listen(self._heard)
            except StoreUnavailable as exc:
                self._failed("listen", str(exc))
                self._metrics.store_operation("listen", "unavailable")
            except Exception as exc:  # noqa: BLE001 - without news the gateway would go stale; the next turn is another try
                self._log.fault(exc)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def close(self) -> None:
        """Close the store."""
        try:
            await self._store.close()
        except StoreUnavailable:
            return

    def tell_all(self) -> None:
        """Have all who follow a key look again."""
        for followers in list(self._followers.values()):
            for told in followers[:]:
                told()

    # --- inside

    async def _reseal(self, key: str, token: Token) -> None:
        """Seal a token anew, once: a replica that has the keys in another order does the same."""
        seal = self.seal
        if self._resealed.get(key) == (token.generation, seal):
            return
        resealing = self._store.reseal(key, seal.close(key, token), generation=token.generation)
        try:
            await self._do("reseal", resealing, refused=False)
        except StoreUnavailable:
            return  # the token was read, which is what was asked for; the next look tries again
        self._resealed[key] = (token.generation, seal)

    def _heard(self, key: str | None) -> None:
        self._worked("listen")
        if key is None:
            self.tell_all()
        else:
            for told in self._followers.get(key, [])[:]:
                told()

    async def _do(self, operation: str, work: Awaitable[T], *, refused: Callable[[T], bool] | T | None = None) -> T:
        started = time.monotonic()
        try:
            result = await work
        except StoreUnavailable as exc:
            self._metrics.store_operation(operation, "unavailable", time.monotonic() - started)
            self._failed(operation, str(exc))
            raise
        self._worked(operation)
        no = refused(result) if callable(refused) else refused is not None and result == refused
        self._metrics.store_operation(operation, "refused" if no else "success", time.monotonic() - started)
        return result

    def _failed(self, operation: str, reason: str) -> None:
        """That operation failed: the store is not available, which is told once."""
        self._failing[operation] = time.monotonic()
        if self.available:
            self.available = False
            self._metrics.store_available(available=False)
            self._log.warning("store.unavailable", kind=self.kind, reason=reason)

    def _worked(self, operation: str) -> None:
        """That operation works: the store is available, unless another one failed a moment ago.

        One that has become read-only, or is full, answers every other question.
        """
        if self.available:
            return
        self._failing.pop(operation, None)
        late = time.monotonic() - _FAILED_SECONDS
        self._failing = {other: at for other, at in self._failing.items() if at > late}
        if not self._failing:
            self.available = True
            self._metrics.store_available(available=True)
            self._log.info("store.available", kind=self.kind)
