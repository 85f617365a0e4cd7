"""The lines of accounts as the store has them, changed one version after the other.

Owns the records, what is known of them here, and what the store could not take when it was time to. Refuses to
overwrite what somebody else has written since it was read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.calls.line import Line
from gateway.store import StoreUnavailable, Vault

_KEEP_SECONDS: Final = 86_400.0
_MOST_TRIES: Final = 8

# What becomes of a line; `None`: nothing.
Step = Callable[[Line], Line | None]


def line_key(line: str) -> str:
    """Where the store has a line."""
    return f"line:{line}"


class LineRecords:
    """The records of all lines. `wall` is in epoch seconds, about the same on all machines that share a store."""

    def __init__(self, vault: Vault, wall: Callable[[], float]) -> None:
        self._vault = vault
        self._wall = wall
        self._known: dict[str, Line] = {}
        self._owed: dict[tuple[str, str], Step] = {}

    def last(self, line: str) -> Line:
        """A line as it was known last."""
        return self._known.get(line, Line())

    async def read(self, line: str) -> Line:
        """A line as it is now. Raises `StoreUnavailable`."""
        kept = await self._vault.record(line_key(line))
        found = Line()
        if kept is not None:
            found = Line(version=kept.version) if kept.content is None else Line.decode(kept.content, kept.version)
        self._known[line] = found
        return found.at(self._wall())

    async def change(self, line: str, step: Step, *, known: bool = False) -> Line | None:
        """Have a line be as `step` makes it; `None` if that is nothing else. `known`: begin with what was known last.

        Raises `StoreUnavailable`, also if others were faster again and again.
        """
        found = self._known.get(line) if known else None
        fresh = found is None
        for _ in range(_MOST_TRIES):
            if found is None:
                found, fresh = await self.read(line), True
            wanted = step(found.at(self._wall()))
            if wanted is None:
                if fresh:
                    return None
            elif await self._write(line, wanted):
                return wanted
            found = None
        raise StoreUnavailable("others are faster")

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
        """Have a line changed when the store can be reached again; `what` it is takes the place of what it was."""
        found = self._known.get(line, Line())
        self._known[line] = step(found) or found
        self._owed.pop((line, what), None)  # it comes after what is owed by now
        self._owed[line, what] = step

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
                return

    async def _write(self, line: str, wanted: Line) -> bool:
        seconds = max(_KEEP_SECONDS, wanted.until - self._wall())
        version = await self._vault.write(line_key(line), wanted.encode(), after=wanted.version, seconds=seconds)
        if version:
            self._known[line] = replace(wanted, version=version)
        return version > 0
