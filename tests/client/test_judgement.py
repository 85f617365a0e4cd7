"""What may be sent again: every sequence of failures, with a store that lasts and with one that may forget."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Final

import pytest

from gateway.client import NotDone, OutcomeUnknown, Refused, Rejected
from gateway.client.answers import Answer
from gateway.client.judgement import Failure, Known, judge, lost, unconnected, unreadable

KEY: Final = "order-17"
LONGEST: Final = 4


@dataclass(frozen=True)
class Attempt:
    """An attempt at a dial. `passes`: time can heal it. `doubt`: whether it opens one, ends it, or says nothing."""

    failure: Failure
    passes: bool
    doubt: bool | None = None


def told(status: int, code: str, outcome: str, *, retry_after: float | None = None) -> Failure:
    body = json.dumps({"code": code, "outcome": outcome}).encode()
    return judge(Answer(status, "application/problem+json", body, retry_after=retry_after), reading=False)


def proxy(status: int) -> Failure:
    return judge(Answer(status, "text/html", b"<html>"), reading=False)


ATTEMPTS: Final = {
    "refused connection": Attempt(unconnected("ConnectionRefusedError"), passes=True),
    "untrusted": Attempt(unconnected("a certificate", untrusted=True), passes=False),
    "lost connection": Attempt(lost("ServerDisconnectedError", reading=False), passes=True, doubt=True),
    "in progress": Attempt(told(409, "idempotency-in-progress", "not_sent", retry_after=1.0), passes=True, doubt=True),
    "in progress, no time": Attempt(told(409, "idempotency-in-progress", "not_sent"), passes=True, doubt=True),
    "overloaded": Attempt(told(503, "overloaded", "not_sent", retry_after=1.0), passes=True),
    "overloaded, no time": Attempt(told(503, "overloaded", "not_sent"), passes=True),
    "no agent": Attempt(told(503, "no-agent-available", "rejected", retry_after=5.0), passes=True, doubt=False),
    "rejected": Attempt(told(502, "upstream-rejected", "rejected"), passes=False, doubt=False),
    "unknown": Attempt(told(504, "upstream-timeout", "unknown"), passes=False, doubt=True),
    "refused": Attempt(told(401, "unauthenticated", "not_sent"), passes=False),
    "superseded": Attempt(told(409, "call-superseded", "not_sent", retry_after=1.0), passes=False),
    "a proxy's 502": Attempt(proxy(502), passes=True, doubt=True),
    "a proxy's 409": Attempt(proxy(409), passes=False, doubt=True),
    "a proxy's 429": Attempt(proxy(429), passes=True),
    "half an answer": Attempt(unreadable(Answer(201, "application/json", b"{"), "JSON", reading=False), False, True),
}
SEQUENCES: Final = [names for length in range(1, LONGEST + 1) for names in itertools.product(ATTEMPTS, repeat=length)]


def judged(names: tuple[str, ...], known: Known) -> tuple[int, Known]:
    """How many of these attempts are made, and what is known then."""
    for made, name in enumerate(names, 1):
        failure = ATTEMPTS[name].failure
        known = known.after(failure)
        if not known.may_repeat(failure):
            return made, known
    return len(names), known


def in_doubt(names: tuple[str, ...]) -> bool:
    """Whether a call may have been made that nobody has said a word of since."""
    said = [ATTEMPTS[name].doubt for name in names if ATTEMPTS[name].doubt is not None]
    return bool(said and said[-1])


def test_no_request_follows_a_doubt_that_a_new_gateway_might_not_know_of() -> None:
    for names in SEQUENCES:
        made, _ = judged(names, Known(KEY, lasting_store=False))
        assert not any(in_doubt(names[:before]) for before in range(1, made)), names


@pytest.mark.parametrize("lasting_store", [False, True])
def test_what_can_pass_is_tried_again_unless_there_is_a_doubt_that_may_be_forgotten(*, lasting_store: bool) -> None:
    for names in SEQUENCES:
        expected = len(names)
        for made, name in enumerate(names, 1):
            if not ATTEMPTS[name].passes or (in_doubt(names[:made]) and not lasting_store):
                expected = made
                break
        assert judged(names, Known(KEY, lasting_store=lasting_store))[0] == expected, names


@pytest.mark.parametrize("lasting_store", [False, True])
def test_whoever_gives_up_in_doubt_says_so_and_under_which_key(*, lasting_store: bool) -> None:
    for names in SEQUENCES:
        made, known = judged(names, Known(KEY, lasting_store=lasting_store))
        error = known.error(ATTEMPTS[names[made - 1]].failure)
        assert isinstance(error, OutcomeUnknown) is in_doubt(names[:made]), names
        assert (error.outcome == "unknown") is in_doubt(names[:made]), names
        assert error.idempotency_key == KEY


def test_what_has_no_key_is_repeated_whatever_became_of_it() -> None:
    for names in SEQUENCES:
        passing = next((made for made, name in enumerate(names, 1) if not ATTEMPTS[name].passes), len(names))
        assert judged(names, Known())[0] == passing, names


def test_each_failure_is_what_the_service_is_told_by_it() -> None:
    meanings = {name: attempt.failure.meaning for name, attempt in ATTEMPTS.items()}

    assert {name for name, meaning in meanings.items() if meaning is OutcomeUnknown} == {
        name for name, attempt in ATTEMPTS.items() if attempt.doubt
    }
    assert {name for name, meaning in meanings.items() if meaning is Rejected} == {"no agent", "rejected"}
    assert {name for name, meaning in meanings.items() if meaning is Refused} == {"refused", "superseded"}
    assert meanings["refused connection"] is NotDone
