"""A call as far as it is known: what it is, whose, and what happened to it, in order.

Owns its states and the numbering of its events, as plain code, and how two histories of a call become one. Refuses
anything after its end: a call that is over stays as it ended.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import orjson

from gateway.model import CallEvent, CallStatus, Medium

_MOST_EVENTS: Final = 64


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of a call, its number (from 1), and how far the call had come with it."""

    number: int
    status: CallStatus
    event: CallEvent


History = tuple[Happening, ...]


class Call:
    """One call. `line` is what it was made on (`Account.line`), `version` that of the store's record of it (0: none).

    `told` is the number of the last event that was given to a service which does not count them itself.
    """

    __slots__ = (
        "account",
        "description",
        "happenings",
        "id",
        "line",
        "medium",
        "result_code",
        "service",
        "status",
        "told",
        "version",
    )

    def __init__(self, call_id: str, service: str, account: str, line: str, medium: Medium) -> None:
        self.id = call_id
        self.service = service
        self.account = account
        self.line = line
        self.medium = medium
        self.result_code: str | None = None
        self.description: str | None = None
        self.status = CallStatus.ACCEPTED
        self.happenings: History = ()
        self.told = 0
        self.version = 0

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status.over

    @property
    def last(self) -> int:
        """The number of its last event; 0 if there was none."""
        return self.happenings[-1].number if self.happenings else 0

    def after(self, number: int) -> Happening | None:
        """The first event behind that number that is still known."""
        return next((happening for happening in self.happenings if happening.number > number), None)

    def happened(self, event: CallEvent) -> Happening | None:
        """Take note of an event; what became of it, or `None` if the call is over."""
        if self.over:
            return None
        self.status = event.status or self.status
        happening = Happening(self.last + 1, self.status, event)
        self.happenings = (*self.happenings, happening)[-_MOST_EVENTS:]
        return happening

    def document(self) -> dict[str, Any]:
        """What a service is shown of it (contract, "The callers' API")."""
        return {
            "id": self.id,
            "status": self.status,
            "media": self.medium,
            "account": self.account,
            "outcome": "accepted",
            "result_code": self.result_code,
            "result_description": self.description,
        }

    def copy(self) -> Call:
        """The same, to be changed on its own."""
        return copy.copy(self)

    def adopt(self, other: Call) -> None:
        """Become what another replica knows, with what only this one does (`merged`)."""
        self.version = other.version
        self.told = max(self.told, other.told)
        self.happenings = merged(self.happenings, other.happenings)
        self.status = self.happenings[-1].status if self.happenings else other.status

    def encode(self) -> bytes:
        """Everything, as JSON for a store."""
        return orjson.dumps({
            "service": self.service,
            "account": self.account,
            "line": self.line,
            "media": self.medium,
            "result_code": self.result_code,
            "description": self.description,
            "status": self.status,
            "told": self.told,
            "happenings": [
                [entry.number, entry.status, entry.event.status, entry.event.event_id, entry.event.description,
                 entry.event.content]
                for entry in self.happenings
            ],
        })  # fmt: skip

    @classmethod
    def decode(cls, call_id: str, content: bytes, version: int) -> Self:
        """The call of that id, as a store has it. Raises `ValueError` for what no gateway wrote."""
        try:
            known = orjson.loads(content)
            call = cls(call_id, known["service"], known["account"], known["line"], Medium(known["media"]))
            call.result_code, call.description = known["result_code"], known["description"]
            call.status, call.told = CallStatus(known["status"]), known["told"]
            call.happenings = tuple(
                Happening(number, CallStatus(status), CallEvent(CallStatus(told) if told else None, *event))
                for number, status, told, *event in known["happenings"]
            )
        except (LookupError, TypeError) as exc:
            raise ValueError("it is no call") from exc
        call.version = version
        return call


def merged(ours: History, theirs: History) -> History:
    """Two histories as one: theirs as it is, behind it what only ours has, and the end last.

    Replicas that poll while the store is away give one number to different events. One whose number is taken has
    another here, and the end stands behind all that a reader of either may have had: nobody waits for it for ever.
    """
    highest = max((entry.number for entry in (*ours, *theirs)), default=0)
    whole = [entry for entry in theirs if not entry.status.over]
    for entry in _missing(ours, theirs):
        free = not whole or entry.number > whole[-1].number
        whole.append(entry if free else replace(entry, number=max(highest, whole[-1].number) + 1))
    end = next((entry for entry in (*theirs, *ours) if entry.status.over), None)
    if end is not None:
        before = max((entry.number for entry in (*ours, *whole) if not entry.status.over), default=0)
        whole.append(end if end.number > before else replace(end, number=max(highest, before) + 1))
    return tuple(whole[-_MOST_EVENTS:])


def _missing(ours: History, theirs: History) -> Iterator[Happening]:
    """What of ours, but its end, theirs has under no number, and has not forgotten."""
    others = [entry.event for entry in _unlike(theirs, ours)]
    for entry in _unlike(ours, theirs):
        if entry.event in others:
            others.remove(entry.event)
        elif not entry.status.over:
            yield entry


def _unlike(some: History, others: History) -> list[Happening]:
    """Those that are not in the others under their number, and are not older than all of them."""
    known = {entry.number: entry.event for entry in others}
    first = min(known, default=0)
    return [entry for entry in some if entry.number >= first and known.get(entry.number) != entry.event]
