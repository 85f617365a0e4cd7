"""What the gateway answers, as values: calls, events, problems.

Owns the reading of its JSON. Refuses what is not as the interface says, always by `Unreadable`; members that it does
not know are passed over, because later versions may add some.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gateway.client.errors import Problem

ENDED: Final = frozenset({"ended", "timed_out", "failed"})
OUTCOMES: Final = frozenset({"not_sent", "rejected", "unknown"})

# Longer than any service waits.
MOST_SECONDS: Final = 10**9
CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CODE: Final = re.compile(r"[a-z0-9-]{1,64}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


class Unreadable(ValueError):  # noqa: N818 - said of an answer
    """The gateway does not answer that."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer, with those of its fields that mean something to us."""

    status: int
    media_type: str
    body: bytes
    request_id: str | None = None
    retry_after: float | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A call, and the last known state of it.

    `status` is `accepted`, `queued`, `connected`, `ended`, `timed_out` or `failed`. `replayed` says that an earlier
    request with the same key had made the call, and that this one made none.
    """

    id: str
    status: str
    media: str
    account: str
    result_code: str | None = None
    result_description: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a call. `number` says where in its stream; `event_id` and `content` are the contact centre's."""

    number: int | None
    status: str
    event_id: int | str | None
    description: str | None
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Support:
    """What the contact centre offers to an account."""

    click_to_call: bool
    webrtc: bool
    account: str


def call(answer: Answer, call_id: str | None = None) -> Call:
    """The call that an answer tells of: that one, if an id is given."""
    members = _object(answer.body)
    found = _word(members, "id")
    if not CALL_ID.fullmatch(found) or call_id not in {None, found}:
        raise Unreadable("id")
    return Call(
        id=found,
        status=_word(members, "status"),
        media=_word(members, "media"),
        account=_word(members, "account"),
        result_code=_text(members, "result_code"),
        result_description=_text(members, "result_description"),
        replayed=answer.replayed,
    )


def support(answer: Answer) -> Support:
    """What an answer says that an account can do."""
    members = _object(answer.body)
    return Support(
        click_to_call=_truth(members, "click_to_call"),
        webrtc=_truth(members, "webrtc"),
        account=_word(members, "account"),
    )


def event(data: str, name: str, number: str | None, call_id: str) -> Event:
    """The event of that call in an event of the stream."""
    members = _object(data)
    if members.get("id", call_id) != call_id:
        raise Unreadable("id")
    event_id = members.get("event_id")
    content = members.get("content")
    return Event(
        number=int(number) if number is not None and _NUMBER.fullmatch(number) else None,
        status=_text(members, "status") or name,
        event_id=event_id if isinstance(event_id, int | str) and not isinstance(event_id, bool) else None,
        description=_text(members, "description"),
        content=content if isinstance(content, dict) else {},
    )


def problem(answer: Answer) -> Problem:
    """The problem (RFC 9457) that an answer is."""
    if answer.media_type != "application/problem+json":
        raise Unreadable("media type")
    members = _object(answer.body)
    code, outcome = _word(members, "code"), _word(members, "outcome")
    if outcome not in OUTCOMES or not _CODE.fullmatch(code):
        raise Unreadable("outcome" if _CODE.fullmatch(code) else "code")
    return Problem(
        code=code,
        outcome=outcome,
        detail=_text(members, "detail") or "",
        status=answer.status,
        request_id=answer.request_id,
        retry_after=answer.retry_after if answer.retry_after is not None else _seconds(members.get("retry_after")),
        result_code=_text(members, "result_code"),
        result_description=_text(members, "result_description"),
        errors=_errors(members.get("errors")),
    )


def _object(data: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(data if isinstance(data, str) else data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Unreadable("JSON") from None
    if not isinstance(found, dict):
        raise Unreadable("object")
    return found


def _no_constant(_name: str) -> NoReturn:
    raise Unreadable("JSON")


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    # JSON can hold half of a surrogate pair, which could not even be printed.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _word(members: Mapping[str, Any], name: str) -> str:
    if found := _text(members, name):
        return found
    raise Unreadable(name)


def _truth(members: Mapping[str, Any], name: str) -> bool:
    value = members.get(name)
    if isinstance(value, bool):
        return value
    raise Unreadable(name)


def _seconds(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        # A whole number in JSON may be larger than any float.
        return float(min(value, MOST_SECONDS))
    return None


def _errors(value: object) -> tuple[tuple[str, str], ...]:
    found = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    return tuple((_text(item, "pointer") or "", _text(item, "detail") or "") for item in found)
