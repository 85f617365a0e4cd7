"""What a store promises about tokens, as plain code: who may refresh one, and which may take the place of which.

Owns the rules that all three kinds of store keep: SQLite's statements and Redis' scripts say the same in their
languages. Refuses clocks, locks and I/O: `now` comes in (epoch seconds), what follows comes out.

A token has a generation, which only grows; it is written by whoever says which generation it takes the place of,
and only if that is still the present one. A lease lets one replica at a time refresh a token; its fence grows with
each lease, so whoever stalls until its lease is over can't write what it brings afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

FORGET_SECONDS: Final = 172_800.0  # what nobody touches for two days belongs to an account that is gone
SLACK_SECONDS: Final = 1.0  # by how much a clock may be corrected without ending a lease
_MILLISECONDS: Final = 1000


class StoreUnavailable(Exception):  # noqa: N818 - it names a state: go on with what is at hand
    """The store can't be reached, or does not answer in time; whether it did what was asked is not known."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A token as the store has it: sealed, with its generation in the clear."""

    generation: int
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to refresh a token. `failures` is how many refreshes failed in a row before, by whomever."""

    fence: int
    failures: int


@dataclass(frozen=True, slots=True)
class Busy:
    """No leave, for so many seconds: somebody is refreshing (`working`), or has failed and waits.

    `failures` is how many refreshes failed in a row before, by whomever.
    """

    seconds: float
    working: bool
    failures: int


@dataclass(slots=True)
class Entry:
    """All that is kept for one key. `begun`, `until` and `touched` are in epoch seconds."""

    generation: int = 0
    sealed: bytes = field(default=b"", repr=False)
    fence: int = 0
    begun: float = 0.0
    until: float = 0.0
    working: bool = False
    failures: int = 0
    touched: float = 0.0


class Shelf:
    """The tokens of all accounts, by key."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def read(self, key: str) -> Stored | None:
        """The token of a key, if there is one."""
        entry = self._entries.get(key)
        return Stored(entry.generation, entry.sealed) if entry is not None and entry.generation else None

    def lease(self, key: str, seconds: float, now: float) -> Lease | Busy:
        """Leave to refresh for so many seconds, unless somebody has it.

        What began later than now was written before the clock was set back: it would last for as long as that.
        """
        entry = self._touch(key, now)
        if entry.until > now and entry.begun <= now + SLACK_SECONDS:
            return Busy(entry.until - now, entry.working, entry.failures)
        # Begun from the clock, so that it grows on although everything was lost in between.
        entry.fence = max(entry.fence + 1, int(now * _MILLISECONDS))
        entry.begun = now
        entry.until = now + seconds
        entry.working = True
        return Lease(entry.fence, entry.failures)

    def put(  # noqa: PLR0913 - each decides whether it is written
        self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None, now: float
    ) -> bool:
        """Write a token in the place of the one of the generation `after` (0: of none); whether it was.

        With a fence, only while that lease runs, which ends with it.
        """
        entry = self._touch(key, now)
        if entry.generation != after or generation <= after:
            return False
        if fence is not None:
            if not (entry.working and entry.fence == fence and entry.until > now):
                return False
            entry.until = 0.0
            entry.working = False
        entry.failures = 0
        entry.generation = generation
        entry.sealed = sealed
        return True

    def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """Write the same token in another seal, if it is still the present one."""
        entry = self._entries.get(key)
        if entry is None or not generation or entry.generation != generation:
            return False
        entry.sealed = sealed
        return True

    def release(self, key: str, *, fence: int, hold: float, now: float) -> None:
        """End a lease that brought nothing. After a failure nobody gets another one for `hold` seconds (else 0).

        Without a hold it also ends the one that the lease was ended with, unless somebody has had another lease since.
        """
        entry = self._touch(key, now)
        if (entry.working or not hold) and entry.fence == fence and entry.until > now:
            entry.working = False
            entry.begun = now
            entry.until = now + hold
            entry.failures += hold > 0

    def _touch(self, key: str, now: float) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            stale = [other for other, kept in self._entries.items() if now - kept.touched > FORGET_SECONDS]
            for other in stale:
                del self._entries[other]
            entry = self._entries[key] = Entry()
        entry.touched = now
        return entry
