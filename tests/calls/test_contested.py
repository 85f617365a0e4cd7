"""Several calls of one account: NSLB's events and releases name no call, so nothing is done to the wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.simulator import Fault, Simulator
from tests.calls.test_keys import durable
from tests.calls.test_whole_call import BEARER, STREAM, Stream, delete, dialled, get, operations, push
from tests.harness import Farm, Harness, until


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    """Nothing happens to a call unless it is pushed."""
    return await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None, poll_seconds=5.0)


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request: pytest.FixtureRequest, farm: Farm, simulator: Simulator) -> Harness:
    change: Mapping[str, Any] = durable(farm) if request.param == "sqlite" else {}
    return await farm.gateway(simulator, change)


async def until_created(simulator: Simulator, count: int) -> None:
    await until(lambda: len(simulator.creates()) == count)


async def test_a_release_waits_for_a_call_that_is_being_made_and_ends_none_but_its_own(
    gateway: Harness, simulator: Simulator
) -> None:
    first = await dialled(gateway)
    simulator.fault(Fault("delay", "create", seconds=0.3))
    second = asyncio.create_task(gateway.dial())
    await until_created(simulator, 2)

    released = await delete(gateway, first)

    assert (released.status, released.json["code"], released.json["outcome"]) == (409, "call-superseded", "not_sent")
    assert (await second).status == 201
    assert "drop" not in operations(simulator)


async def test_a_release_goes_on_after_a_call_that_was_not_made(gateway: Harness, simulator: Simulator) -> None:
    first = await dialled(gateway)
    simulator.fault(Fault("result-code", "create", code="13", delay=0.3))
    second = asyncio.create_task(gateway.dial())
    await until_created(simulator, 2)

    released = await delete(gateway, first)

    assert (await second).json["outcome"] == "rejected"
    assert (released.status, released.json["status"]) == (200, "ended")
    assert operations(simulator).count("drop") == 1


async def test_an_event_while_another_call_is_refused_is_of_the_one_there_is(
    gateway: Harness, simulator: Simulator
) -> None:
    first = await dialled(gateway)
    async with Stream(gateway, first) as stream:
        await until(lambda: simulator.polls == 1)
        simulator.fault(Fault("result-code", "create", code="13", delay=0.3))
        second = asyncio.create_task(gateway.dial())
        await until_created(simulator, 2)
        push(simulator, "Call connected")

        assert (await stream.event())["event"] == "connected"
        assert (await second).json["outcome"] == "rejected"


async def test_a_call_that_may_have_been_made_is_the_one_that_is_meant(gateway: Harness, simulator: Simulator) -> None:
    first = await dialled(gateway)
    simulator.fault(Fault("close-request", "create"))
    assert (await gateway.dial()).json["outcome"] == "unknown"
    push(simulator, "Call connected")

    released = await delete(gateway, first)
    events = await get(gateway, first + "/events")

    assert simulator.rings == 2
    assert (released.status, released.json["code"]) == (409, "call-superseded")
    assert (events.status, events.json["code"]) == (409, "call-superseded")
    assert "drop" not in operations(simulator)
    assert (await get(gateway, first)).json["status"] == "accepted"


async def test_releasing_a_call_that_ended_unseen_is_no_failure(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    for description in ("Call in queue", "Call connected", "Call disconnected"):
        push(simulator, description)

    released = await delete(gateway, location)

    assert (released.status, released.json["status"]) == (200, "ended")
    assert operations(simulator).count("drop") == 1
    events = [await get(gateway, location + "/events", BEARER | {"Last-Event-ID": str(number)}) for number in range(3)]
    assert [event.json["status"] for event in events] == ["queued", "connected", "ended"]


async def test_a_release_that_nslb_refuses_for_another_reason_is_told(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    simulator.fault(Fault("result-code", "drop", code="13"))

    released = await delete(gateway, location)

    assert (released.status, released.json["outcome"], released.json["result_code"]) == (502, "rejected", "13")
    assert (await get(gateway, location)).json["status"] == "accepted"


async def test_a_stream_has_heartbeats_however_short_the_polls_are(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=None, poll_seconds=0.5)
    gateway = await farm.gateway(simulator)
    async with Stream(gateway, await dialled(gateway)) as stream:
        assert await stream.block() == [": heartbeat"]
    assert operations(simulator).count("events") >= 10


async def test_a_caller_that_sends_much_behind_a_stream_is_cut_off(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)
    location = await dialled(gateway)
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = "".join(f"{name}: {value}\r\n" for name, value in (STREAM | {"Host": "a"}).items())
    writer.write(f"GET {location}/events HTTP/1.1\r\n{fields}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: simulator.polls == 1)

    writer.write(
        b"GET /dial/support HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % BEARER["Authorization"].encode() * 50
    )

    await reader.read()
    writer.close()
    await until(lambda: simulator.polls == 0)
    assert "check" not in operations(simulator)
