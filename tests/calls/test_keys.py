"""`Idempotency-Key`: the same key never makes a second call, and each caller learns what became of the first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from gateway.simulator import Fault, Simulator
from tests.harness import OTHER_KEY, Answered, Farm, Harness, digest, until

KEYED = {"Idempotency-Key": "order-17"}


def durable(farm: Farm) -> dict[str, Any]:
    """A change: a store in a file."""
    key = farm.directory / "encryption-key"
    if not key.exists():
        key.write_bytes(Fernet.generate_key())
    return {"store": {"url": f"sqlite://{farm.directory}/state.db", "encryption_keys": [{"file": str(key)}]}}


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request: pytest.FixtureRequest, farm: Farm, simulator: Simulator) -> Harness:
    return await farm.gateway(simulator, {} if request.param == "memory" else durable(farm))


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator(queue_seconds=None)


def same(one: Answered, other: Answered) -> bool:
    """Whether two answers say the same, apart from the request's own id."""
    return (one.status, one.json | {"instance": ""}) == (other.status, other.json | {"instance": ""})


async def test_an_accepted_call_is_answered_again_and_not_made_again(gateway: Harness, simulator: Simulator) -> None:
    first = await gateway.dial(headers=KEYED)
    again = await gateway.dial(headers=KEYED)

    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert len(simulator.creates()) == 1
    metrics = await gateway.metrics()
    assert metrics['gateway_idempotency_total{result="new"}'] == 1
    assert metrics['gateway_idempotency_total{result="replayed"}'] == 1
    assert [line["event"] for line in gateway.lines.requests()] == ["request.forwarded", "request.answered"]
    assert b"order-17" not in gateway.lines.raw


async def test_the_body_may_be_written_differently(gateway: Harness, simulator: Simulator) -> None:
    first = await gateway.dial({"media": "voice", "account": "sales"}, headers=KEYED)
    again = await gateway.dial(data=b'{ "account" :"sales",\n"media":"\\u0076oice"}', headers=KEYED)

    assert again.body == first.body
    assert len(simulator.creates()) == 1


async def test_a_key_with_another_request_is_refused(gateway: Harness, simulator: Simulator) -> None:
    await gateway.dial(headers=KEYED)

    for other in ({"media": "video"}, {"media": "voice", "account": "sales"}):
        answer = await gateway.dial(other, headers=KEYED)
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (
            422,
            "idempotency-key-reused",
            "not_sent",
        )
    assert len(simulator.creates()) == 1
    assert (await gateway.metrics())['gateway_idempotency_total{result="mismatch"}'] == 2


async def test_a_key_belongs_to_its_service(farm: Farm, simulator: Simulator) -> None:
    crm = {"services": {"crm": {"accounts": ["sales"], "credentials": [{"api_key": digest(OTHER_KEY)}]}}}
    gateway = await farm.gateway(simulator, crm)

    answers = [await gateway.dial(headers=KEYED), await gateway.dial(headers=KEYED, key=OTHER_KEY)]

    assert [answer.status for answer in answers] == [201, 201]
    assert answers[0].json["id"] != answers[1].json["id"]
    assert len(simulator.creates()) == 2


async def test_while_the_first_runs_the_others_are_told_to_wait(gateway: Harness, simulator: Simulator) -> None:
    simulator.fault(Fault("delay", "create", seconds=0.3))
    first = asyncio.create_task(gateway.dial(headers=KEYED))
    await until(simulator.creates)

    others = await asyncio.gather(*(gateway.dial(headers=KEYED) for _ in range(5)))

    for answer in others:
        assert (answer.status, answer.json["code"]) == (409, "idempotency-in-progress")
        assert answer.headers["Retry-After"] == "1"
    assert (await first).status == 201
    assert (await gateway.dial(headers=KEYED)).body == (await first).body
    assert len(simulator.creates()) == 1


async def test_many_at_once_make_one_call(gateway: Harness, simulator: Simulator) -> None:
    answers = await asyncio.gather(*(gateway.dial(headers=KEYED) for _ in range(50)))

    assert len(simulator.creates()) == 1
    assert {answer.status for answer in answers} <= {201, 409}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("result-code", "create", code="13"), "no-agent-available"),
        (Fault("result-code", "create", code="7"), "upstream-rejected"),
        (Fault("status", "create", status=404), "upstream-rejected"),
        (Fault("reset-accept"), "upstream-unreachable"),
    ],
)
async def test_what_was_not_done_leaves_the_key_free(
    gateway: Harness, simulator: Simulator, fault: Fault, code: str
) -> None:
    simulator.fault(fault)

    first = await gateway.dial(headers=KEYED)
    # Even for another request: nothing is kept of the first.
    second = await gateway.dial({"media": "video"}, headers=KEYED)

    assert first.json["code"] == code
    assert second.status == 201
    assert simulator.rings == 1


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (Fault("close-request", "create"), "upstream-disconnected", 502),
        (Fault("garbage", "create", data="rubbish"), "upstream-invalid-response", 502),
        (Fault("status", "create", status=502), "upstream-invalid-response", 502),
        (Fault("silence", "create"), "upstream-timeout", 504),
    ],
)
async def test_unknown_stays_unknown(farm: Farm, simulator: Simulator, fault: Fault, code: str, status: int) -> None:
    gateway = await farm.gateway(simulator, durable(farm), {"upstream": {"timeouts": {"response": 0.3}}})
    simulator.fault(fault)

    first = await gateway.dial(headers=KEYED)
    again = [await gateway.dial(headers=KEYED) for _ in range(2)]

    assert (first.status, first.json["code"], first.json["outcome"]) == (status, code, "unknown")
    for answer in again:
        assert same(answer, first)
        assert answer.headers["Idempotency-Replayed"] == "true"
    assert len(simulator.creates()) == 1


async def test_a_fault_of_ours_leaves_no_key_behind(gateway: Harness, simulator: Simulator) -> None:
    refused = await gateway.dial({"media": "voice", "account": "other"}, headers=KEYED)
    malformed = await gateway.dial({"media": "smoke"}, headers=KEYED)

    assert (refused.status, malformed.status) == (403, 400)
    assert (await gateway.dial(headers=KEYED)).status == 201
    assert len(simulator.creates()) == 1


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "caf\u00e9"])
async def test_a_key_must_be_visible_ascii(gateway: Harness, simulator: Simulator, key: str) -> None:
    answer = await gateway.dial(headers={"Idempotency-Key": key})

    assert (answer.status, answer.json["code"]) == (400, "malformed-request")
    assert simulator.received == []


async def test_two_keys_are_refused(gateway: Harness, simulator: Simulator) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a"), ("Content-Type", "application/json")]
    async with gateway.session.post(
        gateway.base + "/dial",
        headers=[*headers, ("X-API-Key", "dgw_" + "k" * 43)],
        data=b'{"media": "voice"}',
    ) as response:
        assert response.status == 400
    assert simulator.received == []


async def test_a_service_can_be_made_to_send_keys(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, {"services": {"billing": {"require_idempotency_key": True}}})

    without = await gateway.dial()

    assert (without.status, without.json["code"]) == (400, "malformed-request")
    assert simulator.received == []
    assert (await gateway.dial(headers=KEYED)).status == 201


async def test_without_the_store_a_request_with_a_key_is_refused_and_one_without_goes_on(
    farm: Farm, simulator: Simulator
) -> None:
    gateway = await farm.gateway(simulator, durable(farm))
    file: Path = farm.directory / "state.db"
    file.unlink()
    file.mkdir()

    with_key = await gateway.dial(headers=KEYED)
    without = await gateway.dial()

    assert (with_key.status, with_key.json["code"], with_key.json["outcome"]) == (503, "store-unavailable", "not_sent")
    assert with_key.headers["Retry-After"] == "1"
    assert without.status == 201
    assert len(simulator.creates()) == 1
    # When it is back it learns of that call, and the key is free.
    file.rmdir()
    await until(lambda: gateway.lines.of("store.available"))
    assert (await gateway.dial(headers=KEYED)).status == 201


async def test_the_log_says_at_the_start_what_does_not_survive_a_restart(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)
    lasting = await farm.gateway(simulator, durable(farm))

    assert [line["kind"] for line in gateway.lines.of("store.volatile")] == ["memory"]
    assert lasting.lines.of("store.volatile") == []


async def test_another_replica_and_a_later_process_know_the_key(farm: Farm, simulator: Simulator) -> None:
    token = simulator.issue_token("gateway-sales")
    one = await farm.gateway(simulator, durable(farm), token=token)
    two = await farm.gateway(simulator, durable(farm), token=token)
    first = await one.dial(headers=KEYED)

    assert (await two.dial(headers=KEYED)).body == first.body
    await one.server.drain()
    await two.server.drain()
    three = await farm.gateway(simulator, durable(farm), token=token)

    again = await three.dial(headers=KEYED)
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(simulator.creates()) == 1


async def test_a_caller_that_hangs_up_finds_its_call_under_the_key(gateway: Harness, simulator: Simulator) -> None:
    simulator.fault(Fault("delay", "create", seconds=0.2))
    caller = asyncio.create_task(gateway.dial(headers=KEYED))
    await until(simulator.creates)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await until(lambda: gateway.server.api.under_way == 0)

    again = await gateway.dial(headers=KEYED)

    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert len(simulator.creates()) == 1
