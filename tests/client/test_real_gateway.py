"""The client before the real gateway and a simulated contact centre."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.client import DialClient, NotDone, OutcomeUnknown, Refused, Rejected
from gateway.simulator import Fault
from tests.calls.test_keys import durable
from tests.client.scripted import Time
from tests.harness import KEY, Farm, until
from tests.lasting import gateways


async def test_a_call_is_made(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    async with DialClient(gateway.base, KEY) as client:
        call = await client.dial("voice", "sales")

    assert (call.status, call.media, call.account, call.result_code) == ("accepted", "voice", "sales", "0")
    assert not call.replayed
    assert len(simulator.creates()) == 1


async def test_a_call_is_made_over_a_socket_file(farm: Farm) -> None:
    simulator = await farm.simulator()
    path = farm.directory / "dial.sock"
    await farm.gateway(simulator, {"listen": {"address": f"unix:{path}"}})

    async with DialClient(f"unix:{path}", KEY) as client:
        assert (await client.dial("video")).media == "video"


async def test_what_the_gateway_refuses_is_refused(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    async with DialClient(gateway.base, KEY) as client:
        with pytest.raises(Refused) as forbidden:
            await client.dial("voice", "others")
        with pytest.raises(Refused) as malformed:
            await client.dial("smoke")  # type: ignore[arg-type]
    async with DialClient(gateway.base, "dgw_wrong") as client:
        with pytest.raises(Refused) as unknown:
            await client.dial("voice")

    assert [raised.value.code for raised in (forbidden, malformed, unknown)] == [
        "forbidden",
        "malformed-request",
        "unauthenticated",
    ]
    assert malformed.value.problem.errors[0][0] == "/media"
    assert unknown.value.request_id is not None
    assert simulator.creates() == []


async def test_a_call_whose_answer_was_lost_is_not_made_again(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("reset-request", "create"))

    async with DialClient(gateway.base, KEY) as client:
        with pytest.raises(OutcomeUnknown) as raised:
            await client.dial("voice")

    assert raised.value.code == "upstream-disconnected"
    assert len(simulator.creates()) == 1


async def test_when_no_agent_is_free_it_is_tried_later(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("result-code", "create", 2, code="13"))
    time = Time()

    async with DialClient(gateway.base, KEY, attempts=2, clock=time.clock, sleep=time.sleep) as client:
        with pytest.raises(Rejected) as raised:
            await client.dial("voice")
        assert (await client.dial("voice")).status == "accepted"

    assert (raised.value.code, raised.value.result_code, raised.value.retry_after) == ("no-agent-available", "13", 5)


@pytest.mark.parametrize("seconds", [100_000.0, 1e300, 30.1234567])
async def test_any_time_is_one_that_the_gateway_takes(farm: Farm, seconds: float) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    async with DialClient(gateway.base, KEY, timeout=seconds, answer_timeout=seconds) as client:
        call = await client.dial("voice")
        assert (await client.state(call.id, timeout=seconds)).status == "accepted"

    assert len(simulator.creates()) == 1


async def test_a_contact_centre_that_cant_be_reached_is_tried_again(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=["https://127.0.0.1:1"])
    time = Time()

    async with DialClient(gateway.base, KEY, clock=time.clock, sleep=time.sleep) as client:
        with pytest.raises(NotDone) as raised:
            await client.dial("voice")

    assert raised.value.code == "upstream-unreachable"
    assert len(gateway.lines.requests()) == 4


async def test_a_whole_call_is_followed_and_released(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=0.01, connect_seconds=0.01, talk_seconds=None)
    gateway = await farm.gateway(simulator)
    told = []

    async with DialClient(gateway.base, KEY) as client:
        call = await client.dial("voice")
        async for event in client.events(call.id):
            told.append((event.number, event.status))
            if event.status == "connected":
                await client.release(call.id)
        again = [event.number async for event in client.events(call.id, after=3)]
        support = await client.support()
        state = await client.state(call.id)
        released = await client.release(call.id)

    assert told == [(1, "queued"), (2, "connected"), (3, "ended")]
    assert again == []
    assert (support.click_to_call, support.webrtc, support.account) == (True, False, "sales")
    assert state.status == released.status == "ended"
    assert sum(request.operation == "drop" for request in simulator.received) == 1


async def test_a_call_whose_place_another_took_is_neither_followed_nor_released_and_asked_for_once(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=None)
    gateway = await farm.gateway(simulator)

    async with DialClient(gateway.base, KEY) as client:
        first = await client.dial("voice")
        second = await client.dial("voice")
        with pytest.raises(Refused) as released:
            await client.release(first.id)
        with pytest.raises(Refused) as followed:
            _ = [event async for event in client.events(first.id)]
        await client.release(second.id)

    assert released.value.code == followed.value.code == "call-superseded"
    await until(lambda: len(gateway.lines.requests()) == 5)
    assert [(line["operation"], line.get("code")) for line in gateway.lines.requests()] == [
        ("create", None),
        ("create", None),
        ("drop", "call-superseded"),
        ("events", "call-superseded"),
        ("drop", None),
    ]
    assert sum(request.operation == "drop" for request in simulator.received) == 1


async def test_a_call_whose_connection_was_lost_is_found_under_its_key(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    async with DialClient(gateway.base, KEY) as client:
        first = await client.dial("voice", idempotency_key="order-17")
        again = await client.dial("voice", idempotency_key="order-17")

    assert (again.id, first.replayed, again.replayed) == (first.id, False, True)
    assert len(simulator.creates()) == 1


async def test_a_dial_that_takes_too_long_is_asked_for_again_under_its_key(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, durable(farm))
    simulator.fault(Fault("delay", "create", seconds=1.5))

    async with DialClient(gateway.base, KEY, timeout=1) as client:
        with pytest.raises(OutcomeUnknown) as raised:
            await client.dial("voice")
    async with DialClient(gateway.base, KEY, lasting_store=True) as client:
        call = await client.dial("voice", idempotency_key=raised.value.idempotency_key)

    assert (call.status, call.replayed) == ("accepted", True)
    assert len(simulator.creates()) == 1


@pytest.mark.parametrize(
    ("store", "lasting_store", "code"),
    [("memory:", False, "idempotency-in-progress"), ("sqlite:///{}/state.db", True, "outcome-unknown")],
)
async def test_a_call_that_was_under_way_when_the_gateway_died_is_made_once(
    farm: Farm, store: str, *, lasting_store: bool, code: str
) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("delay", "create", seconds=30))
    base = f"unix:{farm.directory}/dial.sock"
    settings: dict[str, Any] = {"listen": {"address": base}}
    if store == "memory:":
        settings["store"] = {"encryption_keys": []}
    async with gateways(farm, simulator, store.format(farm.directory), 1, settings) as replicas:
        waits = 0

        async def restarted(_seconds: float) -> None:
            nonlocal waits
            waits += 1
            await replicas.restart()

        async with (
            DialClient(base, KEY) as earlier,
            DialClient(base, KEY, sleep=restarted, lasting_store=lasting_store) as client,
        ):
            first = asyncio.create_task(earlier.dial("voice", idempotency_key="order-17"))
            await until(simulator.creates)
            with pytest.raises(OutcomeUnknown) as raised:
                await client.dial("voice", idempotency_key="order-17")
            await replicas.kill(replicas.running[0])
            with pytest.raises(OutcomeUnknown, match="answer-lost"):
                await first

        assert (raised.value.code, raised.value.idempotency_key) == (code, "order-17")
        assert waits == lasting_store
        assert len(simulator.creates()) == 1


async def test_a_call_is_followed_through_a_restart_of_the_gateway_each_event_once(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None)
    base = f"unix:{farm.directory}/dial.sock"
    settings = {"listen": {"address": base}}
    async with (
        gateways(farm, simulator, f"sqlite://{farm.directory}/state.db", 1, settings) as replicas,
        DialClient(base, KEY) as client,
    ):
        call = await client.dial("voice")
        told = []
        simulator.push("Call in queue")
        async for event in client.events(call.id):
            told.append((event.number, event.status))
            if event.status == "queued":
                await replicas.restart()
                await until(lambda: simulator.polls == 0)  # that of the gateway before would take the event with it
                simulator.push("Call connected")
            else:
                await client.release(call.id)

    assert told == [(1, "queued"), (2, "connected"), (3, "ended")]
    assert len(simulator.creates()) == 1
    assert sum(request.operation == "drop" for request in simulator.received) == 1


async def test_a_call_that_a_restarted_gateway_forgot_is_told_at_once(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=None)
    base = f"unix:{farm.directory}/dial.sock"
    settings = {"listen": {"address": base}, "store": {"encryption_keys": []}}
    async with (
        gateways(farm, simulator, "memory:", 1, settings) as replicas,
        DialClient(base, KEY) as client,
    ):
        call = await client.dial("voice")
        simulator.push("Call in queue")
        events = client.events(call.id)
        assert (await anext(events)).status == "queued"
        await replicas.restart()
        with pytest.raises(Refused) as raised:
            await anext(events)

    assert raised.value.code == "unknown-dial"
    assert len(simulator.creates()) == 1
