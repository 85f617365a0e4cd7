"""What a store promises about records, as plain code: which one may take the place of which, and until when it lasts.

Owns the rules that all three kinds of store keep. Refuses clocks and I/O, and to forget a record before its time for
want of room: whoever counts on one would do a thing twice.

A record is a page of bytes under a key, with a version that the store gives it. It is written, or taken away, by
whoever says which version is there, and only if it still is. Versions only grow: what is erased or has ended leaves
its number behind until the clock is past it, and from then on the clock is greater.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

from gateway.store.shelf import StoreUnavailable

_MILLISECONDS: Final = 1000
_MOST: Final = 100_000
_ENDS_AT_ONCE: Final = 16  # more than a write adds, so that they go away, and few, so that no write takes long


@dataclass(frozen=True, slots=True)
class Page:
    """A record as the store has it: sealed, with its version in the clear."""

    version: int
    sealed: bytes = field(repr=False)


def version_after(left: int, now: float) -> int:
    """The version that follows the last one that is known of (0: none is)."""
    return max(left + 1, int(now * _MILLISECONDS))


def past(version: int) -> float:
    """When the clock gives greater versions than this one, however it is rounded."""
    return (version + 2) / _MILLISECONDS


def end_of(version: int, seconds: float, now: float) -> float:
    """Until when a page is kept that was written for so many seconds."""
    return max(now + seconds, past(version))


@dataclass(slots=True)
class _Line:
    """What is kept for one key; without a page only the number of the one that was erased."""

    version: int
    sealed: bytes | None = field(repr=False)
    until: float


class Ledger:
    """The records of all, by key; of at most so many keys at a time."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._lines: dict[str, _Line] = {}
        # A heap of all ends; those of lines that have been written anew since are passed over when their time comes.
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, key: str, now: float) -> Page | None:
        """The record of a key, if there is one whose time is not over."""
        line = self._lines.get(key)
        if line is None or line.sealed is None or line.until <= now:
            return None
        return Page(line.version, line.sealed)

    def put(self, key: str, sealed: bytes, *, after: int, seconds: float, now: float) -> int:
        """Write in the place of the version `after` (0: of none) for so many seconds; the new version, or 0 if not.

        Raises `StoreUnavailable` when there is no room for another key.
        """
        page = self.get(key, now)
        if (page.version if page is not None else 0) != after:
            return 0
        self._drop_ended(now)
        line = self._lines.get(key)
        if line is None and len(self._lines) >= self._most:
            raise StoreUnavailable("full")
        version = version_after(line.version if line is not None else 0, now)
        self._keep(key, _Line(version, sealed, end_of(version, seconds, now)))
        return version

    def erase(self, key: str, *, after: int, now: float) -> bool:
        """Take away exactly that version; whether it was there."""
        page = self.get(key, now)
        if page is None or page.version != after:
            return False
        self._keep(key, _Line(after, None, past(after)))
        self._drop_ended(now)
        return True

    def _keep(self, key: str, line: _Line) -> None:
        self._lines[key] = line
        heapq.heappush(self._ends, (line.until, key))
        if len(self._ends) > 2 * len(self._lines) + _ENDS_AT_ONCE:
            # As many writes as there are lines have gone by since the last time.
            self._ends = [(kept.until, other) for other, kept in self._lines.items()]
            heapq.heapify(self._ends)

    def _drop_ended(self, now: float) -> None:
        looked = 0
        while self._ends and self._ends[0][0] <= now and (looked < _ENDS_AT_ONCE or len(self._lines) >= self._most):
            _, key = heapq.heappop(self._ends)
            line = self._lines.get(key)
            if line is not None and line.until <= now:
                del self._lines[key]
            looked += 1
