"""The lines of accounts as the store has them, changed one version after the other.

Owns the records, what is known of them here, and what the store could not take when it was time to. Refuses to
overwrite what somebody else has written since it was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.calls.line import Line
from gateway.store import StoreUnavailable, Vault

_KEEP_SECONDS: Final = 86_400.0
_MOST_TRIES: Final = 8
_MILLISECONDS: Final = 1000

# What becomes of a line; `None`: nothing.
Step = Callable[[Line], Line | None]


class Contended(StoreUnavailable):
    """The store works, and others were faster again and again."""

    def __init__(self) -> None:
        super().__init__("others are faster")


@dataclass(frozen=True, slots=True, eq=False)
class _Wish:
    """A change that somebody waits for; `known` if it may begin with what was known last."""

    step: Step
    found: asyncio.Future[Line | None]
    known: bool


def line_key(line: str) -> str:
    """Where the store has a line."""
    return f"line:{line}"


class LineRecords:
    """The records of all lines. `wall` is in epoch seconds, about the same on all machines that share a store.

    `longest` is for how long a call may have an account, in seconds: a record that nobody can read may be of one.
    """

    def __init__(self, vault: Vault, wall: Callable[[], float]) -> None:
        self._vault = vault
        self._wall = wall
        self.longest = _KEEP_SECONDS
        self._known: dict[str, Line] = {}
        self._ours: set[str] = set()  # what nobody else has written since we did
        self._owed: dict[tuple[str, str], Step] = {}
        self._wishes: dict[str, list[_Wish]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}

    def last(self, line: str) -> Line:
        """A line as it was known last."""
        return self._known.get(line, Line())

    async def read(self, line: str) -> Line:
        """A line as it is now. Raises `StoreUnavailable`."""
        kept = await self._vault.record(line_key(line))
        now = self._wall()
        if kept is None:
            # Whoever emptied the store ended no call.
            found = replace(self._known[line], version=0) if line in self._ours else Line()
        elif kept.content is not None:
            found = Line.decode(kept.content, kept.version)
            self._ours.discard(line)
        elif now - kept.version / _MILLISECONDS < self.longest:
            raise StoreUnavailable("no key opens it")
        else:
            found = Line(version=kept.version)
        self._known[line] = found
        return found.at(now)

    async def change(self, line: str, step: Step, *, known: bool = False) -> Line | None:
        """Have a line be as `step` makes it; `None` if that is nothing else. `known`: begin with what was known last.

        `step` may be asked several times. Raises `StoreUnavailable`, and `Contended` if others were faster each time.
        """
        loop = asyncio.get_running_loop()
        wish = _Wish(step, loop.create_future(), known)
        self._wishes.setdefault(line, []).append(wish)
        if line not in self._working:
            self._working[line] = loop.create_task(self._work(line))
        return await wish.found

    async def _work(self, line: str) -> None:
        """Do what is wished of a line, all that came while the store was asked at once: they would only race."""
        while wishes := self._wishes.pop(line, None):
            try:
                await self._fulfil(line, wishes)
            except Exception as exc:  # noqa: BLE001 - whoever wished gets it
                for wish in wishes:
                    if not wish.found.done():
                        wish.found.set_exception(exc)
        del self._working[line]

    async def _fulfil(self, line: str, wishes: Sequence[_Wish]) -> None:
        found = self._known.get(line) if all(wish.known for wish in wishes) else None
        fresh = found is None
        for _ in range(_MOST_TRIES):
            if found is None:
                found, fresh = await self.read(line), True
            present = before = found.at(self._wall())
            made = []
            for wish in wishes:
                wanted = wish.step(present)
                made.append(wanted)
                present = wanted or present
            if (present is before and fresh) or (present is not before and await self._write(line, present)):
                for wish, wanted in zip(wishes, made, strict=True):
                    if not wish.found.done():
                        wish.found.set_result(wanted)
                return
            found = None
        raise Contended

    async def see_to(self, line: str, what: str, step: Step, late: Step | None = None, *, known: bool = False) -> None:
        """Change a line now, or, if the store can't be reached, as soon as it can be, by `late` if that differs."""
        if self._vault.available:
            try:
                await self.change(line, step, known=known)
            except StoreUnavailable:
                pass
            else:
                return
        self.owe(line, what, late or step)

    def owe(self, line: str, what: str, step: Step) -> None:
        """Have a line changed when the store can be reached again; `what` it is takes the place of what it was.

        It is written in any case: what was asked of the store without an answer may reach it later, and finds another
        version then.
        """

        def owed(found: Line) -> Line:
            return step(found) or replace(found)

        self._known[line] = owed(self._known.get(line, Line()))
        self._owed.pop((line, what), None)  # it comes after what is owed by now
        self._owed[line, what] = owed

    @property
    def behind(self) -> bool:
        """Whether there is something that the store could not take."""
        return bool(self._owed)

    async def settle(self) -> None:
        """Write what could not be written when it was time to."""
        for (line, what), step in list(self._owed.items()):
            del self._owed[line, what]
            try:
                await self.change(line, step)
            except StoreUnavailable:
                self._owed.setdefault((line, what), step)
                if not self._vault.available:
                    return

    async def _write(self, line: str, wanted: Line) -> bool:
        seconds = max(_KEEP_SECONDS, wanted.until - self._wall())
        version = await self._vault.write(line_key(line), wanted.encode(), after=wanted.version, seconds=seconds)
        if version:
            self._known[line] = replace(wanted, version=version)
            self._ours.add(line)
        return version > 0
