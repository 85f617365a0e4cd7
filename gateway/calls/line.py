"""What is known of a line, as plain code: the call it has, those that may be made by now, and whether one is released.

Owns every decision about who may do what on it. Refuses two things at once that NSLB can't tell apart: a release while
a call may be made, and a call while one is released, because neither names the call that it means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import orjson


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of a line. Times are in epoch seconds.

    `call` is the one that NSLB means, since `since`; it has the line alone until `until`, 0 if others may call as well.
    `making` are calls that may be made by now, each with the time by when that is settled. If it was not, `call` is one
    of them, in `doubt`, and `before` the one that there was. Until `releasing`, `call` is being released. `owners` are
    those who make calls, and `releaser` is who releases one, as the store knows them (`Store.alive`). `version` is that
    of the store's record (0: none).
    """

    call: str | None = None
    since: float = 0.0
    until: float = 0.0
    making: Mapping[str, float] = field(default_factory=dict)
    doubt: bool = False
    before: str | None = None
    releasing: float = 0.0
    owners: Mapping[str, str] = field(default_factory=dict)
    releaser: str = ""
    version: int = 0

    def at(self, now: float) -> Line:
        """What is known when it is `now`: a call that was not settled in time may have been made."""
        late = [call for call, end in self.making.items() if end <= now]
        return self._unsettled(late) if late else self

    def left(self, dead: Collection[str], end: float) -> Line | None:
        """What is known when those owners are dead, of what they began that was to be settled by `end`.

        What they had sent by then has arrived: a call may have been made, before any that is asked for from now on, and
        a release is over. `None` if they began nothing.
        """
        late = [call for call, last in self.making.items() if last <= end and self.owners.get(call) in dead]
        found = self._unsettled(late) if late else self
        if found.releasing and self.releasing <= end and self.releaser in dead:
            found = replace(found, releasing=0.0)
        return None if found is self else found

    def released(self, now: float) -> bool:
        """Whether its call is being released: nobody can say yet which call that ends."""
        return self.releasing > now

    def taken(self, call: str, now: float, seconds: float) -> Line | None:
        """Of a call that has it alone for so long, `None` if another one has it or may have it."""
        if self.until > now or self.making or self.released(now):
            return None
        return replace(self, call=call, since=now, until=now + seconds, doubt=False, releasing=0.0)

    def given_back(self, call: str, before: str | None) -> Line | None:
        """A call that had it alone was not made: the one before is the current one. `None` if it has it no more."""
        return replace(self, call=before, until=0.0) if self.call == call and self.until else None

    def asked(self, call: str, end: float, owner: str = "") -> Line:
        """A call is asked for by `owner` on a line that others use as well; by `end` it is settled."""
        return replace(self, making={**self.making, call: end}, owners={**self.owners, call: owner})

    def settled(self, call: str) -> Line | None:
        """That call was not made. `None` if nobody thought so."""
        if call not in self.making:
            return replace(self, call=self.before, doubt=False) if self.doubt and self.call == call else None
        return self._without((call,))

    def made(self, call: str, since: float) -> Line:
        """That call may have been made: it is the current one."""
        return replace(self.settled(call) or self, call=call, since=max(since, self.since), until=0.0, doubt=False)

    def releasing_of(self, call: str, now: float, end: float, owner: str = "") -> Line | None:
        """That call, which must not be superseded, is being released by `owner`, until `end` at most.

        `None` if that has to wait.
        """
        if self.making or self.released(now):
            return None
        return replace(self, call=call, releasing=end, releaser=owner)

    def superseded(self, call: str) -> bool:
        """Whether another call has taken that one's place."""
        return self.call is not None and self.call != call

    def release_over(self, call: str, *, ended: bool) -> Line | None:
        """The release of a call is over, and so is the call if it has `ended`. `None` if the line is another's."""
        if self.call != call or not (self.releasing or self.until):
            return None
        return replace(self, releasing=0.0, until=0.0 if ended else self.until)

    def freed(self, call: str, now: float) -> Line | None:
        """A call that had it alone is over; if it is being released, it has it until that is. `None`: no change."""
        until = self.releasing if self.released(now) else 0.0
        if self.call != call or self.until <= until:
            return None
        return replace(self, until=until)

    def encode(self) -> bytes:
        """As JSON for a store."""
        return orjson.dumps({name: getattr(self, name) for name in _RECORDED})

    @classmethod
    def decode(cls, content: bytes, version: int) -> Self:
        """What `encode` made. Raises `ValueError`."""
        try:
            known: dict[str, Any] = orjson.loads(content)
            # A replica of another version may know of more, or of less.
            told = {name: known[name] for name in _RECORDED if name in known}
            return cls(call=told.pop("call"), **told, version=version)
        except (TypeError, LookupError) as exc:
            raise ValueError("it is no line") from exc

    def _unsettled(self, late: Collection[str]) -> Line:
        left = self._without(late)
        call = [call for call in self.making if call in late][-1]
        return replace(left, call=call, until=0.0, doubt=True, before=self.call, releasing=0.0)

    def _without(self, calls: Collection[str]) -> Line:
        making = {call: end for call, end in self.making.items() if call not in calls}
        return replace(self, making=making, owners={call: self.owners.get(call, "") for call in making})


_RECORDED: Final = tuple(entry.name for entry in fields(Line) if entry.name != "version")
