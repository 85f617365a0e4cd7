"""Several calls of one account: NSLB's events and releases name no call, so nothing is done to the wrong one."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.calls import Lines
from gateway.simulator import Fault, Simulator
from gateway.store import MemoryStore, Seal, Vault
from gateway.telemetry import LineWriter, Log, Metrics
from tests.calls.test_keys import durable
from tests.calls.test_whole_call import BEARER, STREAM, Stream, delete, dialled, get, of, operations, push
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
        await until(lambda: simulator.polls == 0)
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


# --- a release and a call at once


async def test_a_call_waits_for_a_release_on_its_account(gateway: Harness, simulator: Simulator) -> None:
    """NSLB would release whichever of them it has when the release arrives."""
    first = await dialled(gateway)
    simulator.fault(Fault("delay", "drop", seconds=0.3))
    released = asyncio.create_task(delete(gateway, first))
    await until(lambda: "drop" in operations(simulator))

    second = asyncio.create_task(gateway.dial())

    assert ((await released).status, (await released).json["status"]) == (200, "ended")
    answer = await second
    assert answer.status == 201
    # The second one was sent when it was known what became of the first.
    (line,) = of(gateway, "drop")
    assert operations(simulator) == ["create", "drop", "create"]
    assert line["upstream.duration"] >= 0.3
    assert [call.live for call in simulator.calls.all] == [False, True]
    assert (await get(gateway, answer.headers["Location"])).json["status"] == "accepted"


async def test_a_call_that_can_not_wait_for_a_release_is_not_sent(gateway: Harness, simulator: Simulator) -> None:
    first = await dialled(gateway)
    simulator.fault(Fault("delay", "drop", seconds=0.5))
    released = asyncio.create_task(delete(gateway, first))
    await until(lambda: "drop" in operations(simulator))

    second = await gateway.dial(headers={"Request-Timeout": "0.1"})

    assert (second.status, second.json["outcome"]) == (503, "not_sent")
    assert (await released).status == 200
    assert len(simulator.creates()) == 1


@pytest.fixture
async def pair(farm: Farm, simulator: Simulator) -> tuple[Harness, Harness]:
    """Two gateways of one account and one store."""
    token = simulator.issue_token("gateway-sales")
    return (
        await farm.gateway(simulator, durable(farm), token=token),
        await farm.gateway(simulator, durable(farm), token=token),
    )


@pytest.fixture
async def strict_pair(farm: Farm, simulator: Simulator) -> tuple[Harness, Harness]:
    """The same, of an account that has one call at a time."""
    token = simulator.issue_token("gateway-sales")
    change = durable(farm) | {"accounts": {"sales": {"exclusive": True}}}
    return (
        await farm.gateway(simulator, change, token=token),
        await farm.gateway(simulator, change, token=token),
    )


async def test_an_account_is_not_free_while_its_call_that_has_ended_is_released(
    strict_pair: tuple[Harness, Harness], simulator: Simulator
) -> None:
    """The agent hangs up while a release is on its way: it must not end the next call."""
    releasing, other = strict_pair
    first = await dialled(releasing)
    async with Stream(other, first) as stream:
        await until(lambda: simulator.polls == 1)
        simulator.fault(Fault("result-code", "drop", code="13", delay=0.5))
        released = asyncio.create_task(delete(releasing, first))
        await until(lambda: "drop" in operations(simulator))
        push(simulator, "Call disconnected")
        assert (await stream.event())["event"] == "ended"

        early = await other.dial()

        assert (early.status, early.json["code"], early.json["outcome"]) == (503, "account-busy", "not_sent")
        assert (await released).json["status"] == "ended"
    assert (await other.dial()).status == 201
    assert [call.live for call in simulator.calls.all] == [False, True]


async def test_a_release_waits_for_a_call_that_another_gateway_makes(
    pair: tuple[Harness, Harness], simulator: Simulator
) -> None:
    releasing, dialling = pair
    first = await dialled(releasing)
    simulator.fault(Fault("delay", "create", seconds=0.5))
    second = asyncio.create_task(dialling.dial())
    await until_created(simulator, 2)

    released = await delete(releasing, first)

    assert (released.status, released.json["code"]) == (409, "call-superseded")
    assert (await second).status == 201
    assert "drop" not in operations(simulator)


async def test_a_call_waits_for_a_release_at_another_gateway(
    pair: tuple[Harness, Harness], simulator: Simulator
) -> None:
    releasing, dialling = pair
    first = await dialled(releasing)
    simulator.fault(Fault("delay", "drop", seconds=0.5))
    released = asyncio.create_task(delete(releasing, first))
    await until(lambda: "drop" in operations(simulator))

    second = await dialling.dial()

    assert second.status == 201
    assert (await released).json["status"] == "ended"
    assert operations(simulator) == ["create", "drop", "create"]
    assert [call.live for call in simulator.calls.all] == [False, True]


# --- an event of nobody knows which


@pytest.mark.parametrize("exclusive", [True, False])
async def test_what_comes_late_of_a_call_that_was_released_ends_no_other(
    farm: Farm, simulator: Simulator, exclusive: bool
) -> None:
    gateway = await farm.gateway(simulator, {"accounts": {"sales": {"exclusive": exclusive}}})
    first = await dialled(gateway)
    simulator.fault(Fault("delay", "events", seconds=0.3))
    async with Stream(gateway, first) as stream:
        await until(lambda: "events" in operations(simulator))
        assert (await delete(gateway, first)).json["status"] == "ended"
        assert (await stream.event())["event"] == "ended"
    second = await dialled(gateway)

    async with Stream(gateway, second) as stream:
        await until(lambda: operations(simulator).count("events") == 2)
        push(simulator, "Call connected")
        told = await stream.event()

    assert (told["id"], told["event"]) == ("1", "connected")
    assert (await get(gateway, second)).json["status"] == "connected"
    assert (await delete(gateway, second)).json["status"] == "ended"
    assert operations(simulator).count("drop") == 2
    assert not any(call.live for call in simulator.calls.all)


async def test_a_poll_ends_before_another_call_is_made_here_or_elsewhere(
    pair: tuple[Harness, Harness], simulator: Simulator
) -> None:
    """It would be told of that one, with what its service alone may know."""
    following, dialling = pair
    first = await dialled(following)
    async with Stream(following, first) as stream:
        await until(lambda: simulator.polls == 1)

        second = await dialled(dialling)

        async with Stream(dialling, second) as other:
            await until(lambda: operations(simulator).count("events") == 2 and simulator.polls == 1)
            push(simulator, "Call connected", {"accessCode": "of-the-second"})
            assert (await other.event())["data"]["content"] == {"accessCode": "of-the-second"}
        rest = await stream.rest()
    assert "of-the-second" not in rest
    assert "has taken this one's place" in rest


async def test_a_number_that_no_event_had_yet_is_that_of_the_last(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    push(simulator, "Call connected")
    assert (await get(gateway, location + "/events")).json["status"] == "connected"

    async with Stream(gateway, location, STREAM | {"Last-Event-ID": "999"}) as stream:
        await until(lambda: simulator.polls == 1)
        push(simulator, "Call disconnected")
        told = await stream.event()

    assert (told["id"], told["event"]) == ("2", "ended")


async def test_a_number_that_no_event_of_a_call_that_is_over_had_is_told_its_end(
    gateway: Harness, simulator: Simulator
) -> None:
    """A gateway that was alone for a while may have told more than there is now."""
    location = await dialled(gateway)
    push(simulator, "Call connected")
    push(simulator, "Call disconnected")
    assert (await get(gateway, location + "/events", BEARER | {"Last-Event-ID": "0"})).json["status"] == "connected"
    assert (await get(gateway, location + "/events", BEARER | {"Last-Event-ID": "1"})).json["status"] == "ended"

    single = await get(gateway, location + "/events", BEARER | {"Last-Event-ID": "3"})
    async with Stream(gateway, location, STREAM | {"Last-Event-ID": "3"}) as stream:
        told = await stream.event()

    assert (single.headers["Last-Event-ID"], single.json["status"]) == ("2", "ended")
    assert (told["id"], told["event"]) == ("2", "ended")
    for headers in (BEARER, STREAM):
        assert (await get(gateway, location + "/events", headers | {"Last-Event-ID": "2"})).status == 204


async def test_a_release_does_not_wait_for_ever_for_a_call_that_is_being_made(
    pair: tuple[Harness, Harness], simulator: Simulator
) -> None:
    releasing, dialling = pair
    first = await dialled(releasing)
    simulator.fault(Fault("delay", "create", seconds=1.0))
    second = asyncio.create_task(dialling.dial())
    await until_created(simulator, 2)

    released = await releasing.request("DELETE", first, headers=BEARER | {"Request-Timeout": "0.2"})

    assert (released.status, released.json["outcome"]) == (503, "not_sent")
    assert "Retry-After" in released.headers
    assert (await second).status == 201
    assert "drop" not in operations(simulator)


@pytest.fixture
def lines() -> Lines:
    return Lines(Vault("memory", MemoryStore(), Seal(), Log(LineWriter(io.BytesIO())), Metrics("0")))


async def test_no_call_is_asked_for_before_the_polls_of_its_line_have_ended(lines: Lines) -> None:
    poll = asyncio.get_running_loop().create_future()
    lines.interrupts("line", lambda: poll)
    asking = asyncio.create_task(lines.ask("line", "call", math.inf))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not asking.done()

    poll.cancel()

    await asking
    work = lines.settled("line", "call", made=True)
    assert work is None
    assert await lines.current("line") == "call"


async def test_whoever_leaves_while_a_poll_ends_asks_for_no_call(lines: Lines) -> None:
    lines.interrupts("line", asyncio.get_running_loop().create_future)
    asking = asyncio.create_task(lines.ask("line", "call", math.inf))
    await asyncio.sleep(0)

    asking.cancel()

    assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], asyncio.CancelledError)
    assert await lines.current("line") is None
