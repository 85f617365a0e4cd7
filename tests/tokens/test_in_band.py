"""Tokens that NSLB sends along with an answer: taken at once, but never from an answer that comes late."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.simulator import Fault, Simulator
from gateway.simulator.tokens import Holder, Tokens
from tests.harness import Farm, Harness, until

SUCCESS = json.dumps({"resultCode": "0", "resultDesc": "connect successfully."})


def sent(simulator: Simulator) -> list[str]:
    return [request.cookies()["ccmessaging-token"] for request in simulator.creates()]


def statuses(simulator: Simulator) -> list[int | None]:
    return [request.status for request in simulator.creates()]


def brought(simulator: Simulator, *values: tuple[str, str]) -> None:
    """The next answer is a success with these fields."""
    simulator.fault(Fault("status", operation="create", status=200, body=SUCCESS, headers=dict(values)))


def token_of(user: str) -> str:
    return Tokens(3600.0, lambda: 0.0).issue(Holder("202300000001", "2023", user))


def account(gateway: Harness) -> dict[str, object]:
    (status,) = gateway.server.status()["accounts"]
    assert isinstance(status, dict)
    return status


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("how", ["cookie", "header"])
async def test_the_token_that_comes_with_an_answer_is_sent_from_then_on(farm: Farm, how: str, applied: bool) -> None:
    simulator = await farm.simulator(renew_in_band=how)
    gateway = await farm.gateway(simulator, farm.applied(simulator) if applied else {})
    assert (await gateway.dial()).status == 201
    applications = simulator.fabric.apply_token_requests
    simulator.expire()

    answers = [await gateway.dial() for _ in range(3)]

    assert [answer.status for answer in answers] == [201] * 3
    assert statuses(simulator) == [200] * 4
    tokens = sent(simulator)
    assert tokens[0] == tokens[1]
    assert tokens[2:] == [simulator.tokens.current("gateway-sales")] * 2
    assert simulator.fabric.apply_token_requests == applications
    assert all("Set-Cookie" not in answer.headers for answer in answers)
    assert all(tokens[2].encode() not in answer.body for answer in answers)
    # The session is the same user's.
    sessions = [request.cookies().get("JSESSIONID") for request in simulator.creates()]
    assert len(set(sessions[1:])) == 1
    assert sessions[1] is not None
    (line,) = gateway.lines.of("token.renewed_in_band")
    assert (line["account"], line["level"]) == ("sales", "info")
    assert tokens[2].encode() not in gateway.lines.raw
    status = account(gateway)
    assert status["state"] == "renewed"
    assert (status["token_expires"] is not None) is applied
    metrics = await gateway.metrics()
    assert metrics['gateway_token_refreshes_total{account="sales",result="success",trigger="in_band"}'] == 1
    expiry = 'gateway_token_expiry_timestamp_seconds{account="sales"}'
    assert metrics[expiry] > 3500 if applied else expiry not in metrics


async def test_a_token_that_nobody_applies_for_lives_on_by_what_nslb_makes_of_it(farm: Farm) -> None:
    simulator = await farm.simulator(renew_in_band="cookie")
    gateway = await farm.gateway(simulator, {"accounts": {"sales": {"lifetime_seconds": 0.1}}})
    assert (await gateway.dial()).status == 201
    for turn in range(1, 4):
        simulator.expire()
        assert (await gateway.dial()).status == 201
        assert simulator.nslb.renewals == turn
        await asyncio.sleep(0.2)  # as long as the gateway would take a token for good that it has applied for

    assert statuses(simulator) == [200] * 4
    assert gateway.lines.of("token.refresh_failed") == []
    assert account(gateway)["usable"]


async def test_an_answer_that_comes_late_changes_nothing(farm: Farm) -> None:
    simulator = await farm.simulator(renew_in_band="cookie")
    gateway = await farm.gateway(simulator)
    assert (await gateway.dial()).status == 201
    simulator.expire()
    simulator.fault(Fault("delay", operation="create", seconds=0.5))
    late = asyncio.create_task(gateway.dial())
    await until(lambda: len(simulator.creates()) == 2)
    newest = simulator.issue_token("gateway-sales")
    gateway.token_file.write_text(newest)
    assert await gateway.server.reload()

    assert (await gateway.dial()).status == 201
    assert (await late).status == 201
    assert (await gateway.dial()).status == 201

    assert simulator.nslb.renewals == 1
    assert sent(simulator)[2:] == [newest, newest]
    assert statuses(simulator) == [200] * 4
    assert gateway.lines.of("token.renewed_in_band") == []


async def test_the_token_that_comes_while_its_end_is_applied_for_costs_no_call(farm: Farm) -> None:
    simulator = await farm.simulator(renew_in_band="cookie")
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    assert [(await gateway.dial()).status for _ in range(3)] == [201] * 3
    for turn in range(3):
        seen = len(simulator.creates())
        simulator.expire()
        # The first one is answered slowly, and with a token. The others are refused at once, for which the fabric makes
        # another one: its answer is slower yet.
        simulator.fault(Fault("delay", operation="create", seconds=0.02))
        simulator.fault(Fault("delay", operation="applyToken", seconds=0.05))

        answers = await asyncio.gather(*(gateway.dial() for _ in range(20)))

        assert [answer.status for answer in answers] == [201] * 20
        assert simulator.nslb.renewals == turn + 1
        seen_now = sent(simulator)[seen:]
        # Who had not been sent yet may have been sent with NSLB's; it is not seen again after the one that ended it.
        assert seen_now == sorted(seen_now, key=[*dict.fromkeys(seen_now)].index)
        assert seen_now[-1] == simulator.tokens.current("gateway-sales")
        assert (await gateway.dial()).status == 201
        simulator.clear_faults()
    assert {line["attempts"] for line in gateway.lines.requests()} <= {1, 2}


async def test_the_same_renewal_in_two_answers_is_one(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    first = account(gateway)["generation"]
    renewed = token_of("gateway-sales")
    for _ in range(2):
        brought(simulator, ("Set-Cookie", f"ccmessaging-token={renewed}; Path=/"))
    await asyncio.gather(gateway.dial(), gateway.dial())

    assert len(gateway.lines.of("token.renewed_in_band")) == 1
    assert account(gateway)["generation"] != first


@pytest.mark.parametrize(
    "field",
    [
        ("Set-Cookie", "ccmessaging-token=; Path=/"),
        ("Set-Cookie", "ccmessaging-token=gone; Max-Age=0"),
        ("Set-Cookie", "ccmessaging-token=a b; Path=/"),
        ("Set-Cookie", 'ccmessaging-token="quoted"'),
        ("Set-Cookie", "ccmessaging-token"),
        ("Set-Cookie", "other-token=abc"),
        ("Set-Cookie", f"ccmessaging-token={'x' * 8200}"),
        ("ccmessaging-token", ""),
        ("ccmessaging-token", "a, b"),
    ],
)
async def test_what_can_be_no_token_is_not_taken_for_one(farm: Farm, field: tuple[str, str]) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    before = account(gateway)["generation"]
    brought(simulator, field)

    assert (await gateway.dial()).status == 201
    assert (await gateway.dial()).status == 201

    assert account(gateway)["generation"] == before
    assert len(set(sent(simulator))) == 1
    assert gateway.lines.of("token.renewed_in_band") == []


async def test_a_token_of_another_user_is_never_taken(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    brought(simulator, ("Set-Cookie", f"ccmessaging-token={token_of('somebody-else')}"))

    assert (await gateway.dial()).status == 201
    assert (await gateway.dial()).status == 201

    assert len(set(sent(simulator))) == 1
    (line,) = gateway.lines.of("token.refresh_failed")
    assert (line["reason"], line["level"]) == ("other_user", "error")


async def test_the_cookie_counts_when_cookie_and_field_differ(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    cookie, other = token_of("gateway-sales"), token_of("gateway-sales")
    brought(simulator, ("ccmessaging-token", other), ("Set-Cookie", f"ccmessaging-token={cookie}"))
    await gateway.dial()

    await gateway.dial()

    assert sent(simulator)[1] == cookie


async def test_a_refusal_that_brings_the_next_token_is_sent_again_with_it(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    newer = simulator.issue_token("gateway-sales")
    simulator.fault(
        Fault("status", operation="create", status=401, headers={"Set-Cookie": f"ccmessaging-token={newer}; Path=/"})
    )

    answer = await gateway.dial()

    assert answer.status == 201
    assert statuses(simulator) == [401, 200]
    assert sent(simulator)[1] == newer
