"""Tokens that the gateway applies for: early, once for all who wait, and never one that is over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from typing import Any

import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import Farm, Harness, until

BY_AK_SK = "/apigovernance/api/oauth/tokenByAkSk"
APPLY = "/apiaccess/ccmessaging/applyToken"


def asked(simulator: Simulator) -> tuple[int, int]:
    """How often the fabric was asked for an AccessToken, and for a token."""
    operations = [request.operation for request in simulator.fabric_received]
    return operations.count("tokenByAkSk"), operations.count("applyToken")


def statuses(simulator: Simulator) -> list[int | None]:
    return [request.status for request in simulator.creates()]


def tokens_sent(simulator: Simulator) -> list[str]:
    """The token of each create, in order."""
    return [request.cookies()["ccmessaging-token"] for request in simulator.creates()]


async def have_token(gateway: Harness, generation: int = 0) -> int:
    """Wait until the account has a usable token newer than that; its generation."""
    account = gateway.server._gateway.roster.accounts["sales"]
    await until(lambda: account.credential() is not None and account.generation > generation)
    return account.generation


async def test_a_gateway_that_has_an_app_key_alone_places_calls(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator, user_name="Sales \u00e4", locale="en_US"))

    answers = [await gateway.dial() for _ in range(3)]

    assert [answer.status for answer in answers] == [201] * 3
    assert asked(simulator) == (1, 1)
    access, application = simulator.fabric_received
    assert (access.method, access.target) == ("POST", BY_AK_SK)
    assert json.loads(access.body) == {"app_key": "simulated-app", "app_secret": "simulated-secret"}
    assert access.fields("content-type") == ["application/json"]
    assert access.fields("x-token-expire") == ["600"]
    assert (application.method, application.target) == ("POST", APPLY)
    assert json.loads(application.body) == {
        "userId": "gateway-sales",
        "userName": "Sales \u00e4",
        "channelId": "2023",
        "locale": "en_US",
    }
    assert application.fields("content-type") == ["application/json; charset=UTF-8"]
    assert application.fields("x-app-key") == ["simulated-app"]
    assert len(application.fields("authorization")) == 1
    assert application.fields("cookie") == []
    assert set(tokens_sent(simulator)) == {simulator.tokens.current("gateway-sales")}
    (line,) = gateway.lines.of("token.refreshed")
    assert (line["account"], line["trigger"], line["level"]) == ("sales", "start", "info")
    (status,) = gateway.server.status()["accounts"]
    assert (status["source"], status["state"], status["usable"]) == ("apply_token", "fresh", True)
    assert status["last_refresh"]["result"] == "success"
    assert status["token_expires"].endswith("Z")
    metrics = await gateway.metrics()
    assert metrics['gateway_token_refreshes_total{account="sales",result="success",trigger="start"}'] == 1
    assert metrics["gateway_token_refresh_duration_seconds_count"] == 1
    assert metrics['gateway_token_expiry_timestamp_seconds{account="sales"}'] > 3500


async def test_a_whole_life_of_short_tokens_under_load_loses_no_call_and_refuses_none(farm: Farm) -> None:
    simulator = await farm.simulator(token_lifetime=1.0)
    gateway = await farm.gateway(simulator, farm.applied(simulator, lifetime_seconds=1.0))
    await have_token(gateway)
    done = False
    answers: list[int] = []

    async def load() -> None:
        while not done:
            answers.append((await gateway.dial()).status)
            await asyncio.sleep(0.002)

    callers = [asyncio.create_task(load()) for _ in range(4)]
    await until(lambda: asked(simulator)[1] >= 7, turns=4000)
    done = True
    await asyncio.gather(*callers)

    assert set(answers) == {201}
    assert len(answers) > 50
    refreshed = gateway.lines.of("token.refreshed")
    assert [line["trigger"] for line in refreshed] == ["start"] + ["early"] * (len(refreshed) - 1)
    # A request that was under way while the fabric made the next token may meet a 401, and is sent again.
    assert statuses(simulator).count(401) <= 4 * len(refreshed)
    assert {"token expired"} & {request.refusal for request in simulator.creates()} == set()
    sent = tokens_sent(simulator)
    assert len(set(sent)) >= 6


async def test_no_request_waits_for_a_refresh_while_the_present_token_holds(farm: Farm) -> None:
    simulator = await farm.simulator(token_lifetime=60.0)
    gateway = await farm.gateway(simulator, farm.applied(simulator, lifetime_seconds=4.0))
    await have_token(gateway)
    simulator.fault(Fault("status", operation="applyToken", times=None, status=500, delay=3.0))
    await until(lambda: simulator.fabric_received[2:])
    assert gateway.server.status()["accounts"][0]["usable"]

    answer = await gateway.dial()

    assert answer.status == 201
    assert gateway.server.status()["accounts"][0]["state"] == "refreshing"
    assert asked(simulator) == (1, 2)
    assert statuses(simulator) == [200]


async def test_many_requests_meet_a_refused_token_at_once_and_one_refresh_serves_them_all(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    await have_token(gateway)
    simulator.expire()

    answers = await asyncio.gather(*(gateway.dial() for _ in range(50)))

    assert {answer.status for answer in answers} == {201}
    assert asked(simulator)[1] == 2
    assert statuses(simulator).count(200) == 50
    assert len(simulator.creates()) <= 100
    assert max(line["attempts"] for line in gateway.lines.requests()) <= 2
    sent = tokens_sent(simulator)
    # Whoever had not been sent yet when the first 401 came was sent with the new one.
    assert sent == sorted(sent, key=[*dict.fromkeys(sent)].index)


async def test_a_token_whose_time_is_over_is_never_sent(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator, lifetime_seconds=0.6))
    await have_token(gateway)
    simulator.fault(Fault("status", operation="tokenByAkSk", times=None, status=500))
    simulator.fault(Fault("status", operation="applyToken", times=None, status=500))
    account = gateway.server._gateway.roster.accounts["sales"]
    await until(lambda: account.credential() is None)

    answer = await gateway.dial()

    # NSLB would still take it, which the gateway can't know.
    assert simulator.creates() == []
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "token-unavailable", "not_sent")
    assert int(answer.headers["Retry-After"]) == answer.json["retry_after"] >= 1
    (line,) = gateway.lines.requests()
    assert (line["event"], line["code"], line["account"]) == ("request.refused", "token-unavailable", "sales")
    assert gateway.server.status()["accounts"][0]["state"] in {"failed", "refreshing"}
    simulator.clear_faults()
    await have_token(gateway)
    assert (await gateway.dial()).status == 201


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([Fault("status", "tokenByAkSk", None, status=500)], "wrong_status"),
        ([Fault("status", "tokenByAkSk", None, status=401)], "refused"),
        ([Fault("status", "applyToken", None, status=500)], "wrong_status"),
        ([Fault("status", "applyToken", None, status=403, body='{"exceptionInfo": "no"}')], "refused"),
        ([Fault("status", "applyToken", None, status=200, body="")], "invalid_answer"),
        ([Fault("status", "applyToken", None, status=200, body="[1]")], "invalid_answer"),
        ([Fault("status", "applyToken", None, status=200, body='{"resultCode": "0"}')], "invalid_answer"),
        ([Fault("status", "applyToken", None, status=200, body='{"resultCode": 0, "token": "a"}')], "invalid_answer"),
        ([Fault("status", "applyToken", None, status=200, body='{"resultCode": "0", "token": ""}')], "invalid_answer"),
        (
            [Fault("status", "applyToken", None, status=200, body='{"resultCode": "0", "token": "a;b"}')],
            "invalid_answer",
        ),
        ([Fault("status", "applyToken", None, status=200, body='{"resultCode": "1", "token": "a"}')], "rejected"),
        ([Fault("status", "tokenByAkSk", None, status=200, body='{"AccessToken": "a"}')], "invalid_answer"),
        (
            [Fault("status", "tokenByAkSk", None, status=200, body='{"AccessToken": "a b", "Expires": "600"}')],
            "invalid_answer",
        ),
        (
            [Fault("status", "tokenByAkSk", None, status=200, body='{"AccessToken": "a", "Expires": "nan"}')],
            "invalid_answer",
        ),
        ([Fault("not-json", "applyToken", None)], "invalid_answer"),
        ([Fault("oversize", "applyToken", None)], "invalid_answer"),
        ([Fault("redirect", "applyToken", None, location="https://127.0.0.1:1/")], "wrong_status"),
        ([Fault("garbage", "applyToken", None)], "invalid_answer"),
        ([Fault("reset-request", "applyToken", None)], "unreachable"),
        # The fabric has made a token, which ended ours, and nobody got it: the call waits for the next one.
        ([Fault("truncated", "applyToken")], "unreachable"),
        ([Fault("reset-answer", "applyToken")], "unreachable"),
        ([Fault("reset-accept", "fabric", None)], "unreachable"),
        ([Fault("reset-handshake", "fabric", None)], "unreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0].kind}-{value[0].operation}",
)
async def test_whatever_the_fabric_does_wrong_calls_go_on_and_it_is_asked_again_later(
    farm: Farm, faults: list[Fault], reason: str
) -> None:
    simulator = await farm.simulator(token_lifetime=600.0)
    gateway = await farm.gateway(simulator, farm.applied(simulator, lifetime_seconds=600.0))
    first = await have_token(gateway)
    account = gateway.server._gateway.roster.accounts["sales"]
    for fault in faults:
        simulator.fault(fault)
    simulator.fabric.expire_access_tokens()
    account.source.fabric._access = None  # type: ignore[attr-defined]  # as after a tenth of an hour
    before = asked(simulator)
    account._life.lasts = 1200.0  # half of it is over, then
    account.tend()
    await until(lambda: gateway.lines.of("token.refresh_failed"))

    assert account.generation == first
    assert sum(asked(simulator)) - sum(before) <= 4
    (line,) = gateway.lines.of("token.refresh_failed")
    assert (line["reason"], line["trigger"], line["level"]) == (reason, "early", "warning")
    assert 1 <= line["retry_in"] <= 2
    assert (await gateway.dial()).status == 201
    metrics = await gateway.metrics()
    assert metrics['gateway_token_refreshes_total{account="sales",result="failure",trigger="early"}'] == 1


async def test_when_the_fabric_is_back_the_next_token_comes_by_itself(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator, lifetime_seconds=8.0))
    first = await have_token(gateway)
    simulator.fault(Fault("reset-handshake", "fabric", None))
    await until(lambda: len(gateway.lines.of("token.refresh_failed")) == 2, turns=4000)
    assert (await gateway.dial()).status == 201
    simulator.clear_faults()

    await have_token(gateway, first)

    assert gateway.server.status()["accounts"][0]["usable"]
    assert (await gateway.dial()).status == 201
    assert statuses(simulator) == [200, 200]


@pytest.mark.parametrize("status", [401, 403])
async def test_an_access_token_that_is_over_is_replaced_once(farm: Farm, status: int) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    first = await have_token(gateway)
    if status == 403:
        simulator.fabric.expire_access_tokens()
    else:
        simulator.fault(Fault("status", operation="applyToken", status=401))
    simulator.expire()

    assert (await gateway.dial()).status == 201
    assert asked(simulator) == (2, 3)
    assert await have_token(gateway, first)

    simulator.fault(
        Fault("status", operation="applyToken", times=None, status=status, body='{"exceptionInfo": "auth fail! x"}')
    )
    simulator.expire()
    waiting = asyncio.create_task(gateway.dial())
    await until(lambda: gateway.lines.of("token.refresh_failed"))

    # Not a third time at once: a fabric that refuses a new AccessToken refuses the next as well.
    assert asked(simulator) == (3, 5)
    assert (await waiting).json["code"] == "upstream-credential-rejected"


async def test_an_access_token_is_used_until_shortly_before_its_end(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    generation = await have_token(gateway)
    for _ in range(3):
        simulator.expire()
        assert (await gateway.dial()).status == 201
        generation = await have_token(gateway, generation)

    assert asked(simulator) == (1, 4)


async def test_an_account_without_a_token_says_so_until_it_has_one(farm: Farm) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("status", operation="tokenByAkSk", times=None, status=500))
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    assert (await gateway.operators("/startupz")).status == 200
    assert (await gateway.operators("/readyz")).status == 503
    await until(lambda: gateway.lines.of("token.refresh_failed"))

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "token-unavailable", "not_sent")
    assert answer.headers["Retry-After"] in {"1", "2", "3", "4"}
    assert simulator.received == []
    simulator.clear_faults()
    await have_token(gateway)
    assert (await gateway.operators("/readyz")).status == 200
    simulator.expire()
    simulator.fault(Fault("status", operation="applyToken", times=None, status=500))
    await gateway.dial()
    # What becomes of tokens later is the upstream's health.
    assert (await gateway.operators("/readyz")).status == 200


async def test_requests_that_come_before_the_first_token_wait_for_it(farm: Farm) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("delay", operation="applyToken", seconds=0.3))
    gateway = await farm.gateway(simulator, farm.applied(simulator))

    answers = await asyncio.gather(*(gateway.dial() for _ in range(10)))

    assert {answer.status for answer in answers} == {201}
    assert asked(simulator) == (1, 1)
    assert statuses(simulator) == [200] * 10


async def test_a_slow_fabric_is_given_up_in_time(farm: Farm) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("silence", operation="applyToken", times=1))
    gateway = await farm.gateway(simulator, farm.applied(simulator, timeout_seconds=0.2))

    answer = await gateway.dial()

    # It waited for the second try, because that comes soon.
    assert answer.status == 201
    assert [line["reason"] for line in gateway.lines.of("token.refresh_failed")] == ["timeout"]
    assert asked(simulator) == (1, 2)


async def test_tokens_that_nslb_always_refuses_do_not_become_a_flood_at_the_fabric(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    simulator.fault(Fault("status", operation="create", times=None, status=401))

    answers = [await gateway.dial() for _ in range(60)]

    codes = [answer.json["code"] for answer in answers]
    assert set(codes) == {"upstream-credential-rejected", "token-unavailable"}
    assert codes[0] == "upstream-credential-rejected"
    assert codes[-1] == "token-unavailable"
    assert simulator.rings == 0
    assert asked(simulator)[1] <= 13


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"server_name": "other.example"}, "untrusted"),
        ({"pins": ["sha256:" + "ab" * 32]}, "untrusted"),
        ({"ca": None}, "untrusted"),
    ],
)
async def test_a_fabric_that_cannot_be_trusted_never_sees_the_secret(
    farm: Farm, change: dict[str, Any], reason: str
) -> None:
    simulator = await farm.simulator()
    applied = farm.applied(simulator)
    applied["accounts"]["sales"]["apply_token"]["tls"] |= change

    gateway = await farm.gateway(simulator, applied)

    await until(lambda: gateway.lines.of("token.refresh_failed"))
    assert gateway.lines.of("token.refresh_failed")[0]["reason"] == reason
    assert simulator.fabric_received == []
    assert (await gateway.dial()).json["code"] == "token-unavailable"
    assert simulator.received == []


async def test_the_pinned_certificate_of_the_fabric_is_taken(farm: Farm) -> None:
    simulator = await farm.simulator()
    host, _, port = simulator.fabric_url.removeprefix("https://").partition(":")
    certificate = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
    applied = farm.applied(simulator)
    applied["accounts"]["sales"]["apply_token"]["tls"]["pins"] = [f"sha256:{pin}"]

    gateway = await farm.gateway(simulator, applied)

    assert (await gateway.dial()).status == 201
