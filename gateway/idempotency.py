"""Requests that can be repeated: what became of the first one with a key, decided before anything is sent.

Owns the records of keys and every decision about them. Refuses to let a request with a key go on unless the store has
the record of it, because whoever repeats it may come to another replica, or after a crash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from gateway import problems
from gateway.model import Outcome
from gateway.problems import Problem, ProblemType
from gateway.store import StoreUnavailable, Vault

_MOST_TRIES: Final = 8


class State(StrEnum):
    """How far the first request with a key has come, as far as the store knows."""

    BEGUN = "begun"
    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"


class Decision(StrEnum):
    """What becomes of a request with a key; the words of the metric `idempotency_total`, but for the last."""

    NEW = "new"
    REPLAYED = "replayed"
    IN_PROGRESS = "in_progress"
    MISMATCH = "mismatch"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under a key.

    `attempt` tells one request from another with the same key; `owner` is the process that it runs in, `until` (epoch
    seconds) is by when it has ended, if it is still running. `answer` is the body of the accepted answer, or the
    members of the problem that it ended with; `location` the dial's.
    """

    fingerprint: str
    state: State
    attempt: str
    owner: str
    until: float
    location: str = ""
    answer: str = ""

    def encode(self) -> bytes:
        """As JSON for a store."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, content: bytes) -> Entry:
        """What `encode` made. Raises `ValueError`."""
        try:
            known = orjson.loads(content)
            return cls(**known | {"state": State(known["state"])})
        except (LookupError, TypeError) as exc:
            raise ValueError("it is no entry") from exc


def decide(entry: Entry | None, fingerprint: str, now: float, *, alive: bool) -> Decision:
    """What becomes of a request, after what is kept under its key. `alive`: whether the entry's owner still runs."""
    if entry is None:
        return Decision.NEW
    if entry.fingerprint != fingerprint:
        return Decision.MISMATCH
    if entry.state is not State.BEGUN:
        return Decision.REPLAYED
    return Decision.IN_PROGRESS if alive and now < entry.until else Decision.INTERRUPTED


def fingerprint(*parts: str) -> str:
    """A digest of what makes a request the same: its method, its route and its canonical body."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer of the first request, which was accepted: the body, and where the dial is."""

    document: bytes
    location: str


class Begun:
    """A request with a key that is under way. It ends in one of three ways; if it never does, it was interrupted."""

    def __init__(self, keys: Keys, key: str, entry: Entry, version: int) -> None:
        self._keys = keys
        self._key = key
        self._entry = entry
        self._version = version

    async def accepted(self, document: bytes, location: str) -> None:
        """It was accepted: every later request with the key gets that answer."""
        await self._settle(State.ACCEPTED, document.decode(), location)

    async def failed(self, problem: Problem) -> None:
        """It ended with a problem: the key is free again, unless a call may have been made."""
        if problem.type.outcome is not Outcome.UNKNOWN:
            await self._keys.settle(self._key, None, self._entry, self._version)
            return
        kept = {
            "code": problem.type.code,
            "status": problem.type.status,
            "title": problem.type.title,
            "detail": problem.detail,
            "result_code": problem.result_code,
            "result_description": problem.result_description,
        }
        await self._settle(State.UNKNOWN, orjson.dumps(kept).decode())

    async def _settle(self, state: State, answer: str, location: str = "") -> None:
        entry = Entry(self._entry.fingerprint, state, self._entry.attempt, self._entry.owner, 0.0, location, answer)
        await self._keys.settle(self._key, entry, self._entry, self._version)


class Keys:
    """The keys of all services.

    `keep` is for how long an answer is kept, `limit` is how long a request can take at most, both in seconds; `count`
    is told each decision. `wall` is in epoch seconds, about the same on all machines that share a store.
    """

    def __init__(
        self,
        vault: Vault,
        count: Callable[[str], None],
        *,
        keep: float,
        limit: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.keep = keep
        self.limit = limit
        self._vault = vault
        self._count = count
        self._wall = wall
        self._running: dict[str, Entry] = {}  # whatever becomes of the store, what runs here is known here
        self._unsettled: dict[str, tuple[str, Entry | None, Entry, int]] = {}

    async def begin(self, service: str, key: str, asked: str, attempt: str) -> Begun | Replay:
        """Begin a request, or give the answer of the first one. `asked` is its fingerprint; `attempt` is its own id.

        When this returns a `Begun`, the store has its record. Raises `Problem`.
        """
        place = "key:" + hashlib.sha256(f"{service}\0{key}".encode()).hexdigest()
        try:
            for _ in range(_MOST_TRIES):
                begun = await self._begin(place, asked, attempt)
                if begun is not None:
                    return begun
        except StoreUnavailable:
            raise Problem(
                problems.STORE_UNAVAILABLE, "What became of this key can't be found out; nothing was sent."
            ) from None
        self._count(Decision.IN_PROGRESS)
        raise _in_progress()

    async def settle(self, place: str, entry: Entry | None, begun: Entry, version: int) -> None:
        """Write how a request ended (`None`: as if it had not been), now, or as soon as the store takes it."""
        try:
            await self._settle(place, entry, begun, version)
        except StoreUnavailable:
            self._unsettled[begun.attempt] = place, entry, begun, version

    @property
    def behind(self) -> bool:
        """Whether there is something that the store could not take."""
        return bool(self._unsettled)

    async def catch_up(self) -> None:
        """Write what the store could not take when it happened."""
        for attempt, (place, entry, begun, version) in list(self._unsettled.items()):
            try:
                await self._settle(place, entry, begun, version)
            except StoreUnavailable:
                return
            self._unsettled.pop(attempt, None)

    # --- inside

    async def _begin(self, place: str, asked: str, attempt: str) -> Begun | Replay | None:
        """`None` if somebody else was faster, so that it is to be decided anew."""
        kept = await self._vault.record(place)
        entry = self._running.get(place)
        if kept is not None:
            if kept.content is None:
                raise StoreUnavailable("no key opens it")
            entry = Entry.decode(kept.content)
            if entry.state is State.BEGUN and entry.owner == self._vault.owner and place not in self._running:
                # It was written after we had been told that it could not be: nothing was sent for it.
                await self._vault.erase(place, after=kept.version)
                return None
        now = self._wall()
        running = entry is not None and entry.state is State.BEGUN
        alive = running and entry is not None and await self._vault.alive(entry.owner)
        decision = decide(entry, asked, now, alive=alive)
        if decision is Decision.NEW:
            return await self._begun(place, Entry(asked, State.BEGUN, attempt, self._vault.owner, now + self.limit))
        assert entry is not None  # noqa: S101 - nothing is decided of nothing but NEW
        if decision is Decision.INTERRUPTED:
            entry = Entry(asked, State.INTERRUPTED, entry.attempt, entry.owner, 0.0)
            after = kept.version if kept is not None else 0
            if not await self._vault.write(place, entry.encode(), after=after, seconds=self.keep):
                return None
            self._running.pop(place, None)
            decision = Decision.REPLAYED
        self._count(decision)
        if decision is Decision.MISMATCH:
            raise Problem(problems.IDEMPOTENCY_KEY_REUSED, "This key was sent with another request before.")
        if decision is Decision.IN_PROGRESS:
            raise _in_progress()
        return _replay(entry)

    async def _begun(self, place: str, entry: Entry) -> Begun | None:
        """Have the store know of a request before anything is sent for it."""
        # Whoever can't see us would take us for dead, and say of our call that nobody knows what became of it.
        await self._vault.vouched()
        if place in self._running:
            return None
        self._running[place] = entry
        version = 0
        try:
            # It must not end before the request does: whoever repeats it then would be the first.
            version = await self._vault.write(place, entry.encode(), after=0, seconds=self.limit + self.keep)
        except BaseException:
            # It may be written all the same, and nothing will be sent for it.
            self._unsettled[entry.attempt] = place, None, entry, 0
            raise
        finally:
            if not version:
                del self._running[place]
        if not version:
            return None
        self._count(Decision.NEW)
        return Begun(self, place, entry, version)

    async def _settle(self, place: str, entry: Entry | None, begun: Entry, version: int) -> None:
        await self._written(place, entry, begun, version)
        if self._running.get(place) is begun:
            del self._running[place]

    async def _written(self, place: str, entry: Entry | None, begun: Entry, version: int) -> None:
        for _ in range(_MOST_TRIES):
            if entry is None:
                done = await self._vault.erase(place, after=version)
            else:
                done = bool(await self._vault.write(place, entry.encode(), after=version, seconds=self.keep))
            if done:
                return
            # Somebody took us for dead: what they wrote is less than we know.
            kept = await self._vault.record(place)
            if kept is None:
                if entry is None:
                    return
                version = 0
                continue
            if kept.content is None:
                return
            found = Entry.decode(kept.content)
            if found.attempt != begun.attempt or found.state not in {State.BEGUN, State.INTERRUPTED}:
                return
            version = kept.version
        raise StoreUnavailable("others are faster")


def _replay(entry: Entry) -> Replay:
    if entry.state is State.ACCEPTED:
        return Replay(entry.answer.encode(), entry.location)
    if entry.state is State.INTERRUPTED:
        raise Problem(
            problems.OUTCOME_UNKNOWN,
            "The first request with this key was interrupted; whether it made a call isn't known.",
        )
    kept: dict[str, Any] = orjson.loads(entry.answer)
    raise Problem(
        ProblemType(kept["code"], kept["status"], kept["title"], Outcome.UNKNOWN),
        kept["detail"],
        result_code=kept["result_code"],
        result_description=kept["result_description"],
        replayed=True,
    )


def _in_progress() -> Problem:
    return Problem(problems.IDEMPOTENCY_IN_PROGRESS, "The first request with this key is still running.")
