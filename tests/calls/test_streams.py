"""Streams whose readers are in a hurry, slow, or gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from gateway.simulator import Fault, Simulator
from tests.calls.test_whole_call import STREAM, dialled, of, unread
from tests.harness import Answered, Farm, Harness, until

HURRIED = STREAM | {"Request-Timeout": "0.1"}


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    """Nothing happens to a call unless it is pushed."""
    return await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None, poll_seconds=5.0)


@pytest.fixture
async def gateway(farm: Farm, simulator: Simulator) -> Harness:
    return await farm.gateway(simulator, {"upstream": {"timeouts": {"response": 3}}})


@pytest.fixture
async def location(gateway: Harness) -> str:
    return await dialled(gateway)


# --- while another call is being made, nobody knows which one NSLB means


@pytest.fixture
async def dialling(gateway: Harness, simulator: Simulator, location: str) -> AsyncIterator[asyncio.Task[Answered]]:
    """Another call on the account of that one, that NSLB does not answer."""
    assert location
    simulator.fault(Fault("silence", "create"))
    task = asyncio.create_task(gateway.dial())
    await until(lambda: len(simulator.creates()) == 2)
    yield task
    assert (await task).json["outcome"] == "unknown"


async def test_a_stream_that_can_not_begin_yet_ends_with_its_readers_time(
    gateway: Harness, location: str, dialling: asyncio.Task[Answered]
) -> None:
    answer = await gateway.request("GET", location + "/events", headers=HURRIED)

    assert answer.body == b": the caller's time is over, and the call goes on\nretry: 1000\n\n"
    assert not dialling.done()


async def test_a_stream_that_can_not_begin_yet_ends_with_its_reader(
    gateway: Harness, location: str, dialling: asyncio.Task[Answered]
) -> None:
    reading = asyncio.create_task(gateway.request("GET", location + "/events", headers=STREAM))
    await until(lambda: gateway.server.api.under_way == 2)

    reading.cancel()

    await until(lambda: of(gateway, "events"))
    assert gateway.server.api.under_way == 1
    assert not dialling.done()
    assert gateway.lines.of("internal.fault") == []


async def test_a_stream_that_can_not_begin_yet_does_not_hold_a_gateway_that_stops(
    gateway: Harness, location: str, dialling: asyncio.Task[Answered]
) -> None:
    reading = asyncio.create_task(gateway.request("GET", location + "/events", headers=STREAM))
    await until(lambda: gateway.server.api.under_way == 2)

    gateway.server.api.begin_draining()

    answer = await reading
    assert answer.body == b": the gateway stops here, and the call goes on\nretry: 1000\n\n"
    assert not dialling.done()


# --- a reader that does not read


async def test_a_reader_that_resets_its_stream_instead_of_reading_it_has_left(
    gateway: Harness, simulator: Simulator, location: str
) -> None:
    reader, writer = await unread(gateway, simulator, location)

    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

    await until(lambda: of(gateway, "events"))
    (line,) = of(gateway, "events")
    assert (line["http.response.status_code"], line["outcome"]) == (200, "accepted")
    assert gateway.lines.of("internal.fault") == []
    await until(lambda: simulator.polls == 0)
    del reader
