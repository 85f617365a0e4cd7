"""`Request-Timeout`: what can't be sent in time isn't sent, and what was sent is awaited for the log and the record."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from multidict import CIMultiDict

from gateway.simulator import Fault, Simulator
from tests.calls.test_keys import durable
from tests.calls.test_whole_call import BEARER, of
from tests.described import resolved, validator
from tests.harness import Farm, until

DESCRIBED = validator(resolved({"$ref": "#/components/parameters/request-timeout"})["schema"])


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator(queue_seconds=None)


async def test_what_was_sent_is_awaited_for_the_log_and_the_record(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("delay", "create", seconds=0.5))
    headers = {"Request-Timeout": "0.1", "Idempotency-Key": "k"}

    answer = await gateway.dial(headers=headers)
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (504, "upstream-timeout", "unknown")
    assert of(gateway, "create") == []
    await until(lambda: gateway.server.api.under_way == 0)

    await until(lambda: of(gateway, "create"))
    (line,) = of(gateway, "create")
    assert (line["outcome"], line["code"], line["http.response.status_code"]) == ("accepted", "upstream-timeout", 504)
    again = await gateway.dial(headers=headers)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert len(simulator.creates()) == 1


async def test_what_waits_for_a_token_too_long_is_not_sent(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    await until(lambda: gateway.lines.of("token.refreshed"))
    simulator.fault(Fault("expire-now", "create"))
    simulator.fault(Fault("silence", "applyToken", times=None))
    before = await gateway.dial(headers={"Request-Timeout": "0.2"})
    assert before.json["outcome"] in {"unknown", "rejected"}
    creates = len(simulator.creates())

    answer = await gateway.dial(headers={"Request-Timeout": "0.2"})

    assert (answer.status, answer.json["outcome"]) == (503, "not_sent")
    assert len(simulator.creates()) == creates
    assert simulator.rings == 0
    await until(lambda: gateway.server.api.under_way == 0)


async def test_what_waits_for_a_connection_too_long_is_not_sent(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, {"upstream": {"connections": 1}})
    simulator.fault(Fault("delay", "create", seconds=0.5))
    slow = gateway.dial()
    fast = gateway.dial(headers={"Request-Timeout": "0.1"})

    first, second = await asyncio.gather(slow, fast)

    assert first.status == 201
    assert (second.status, second.json["outcome"]) == (503, "not_sent")
    await until(lambda: gateway.server.api.under_way == 0)
    assert len(simulator.creates()) == 1


async def test_what_waits_for_the_store_too_long_is_not_sent(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, durable(farm))
    # There is a connection, so that nothing but the time stands between the store and NSLB.
    await gateway.request("GET", "/dial/support", headers=BEARER)
    headers = {"Request-Timeout": "0.1", "Idempotency-Key": "k"}
    with closing(sqlite3.connect(farm.directory / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = await gateway.dial(headers=headers)
        other.execute("ROLLBACK")

    assert (answer.status, answer.json["outcome"]) == (503, "not_sent")
    await until(lambda: gateway.server.api.under_way == 0)
    assert simulator.creates() == []
    await until(lambda: of(gateway, "create"))
    (line,) = of(gateway, "create")
    assert (line["outcome"], line["http.response.status_code"]) == ("not_sent", 503)
    # The key is free: nothing was sent for it.
    assert (await gateway.dial(headers={"Idempotency-Key": "k"})).status == 201


async def test_a_request_in_time_is_answered_as_ever(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)

    answer = await gateway.dial(headers={"Request-Timeout": "5"})

    assert answer.status == 201
    await until(lambda: of(gateway, "create"))
    (line,) = of(gateway, "create")
    assert (line["outcome"], line["http.response.status_code"]) == ("accepted", 201)


async def test_a_poll_ends_when_its_caller_stops_waiting(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)
    location = (await gateway.dial()).headers["Location"]

    for accept in ("application/json", "text/event-stream"):
        headers = BEARER | {"Request-Timeout": "0.1", "Accept": accept}
        answer = await gateway.request("GET", location + "/events", headers=headers)
        if accept == "application/json":
            assert answer.status == 204
        else:
            assert answer.body == b": the caller's time is over, and the call goes on\nretry: 1000\n\n"
    await until(lambda: simulator.polls == 0)


@pytest.mark.parametrize("value", ["100000", "999999999.999999", "000000005", "5.000001"])
async def test_a_deadline_of_days_is_no_shorter_than_ours(farm: Farm, simulator: Simulator, value: str) -> None:
    gateway = await farm.gateway(simulator)

    answer = await gateway.dial(headers={"Request-Timeout": value})
    simulator.push("Call in queue")
    headers = BEARER | {"Request-Timeout": value}
    told = await gateway.request("GET", answer.headers["Location"] + "/events", headers=headers)

    assert (answer.status, told.status, told.json["status"]) == (201, 200, "queued")
    assert DESCRIBED.is_valid(value)
    assert len(simulator.creates()) == 1


async def test_two_deadlines_are_none(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)

    headers = CIMultiDict(BEARER | {"Content-Type": "application/json"})
    headers.add("Request-Timeout", "5")
    headers.add("Request-Timeout", "5")
    answer = await gateway.request("POST", "/dial", headers=headers, data=b'{"media": "voice"}')

    assert (answer.status, answer.json["code"]) == (400, "malformed-request")
    assert simulator.received == []


@pytest.mark.parametrize(
    "value",
    ["0", "0.000000", "-1", "+1", "1e3", "1e-7", "", "1,2", "1.", ".5", "nan", "inf", "\u0661", "1" * 10, "1.1234567"],
)
async def test_a_deadline_must_be_a_positive_number(farm: Farm, simulator: Simulator, value: str) -> None:
    gateway = await farm.gateway(simulator)

    answer = await gateway.dial(headers={"Request-Timeout": value})

    assert (answer.status, answer.json["code"]) == (400, "malformed-request")
    assert not DESCRIBED.is_valid(value)
    assert simulator.received == []
    await until(gateway.lines.requests)
