"""The process is killed in every phase of a dial with a key, and no phone rings twice for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import Answered, Farm, until
from tests.lasting import Gateways, Lasting, gateways, lasting, lost, until_sampled
from tests.running import Process

CALL = "order-17"
# Nothing of it may end while a test holds the process where it is.
PATIENT = {"upstream": {"timeouts": {"connect": 60, "response": 60}}}
EXCLUSIVE = {"accounts": {"sales": {"exclusive": True}}}


@pytest.fixture(params=["sqlite", "redis"])
async def store(request: pytest.FixtureRequest, farm: Farm, unused_tcp_port: int) -> AsyncIterator[Lasting]:
    async with lasting(request.param, farm.directory, unused_tcp_port) as made:
        yield made


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    """Nothing happens to a call unless it is pushed."""
    return await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None)


def running(
    farm: Farm, simulator: Simulator, store: Lasting, *changes: dict[str, Any]
) -> contextlib.AbstractAsyncContextManager[Gateways]:
    return gateways(farm, simulator, store.url, 1, PATIENT, *changes)


def caller(made: Gateways, key: str = CALL) -> asyncio.Task[Answered]:
    """Somebody dials with a key, and waits."""
    return asyncio.create_task(made.dial(made.running[0], key))


async def until_recorded(store: Lasting) -> None:
    while not await store.keys():
        await asyncio.sleep(0.01)


async def until_answered(made: Gateways, process: Process) -> None:
    """Wait until a gateway has read the one answer that it waits for: its connection to NSLB is free again."""
    connections: dict[str, int] = {}
    while connections.get("idle") != 1:
        await asyncio.sleep(0.01)
        (endpoint,) = (await made.status(process))["endpoints"]
        connections = endpoint["connections"]


def busy(answer: Answered) -> bool:
    told = answer.json
    return (answer.status, told.get("code"), told["outcome"]) == (503, "account-busy", "not_sent")


async def the_call_is_unknown_for_ever(made: Gateways, process: Process, creates: int) -> None:
    """Whoever repeats the request learns at once that nobody knows, and nothing more is sent."""
    for _ in range(3):
        async with asyncio.timeout(5):
            answer = await made.dial(process, CALL)
        told = answer.json
        assert (answer.status, told["code"], told["outcome"]) == (504, "outcome-unknown", "unknown")
    assert len(made.simulator.creates()) == creates
    assert made.simulator.rings == creates


async def test_killed_before_the_record_the_key_is_free(farm: Farm, simulator: Simulator, store: Lasting) -> None:
    async with running(farm, simulator, store) as made:
        (process,) = made.running
        async with store.held_up():
            waiting = caller(made)
            await until_sampled(made, process, 'gateway_store_operations_total{operation="get",result="success"}')
            await made.kill(process)
        # It waits for the store for a second or two only, and the test may have been slower.
        await lost(waiting, or_refused="store-unavailable")
        assert await store.keys() == 0
        assert simulator.connections == 0

        (process,) = await made.start()
        first, again = await made.dial(process, CALL), await made.dial(process, CALL)

        assert (first.status, again.status) == (201, 201)
        assert "Idempotency-Replayed" not in first.headers
        assert again.body == first.body
        assert len(simulator.creates()) == simulator.rings == 1


async def test_killed_between_the_record_and_the_token_nothing_is_sent_and_the_store_knows_at_once(
    farm: Farm, simulator: Simulator, store: Lasting
) -> None:
    simulator.fault(Fault("silence", "applyToken"))
    async with running(farm, simulator, store, farm.applied(simulator, timeout_seconds=60)) as made:
        waiting = caller(made)
        await until_recorded(store)
        await until(lambda: [asked.operation for asked in simulator.fabric_received].count("applyToken") == 1)
        simulator.clear_faults()

        process = await made.restart()
        await lost(waiting)

        await the_call_is_unknown_for_ever(made, process, creates=0)
        assert simulator.received == []


async def test_killed_while_it_connects_nothing_was_sent_and_the_call_is_unknown(
    farm: Farm, simulator: Simulator, store: Lasting
) -> None:
    accepted: list[asyncio.StreamWriter] = []

    async def never_shake_hands(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)

    silent = await asyncio.start_server(never_shake_hands, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    endpoints = {"upstream": {"endpoints": [f"https://127.0.0.1:{port}", *simulator.endpoints]}}
    try:
        async with running(farm, simulator, store, endpoints) as made:
            waiting = caller(made)
            await until(lambda: accepted)
            assert await store.keys() == 1
            process = await made.restart()
            await lost(waiting)

            await the_call_is_unknown_for_ever(made, process, creates=0)
            assert len(accepted) == 1
    finally:
        silent.close()
        for writer in accepted:
            writer.close()


async def test_killed_before_the_answer_the_call_is_unknown_and_rings_once(
    farm: Farm, simulator: Simulator, store: Lasting
) -> None:
    simulator.fault(Fault("silence", "create"))
    async with running(farm, simulator, store, EXCLUSIVE) as made:
        waiting = caller(made)
        await until(lambda: simulator.rings == 1)
        process = await made.restart()
        await lost(waiting)

        # Nor may another call be made on the account: it may have that one.
        assert busy(await made.dial(process, "order-18"))
        await the_call_is_unknown_for_ever(made, process, creates=1)


async def test_killed_before_the_answer_is_recorded_the_call_is_unknown_and_rings_once(
    farm: Farm, simulator: Simulator, store: Lasting
) -> None:
    simulator.fault(Fault("delay", "create", seconds=0.8))
    async with running(farm, simulator, store) as made:
        (process,) = made.running
        waiting = caller(made)
        await until(lambda: simulator.rings == 1)
        async with store.held_up():
            await until_answered(made, process)
            assert await store.keys() == 1
            assert not waiting.done()
            await made.kill(process)
        await lost(waiting)

        (process,) = await made.start()
        await the_call_is_unknown_for_ever(made, process, creates=1)


async def test_killed_before_the_caller_has_the_answer_it_is_told_later(
    farm: Farm, simulator: Simulator, store: Lasting
) -> None:
    simulator.fault(Fault("delay", "create", seconds=0.3))
    async with running(farm, simulator, store) as made:
        (process,) = made.running
        hasty = caller(made)
        await until(lambda: simulator.rings == 1)
        hasty.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hasty
        while (recorded := await made.dial(process, CALL)).status == 409:
            await asyncio.sleep(0.01)
        assert recorded.status == 201

        process = await made.restart()
        again = await made.dial(process, CALL)

        assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
        assert again.body == recorded.body
        call = await made.request(process, "GET", again.headers["Location"])
        assert (call.status, call.json) == (200, again.json)
        assert len(simulator.creates()) == simulator.rings == 1


async def test_killed_after_the_answer_it_is_given_again(farm: Farm, simulator: Simulator, store: Lasting) -> None:
    async with running(farm, simulator, store) as made:
        first = await made.dial(made.running[0], CALL)
        process = await made.restart()
        again = await made.dial(process, CALL)
        another = await made.dial(process, "order-18")

        assert (first.status, again.status, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
        assert again.body == first.body
        assert again.headers["Location"] == first.headers["Location"]
        assert (another.status, another.json["id"] != first.json["id"]) == (201, True)
        assert len(simulator.creates()) == simulator.rings == 2


async def test_an_exclusive_account_is_busy_after_a_crash_until_its_call_is_released(
    farm: Farm, simulator: Simulator, store: Lasting
) -> None:
    async with running(farm, simulator, store, EXCLUSIVE) as made:
        first = await made.dial(made.running[0], CALL)
        process = await made.restart()
        for key in ("order-18", None):
            assert busy(await made.dial(process, key))
        assert len(simulator.creates()) == 1

        released = await made.request(process, "DELETE", first.headers["Location"])
        second = await made.dial(process, "order-18")

        assert (released.status, released.json["status"]) == (200, "ended")
        assert second.status == 201
        assert [request.operation for request in simulator.received] == ["create", "drop", "create"]
        assert (await made.dial(process, CALL)).body == first.body
        assert simulator.rings == 2


async def test_a_call_is_followed_and_released_after_a_crash(farm: Farm, simulator: Simulator, store: Lasting) -> None:
    async with running(farm, simulator, store) as made:
        (process,) = made.running
        location = (await made.dial(process, CALL)).headers["Location"]
        simulator.push("Call in queue")
        queued = await made.request(process, "GET", location + "/events")
        assert queued.json["status"] == "queued"
        reader = asyncio.create_task(made.request(process, "GET", location + "/events"))
        await until(lambda: simulator.polls == 1)
        process = await made.restart()
        with pytest.raises(aiohttp.ClientError):
            await reader
        await until(lambda: simulator.polls == 0)

        state = await made.request(process, "GET", location)
        reader = asyncio.create_task(made.request(process, "GET", location + "/events"))
        await until(lambda: simulator.polls == 1)
        simulator.push("Call connected")
        connected = await reader
        released = await made.request(process, "DELETE", location)

        # The event of before is known, and not told again.
        assert state.json["status"] == "queued"
        assert (connected.status, connected.json["status"]) == (200, "connected")
        assert connected.headers["Last-Event-ID"] == "2"
        assert (released.status, released.json["status"]) == (200, "ended")
        assert (await made.request(process, "GET", location)).json["status"] == "ended"
        assert [request.operation for request in simulator.received].count("drop") == 1
        assert len(simulator.creates()) == simulator.rings == 1
