"""What a failed attempt means: what may be tried again, and what is known of the call.

Owns the rules; has no clock and no connection. Refuses to take silence for a no: once an attempt may have been carried
out, only the contact centre's own word undoes the doubt, and a gateway that may have forgotten it is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gateway.client import answers
from gateway.client.answers import Answer, Unreadable
from gateway.client.errors import DialError, NotDone, OutcomeUnknown, Problem, Refused, Rejected

_CALLERS_FAULT: Final = 400
_SERVERS_FAULT: Final = 500
_CONFLICT: Final = 409
# The statuses of 400 to 499 that time can heal: they say that the request was not looked at, whoever says it. Of the
# conflicts only that of a key in progress passes, which its code tells.
_PASSING: Final = frozenset({408, 425, 429})
_LATER: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed: what it means by itself, and whether the same request may be sent again.

    `repeat` is of that attempt alone: what is known of the earlier ones may forbid it (`Known.may_repeat`). `counts` is
    whether it was an attempt at all, and not the wait for another that is under way.
    """

    meaning: type[DialError]
    problem: Problem
    repeat: bool
    counts: bool = True


def unconnected(detail: str, *, untrusted: bool = False) -> Failure:
    """There was no connection, so nothing was sent."""
    code = "gateway-untrusted" if untrusted else "gateway-unreachable"
    # A certificate does not become a better one while we wait.
    return Failure(NotDone, Problem(code, "not_sent", detail), repeat=not untrusted)


def lost(detail: str, *, reading: bool) -> Failure:
    """It was sent, or part of it, and no whole answer came."""
    meaning = NotDone if reading else OutcomeUnknown
    return Failure(meaning, Problem("answer-lost", "unknown", detail), repeat=True)


def unreadable(answer: Answer, what: str, *, reading: bool) -> Failure:
    """An answer that the gateway does not give: probably that of something in between."""
    # Something in between may have put its own page in the place of ours, which told of a key in progress.
    refused = _refuses(answer.status) and answer.status != _CONFLICT
    outcome = "not_sent" if refused or answer.status in _PASSING else "unknown"
    told = Problem(
        code="unreadable-answer",
        outcome=outcome,
        detail=f"The answer is not one of the gateway ({what}).",
        status=answer.status,
        request_id=answer.request_id,
        retry_after=answer.retry_after,
    )
    if refused:
        return Failure(Refused, told, repeat=False)
    untouched = outcome == "not_sent"
    meaning = NotDone if reading or untouched else OutcomeUnknown
    # A proxy says 502 where we would see a lost connection.
    return Failure(meaning, told, repeat=untouched or answer.status >= _SERVERS_FAULT)


def garbled(what: str) -> Failure:
    """A stream of events that holds what can't be one."""
    detail = f"The stream is not one of the gateway ({what})."
    return Failure(NotDone, Problem("unreadable-answer", "unknown", detail), repeat=False)


def judge(answer: Answer, *, reading: bool) -> Failure:
    """What an answer other than success means. `reading` is a request that changes nothing."""
    try:
        told = answers.problem(answer)
    except Unreadable as exc:
        return unreadable(answer, str(exc), reading=reading)
    if told.code == "idempotency-in-progress":
        return Failure(OutcomeUnknown, replace(told, outcome="unknown"), repeat=True, counts=False)
    later = answer.status in _LATER and told.retry_after is not None
    match told.outcome:
        case "rejected":
            return Failure(Rejected, told, repeat=later)
        case "not_sent" if _refuses(answer.status):
            return Failure(Refused, told, repeat=False)
        case "not_sent":
            return Failure(NotDone, told, repeat=True)
        case _:
            return Failure(NotDone if reading else OutcomeUnknown, told, repeat=False)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one request over all of its attempts.

    `key` is that of a dial; what has none may be repeated without harm. `lasting_store` says that the gateway's store
    outlives it. `doubt` is of an attempt that may have been carried out, or of somebody else's under the same key.
    """

    key: str | None = None
    lasting_store: bool = False
    doubt: Problem | None = None

    def after(self, failure: Failure) -> Known:
        """What is known after that attempt as well.

        `NotDone` and `Refused` speak of that attempt alone: a gateway that is overloaded says so before it looks at
        the key. That the contact centre rejected it says that nothing had come of the earlier ones either, because
        otherwise the gateway would not have asked it again under the same key.
        """
        if failure.meaning is OutcomeUnknown:
            return replace(self, doubt=failure.problem)
        if failure.meaning is Rejected:
            return replace(self, doubt=None)
        return self

    def may_repeat(self, failure: Failure) -> bool:
        """Whether the request may be sent again after this failure, which is part of what is known.

        Nothing shows that the next connection leads to the process which knows of the doubt: one can end and another
        begin between two attempts, unseen. So with a store that does not last, a doubt ends all repetitions.
        """
        return failure.repeat and (self.key is None or self.lasting_store or self.doubt is None)

    def error(self, last: Failure) -> DialError:
        """What to raise when this failure, which is part of what is known, is the last."""
        by_itself = last.meaning(last.problem, self.key)
        if self.doubt is None or last.meaning is OutcomeUnknown:
            return by_itself
        error = OutcomeUnknown(replace(self.doubt, retry_after=last.problem.retry_after), self.key)
        error.__cause__ = by_itself
        return error


def _refuses(status: int) -> bool:
    return _CALLERS_FAULT <= status < _SERVERS_FAULT and status not in _PASSING
