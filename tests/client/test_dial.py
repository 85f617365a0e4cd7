"""Making a call: what is sent, what is repeated, and what a service is told."""

from __future__ import annotations

import json
import pickle
import re

import pytest

from gateway.client import (
    Call,
    DialClient,
    DialError,
    NotDone,
    OutcomeUnknown,
    Problem,
    Refused,
    Rejected,
    Support,
)
from gateway.client.connection import request_timeout
from tests.client.scripted import (
    CALL,
    KEY,
    ScriptedGateway,
    Step,
    Time,
    answer,
    free_port,
    in_a_hurry,
    lose,
    outlast,
    problem,
)

ACCEPTED = Call("AAAAAAAAAAAAAAAAAAAAAA", "accepted", "voice", "sales", "0", "connect successfully.")
NEVER_BETTER = [400, 401, 403, 404, 405, 413, 414, 415, 422, 431]
SUPERSEDED = problem(409, "call-superseded")


async def failed(*steps: Step, error: type[DialError], **arguments: object) -> tuple[DialError, ScriptedGateway]:
    """The error that a dial ends with, and the gateway."""
    async with ScriptedGateway(*steps) as gateway, gateway.client(**arguments) as client:
        with pytest.raises(error) as raised:
            await client.dial("voice")
    assert type(raised.value) is error
    return raised.value, gateway


async def test_a_call_is_made_with_a_key_and_a_deadline() -> None:
    async with ScriptedGateway(answer()) as gateway, gateway.client(timeout=12.5) as client:
        call = await client.dial("voice", "sales")

    assert call == ACCEPTED
    (request,) = gateway.received
    assert (request.method, request.target) == ("POST", "/dial")
    assert json.loads(request.body) == {"media": "voice", "account": "sales"}
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Request-Timeout"] == "12.500"
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", request.headers["Idempotency-Key"])


async def test_each_dial_has_a_key_of_its_own_unless_one_is_given() -> None:
    async with ScriptedGateway(answer()) as gateway, gateway.client() as client:
        await client.dial("voice")
        await client.dial("video")
        await client.dial("video", idempotency_key="order-4711")

    assert len({*gateway.keys()}) == 3
    assert gateway.keys()[2] == "order-4711"


@pytest.mark.parametrize("key", ["", "two words", "é", "x" * 256, "a\r\nX-Evil: 1"])
async def test_a_key_that_could_not_be_sent_is_not_sent(key: str) -> None:
    async with ScriptedGateway(answer()) as gateway, gateway.client() as client:
        with pytest.raises(ValueError, match="idempotency key"):
            await client.dial("voice", idempotency_key=key)

    assert gateway.received == []


async def test_a_replay_is_told() -> None:
    async with (
        ScriptedGateway(answer(headers={"Idempotency-Replayed": "true"})) as gateway,
        gateway.client() as client,
    ):
        assert (await client.dial("voice")).replayed


@pytest.mark.parametrize(
    "first",
    [
        problem(503, "upstream-unreachable", retry_after=1),
        problem(502, "upstream-untrusted"),
        problem(500, "internal"),
        problem(429, "rate-limited", retry_after=1),
        problem(503, "no-agent-available", "rejected", retry_after=5),
        problem(409, "idempotency-in-progress", retry_after=1),
        lose,
        answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
        answer(503, b"", {"Retry-After": "1"}),
    ],
)
async def test_what_may_be_repeated_is_repeated_with_the_same_key(first: Step) -> None:
    async with ScriptedGateway(first, first, answer()) as gateway, gateway.client() as client:
        assert await client.dial("voice") == ACCEPTED

    assert len(gateway.received) == 3
    assert len({*gateway.keys()}) == 1
    assert len({request.body for request in gateway.received}) == 1


@pytest.mark.parametrize(
    "first",
    [
        lose,
        answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
        problem(409, "idempotency-in-progress", retry_after=1),
    ],
)
async def test_a_dial_in_doubt_is_not_repeated_if_the_gateway_may_have_forgotten_its_key(first: Step) -> None:
    error, gateway = await failed(first, error=OutcomeUnknown, lasting_store=False)

    assert error.outcome == "unknown"
    assert len(gateway.received) == 1
    assert [error.idempotency_key] == gateway.keys()


async def test_what_was_not_sent_is_repeated_whatever_store_the_gateway_has() -> None:
    first = problem(503, "overloaded", retry_after=1)
    async with ScriptedGateway(first, answer()) as gateway, gateway.client(lasting_store=False) as client:
        assert await client.dial("voice") == ACCEPTED

    assert len(gateway.received) == 2


@pytest.mark.parametrize("status", NEVER_BETTER)
async def test_what_can_never_get_better_is_refused_at_once(status: int) -> None:
    error, gateway = await failed(problem(status, "some-code"), error=Refused)

    assert (error.status, error.code, error.outcome) == (status, "some-code", "not_sent")
    assert len(gateway.received) == 1


@pytest.mark.parametrize("status", NEVER_BETTER)
async def test_so_it_is_when_something_in_between_says_it(status: int) -> None:
    error, gateway = await failed(answer(status, b"no", {"Content-Type": "text/plain"}), error=Refused)

    assert (error.status, error.code) == (status, "unreadable-answer")
    assert len(gateway.received) == 1


@pytest.mark.parametrize(
    "step",
    [
        problem(504, "upstream-timeout", "unknown"),
        problem(502, "upstream-disconnected", "unknown"),
        problem(504, "outcome-unknown", "unknown"),
        problem(503, "odd", "unknown", retry_after=1),
        answer(200, b"{"),
        answer(201, {"id": "x"}),
        answer(201, CALL | {"id": "../../other"}),
        answer(201, b'{"id": NaN}'),
        answer(201, b"[" * 60_000),
        answer(201, b" " * 70_000 + json.dumps(CALL).encode()),
        answer(204, b""),
        answer(307, b"", {"Location": "/elsewhere"}),
    ],
)
async def test_what_nobody_knows_is_never_repeated_by_itself(step: Step) -> None:
    error, gateway = await failed(step, error=OutcomeUnknown)

    assert error.outcome == "unknown"
    assert len(gateway.received) == 1
    assert [error.idempotency_key] == gateway.keys()


async def test_a_rejection_without_a_time_is_not_repeated() -> None:
    error, gateway = await failed(
        problem(502, "upstream-rejected", "rejected", result_code="7", result_description="no \ud800"), error=Rejected
    )

    assert (error.result_code, error.result_description) == ("7", "no ?")
    assert len(gateway.received) == 1
    assert str(error) == "upstream-rejected: So it is. (request r-1)"


async def test_what_is_wrong_with_the_request_is_told() -> None:
    errors = [{"pointer": "/acount", "detail": "is not a known member"}, 7]
    error, _ = await failed(problem(400, "malformed-request", errors=errors), error=Refused)

    assert error.problem.errors == (("/acount", "is not a known member"),)


async def test_attempts_are_bounded_and_further_and_further_apart() -> None:
    error, gateway = await failed(problem(500, "internal"), error=NotDone, attempts=8, timeout=300)

    assert error.code == "internal"
    assert len(gateway.received) == 8
    assert gateway.time.slept == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


async def test_the_wait_is_drawn_from_nothing_to_all_of_it() -> None:
    drawn = iter([0.0, 0.5])
    _, gateway = await failed(problem(500, "internal"), error=NotDone, attempts=3, random=lambda: next(drawn, 1.0))

    assert gateway.time.slept == pytest.approx([0.0, 0.2])


async def test_the_gateway_is_not_asked_before_the_time_it_named() -> None:
    _, gateway = await failed(problem(503, "overloaded", retry_after=3), error=NotDone, attempts=3)

    assert gateway.time.slept == pytest.approx([3.2, 3.4])


async def test_the_time_may_stand_in_the_body_alone() -> None:
    body = {"code": "no-agent-available", "outcome": "rejected", "retry_after": 2}
    _, gateway = await failed(
        answer(503, body, {"Content-Type": "application/problem+json"}), error=Rejected, attempts=2
    )

    assert gateway.time.slept == pytest.approx([2.2])


@pytest.mark.parametrize("told", [10**9, 10**400, -1, True, "soon", 1e300])
async def test_an_odd_time_does_no_harm(told: object) -> None:
    body = {"code": "overloaded", "outcome": "not_sent", "retry_after": told}
    _, gateway = await failed(
        answer(503, body, {"Content-Type": "application/problem+json"}), error=NotDone, attempts=2
    )

    assert len(gateway.received) <= 2


async def test_nothing_is_waited_for_that_comes_after_the_deadline() -> None:
    error, gateway = await failed(problem(503, "overloaded", retry_after=60), error=NotDone)

    assert error.retry_after == 60
    assert gateway.time.slept == []


async def test_each_attempt_tells_what_is_left_of_the_deadline() -> None:
    async with (
        ScriptedGateway(problem(503, "overloaded", retry_after=2), answer()) as gateway,
        gateway.client() as client,
    ):
        await client.dial("voice", timeout=10)

    assert [float(request.headers["Request-Timeout"]) for request in gateway.received] == pytest.approx(
        [10, 7.8], abs=0.001
    )


@pytest.mark.parametrize(
    ("timeout", "answer_timeout", "told"),
    [
        (30.0, 15.0, "15.000"),
        (15.0, 30.0, "15.000"),
        (100_000.0, 100_000.0, "100000.000"),
        (1e308, 1e308, "999999999.000"),
        (12.34567, 15.0, "12.345"),
    ],
)
async def test_the_gateway_is_told_the_time_that_the_answer_is_waited_for_and_no_longer_one(
    timeout: float,
    answer_timeout: float,
    told: str,
) -> None:
    async with ScriptedGateway(answer()) as gateway, gateway.client(answer_timeout=answer_timeout) as client:
        await client.dial("voice", timeout=timeout)

    assert [request.headers["Request-Timeout"] for request in gateway.received] == [told]


@pytest.mark.parametrize(("seconds", "told"), [(1e-7, "0.001"), (0.0, "0.001"), (-1.0, "0.001"), (0.1234567, "0.123")])
def test_a_time_is_never_nothing_and_in_no_other_form(seconds: float, told: str) -> None:
    assert request_timeout(seconds) == told


async def test_no_attempt_begins_after_the_deadline() -> None:
    time = Time()

    async def oversleep(seconds: float) -> None:
        await time.sleep(seconds + 100)

    _, gateway = await failed(problem(500, "internal"), error=NotDone, clock=time.clock, sleep=oversleep)

    assert len(gateway.received) == 1


async def test_a_gateway_that_is_not_there_got_nothing() -> None:
    time = Time()
    address = f"http://127.0.0.1:{await free_port()}"
    async with DialClient(address, KEY, clock=time.clock, sleep=time.sleep) as client:
        with pytest.raises(NotDone) as raised:
            await client.dial("voice")

    assert (raised.value.code, raised.value.outcome, raised.value.status) == ("gateway-unreachable", "not_sent", None)
    assert len(time.slept) == 3


async def test_a_gateway_that_goes_with_each_request_leaves_a_doubt_and_the_key() -> None:
    error, gateway = await failed(lose, error=OutcomeUnknown)

    assert error.code == "answer-lost"
    assert len(gateway.received) == 4
    assert {error.idempotency_key} == {*gateway.keys()}


@in_a_hurry
async def test_an_answer_that_takes_too_long_is_asked_for_again_with_the_same_key() -> None:
    async with ScriptedGateway(outlast(15), answer()) as gateway, gateway.client(answer_timeout=15) as client:
        assert await client.dial("voice") == ACCEPTED

    assert len(gateway.received) == 2
    assert len({*gateway.keys()}) == 1


@pytest.mark.parametrize("before", [0, 1])
@in_a_hurry
async def test_an_answer_that_never_comes_leaves_a_doubt_on_a_new_connection_and_on_a_kept_one(before: int) -> None:
    steps = [*[answer()] * before, outlast(15)]
    async with ScriptedGateway(*steps) as gateway, gateway.client(answer_timeout=15, attempts=1) as client:
        for _ in range(before):
            await client.dial("voice")
        with pytest.raises(OutcomeUnknown, match="answer-lost"):
            await client.dial("voice")

    assert len(gateway.received) == before + 1


@in_a_hurry
async def test_a_deadline_ends_an_attempt_that_has_more_time() -> None:
    async with ScriptedGateway(outlast(10)) as gateway, gateway.client(timeout=10, answer_timeout=1000) as client:
        with pytest.raises(OutcomeUnknown, match="answer-lost"):
            await client.dial("voice")

    assert gateway.received[0].headers["Request-Timeout"] == "10.000"


@pytest.mark.parametrize(
    "later",
    [problem(503, "overloaded", retry_after=1), problem(401, "unauthenticated"), problem(429, "rate-limited")],
)
async def test_a_doubt_is_not_forgotten_over_an_answer_that_knows_nothing_of_it(later: Step) -> None:
    error, _ = await failed(lose, later, error=OutcomeUnknown)

    assert error.code == "answer-lost"
    assert isinstance(error.__cause__, NotDone | Refused)


async def test_a_doubt_outlives_the_gateway() -> None:
    async with ScriptedGateway(lose) as gateway:

        async def gone(seconds: float) -> None:
            await gateway.time.sleep(seconds)
            await gateway.__aexit__()

        async with gateway.client(sleep=gone) as client:
            with pytest.raises(OutcomeUnknown) as raised:
                await client.dial("voice")

    assert isinstance(raised.value.__cause__, NotDone)
    assert raised.value.__cause__.code == "gateway-unreachable"


async def test_the_contact_centres_no_ends_the_doubt() -> None:
    await failed(lose, problem(502, "upstream-rejected", "rejected"), error=Rejected)


async def test_an_earlier_request_that_is_still_under_way_is_a_doubt() -> None:
    error, _ = await failed(problem(409, "idempotency-in-progress", retry_after=1), error=OutcomeUnknown)

    assert error.code == "idempotency-in-progress"


async def test_waiting_for_an_earlier_request_is_bounded_by_the_deadline_alone() -> None:
    waiting = [problem(409, "idempotency-in-progress", retry_after=1)] * 12
    async with ScriptedGateway(*waiting, answer()) as gateway, gateway.client(timeout=300) as client:
        assert await client.dial("voice") == ACCEPTED

    assert len({*gateway.keys()}) == 1


async def test_a_release_is_repeated_and_told() -> None:
    ended = CALL | {"status": "ended"}
    async with (
        ScriptedGateway(problem(503, "overloaded", retry_after=1), lose, answer(200, ended)) as gateway,
        gateway.client() as client,
    ):
        call = await client.release(ACCEPTED.id)

    assert call.status == "ended"
    assert [(request.method, request.target) for request in gateway.received] == [
        ("DELETE", f"/dial/{ACCEPTED.id}")
    ] * 3
    assert gateway.keys() == [None] * 3


@pytest.mark.parametrize("step", [SUPERSEDED, problem(409, "call-superseded", retry_after=1)])
async def test_a_call_whose_place_was_taken_is_told_at_once(step: Step) -> None:
    async with ScriptedGateway(step) as gateway, gateway.client() as client:
        for asked in (client.release(ACCEPTED.id), client.state(ACCEPTED.id), client.dial("voice")):
            with pytest.raises(Refused) as raised:
                await asked
            assert (raised.value.code, raised.value.outcome) == ("call-superseded", "not_sent")

    assert [request.method for request in gateway.received] == ["DELETE", "GET", "POST"]
    assert gateway.time.slept == []


@pytest.mark.parametrize("told", [{"retry_after": 1}, {}])
async def test_a_key_in_progress_is_waited_for_with_and_without_a_time(told: dict[str, int]) -> None:
    waiting = problem(409, "idempotency-in-progress", **told)  # type: ignore[arg-type]
    async with ScriptedGateway(waiting, waiting, answer()) as gateway, gateway.client() as client:
        assert await client.dial("voice") == ACCEPTED

    assert len(gateway.received) == 3
    assert len({*gateway.keys()}) == 1


async def test_a_conflict_that_something_in_between_tells_of_leaves_a_doubt() -> None:
    error, gateway = await failed(answer(409, b"no", {"Content-Type": "text/plain"}), error=OutcomeUnknown)

    assert error.code == "unreadable-answer"
    assert len(gateway.received) == 1


async def test_each_attempt_is_one_request() -> None:
    async with ScriptedGateway(lose) as gateway, gateway.client(attempts=2) as client:
        with pytest.raises(OutcomeUnknown):
            await client.release(ACCEPTED.id)
        with pytest.raises(NotDone):
            await client.state(ACCEPTED.id)

    assert [request.method for request in gateway.received] == ["DELETE", "DELETE", "GET", "GET"]


async def test_the_state_is_told() -> None:
    async with (
        ScriptedGateway(answer(200, CALL | {"status": "queued", "more": 1})) as gateway,
        gateway.client() as client,
    ):
        assert (await client.state(ACCEPTED.id)).status == "queued"


async def test_the_state_of_another_call_is_none() -> None:
    async with ScriptedGateway(answer(200, CALL)) as gateway, gateway.client() as client:
        with pytest.raises(NotDone, match="unreadable-answer"):
            await client.state("B" * 22)


async def test_asking_may_fail_and_leaves_no_doubt() -> None:
    async with ScriptedGateway(problem(504, "upstream-timeout", "unknown")) as gateway, gateway.client() as client:
        with pytest.raises(NotDone):
            await client.support()

    assert len(gateway.received) == 1


@pytest.mark.parametrize("call_id", ["", "..", "a/b", "a?b", "a b", "a\n", "x" * 129])
async def test_what_is_no_id_goes_nowhere(call_id: str) -> None:
    async with ScriptedGateway(answer(200)) as gateway, gateway.client() as client:
        with pytest.raises(ValueError, match="id of a call"):
            await client.release(call_id)

    assert gateway.received == []


async def test_what_the_contact_centre_offers_is_told() -> None:
    offered = {"click_to_call": True, "webrtc": False, "account": "a&b c"}
    async with ScriptedGateway(answer(200, offered)) as gateway, gateway.client() as client:
        assert await client.support("a&b c") == Support(click_to_call=True, webrtc=False, account="a&b c")
        await client.support()

    assert [request.target for request in gateway.received] == ["/dial/support?account=a%26b+c", "/dial/support"]


@pytest.mark.parametrize("answered", [{"click_to_call": 1, "webrtc": True, "account": "a"}, [], "x", {}])
async def test_an_offer_that_is_none_is_not_made_up(answered: object) -> None:
    async with ScriptedGateway(answer(200, answered)) as gateway, gateway.client() as client:
        with pytest.raises(NotDone, match="unreadable-answer"):
            await client.support()


def test_an_error_can_be_sent_to_another_process() -> None:
    error = OutcomeUnknown(Problem("answer-lost", "unknown", ""), "k-1")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - it was made two lines above

    assert isinstance(copy, OutcomeUnknown)
    assert (copy.problem, copy.idempotency_key, str(copy)) == (error.problem, "k-1", "answer-lost")
