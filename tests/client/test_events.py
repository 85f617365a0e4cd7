"""Following a call: over lost connections, to its end, each event once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from aiohttp import web

from gateway.client import DialClient, DialError, Event, NotDone, Refused
from tests.client.scripted import (
    CALL,
    ScriptedGateway,
    Step,
    answer,
    event,
    in_a_hurry,
    pass_by,
    problem,
    stream,
)
from tests.harness import until

ID = CALL["id"]


async def followed(client: DialClient, after: int | None = None) -> list[tuple[int | None, str]]:
    """The number and the status of each event."""
    return [(event.number, event.status) async for event in client.events(ID, after)]


async def failed(*steps: Step, error: type[DialError], **arguments: Any) -> tuple[DialError, ScriptedGateway]:
    async with ScriptedGateway(*steps) as gateway, gateway.client(**arguments) as client:
        with pytest.raises(error) as raised:
            await followed(client)
    return raised.value, gateway


async def test_a_call_is_followed_to_its_end() -> None:
    pieces = [b": hello\n\n", event(1, "queued"), event(2, "connected", content={"a": 1}), event(3, "ended")]
    async with ScriptedGateway(stream(*pieces, stay=True)) as gateway, gateway.client() as client:
        events = [event async for event in client.events(ID)]

    assert [event.status for event in events] == ["queued", "connected", "ended"]
    assert events[1] == Event(2, "connected", 168101, "It is.", {"a": 1})
    (request,) = gateway.received
    assert (request.method, request.target) == ("GET", f"/dial/{ID}/events")
    assert request.headers["Accept"] == "text/event-stream"
    assert "Last-Event-ID" not in request.headers


async def test_a_stream_in_single_bytes_is_the_same() -> None:
    whole = b"\xef\xbb\xbf" + event(1, "queued").replace(b"\n", b"\r\n") + event(2, "ended")
    async with (
        ScriptedGateway(stream(*(whole[at : at + 1] for at in range(len(whole))))) as gateway,
        gateway.client() as client,
    ):
        assert await followed(client) == [(1, "queued"), (2, "ended")]


@pytest.mark.parametrize("status", ["ended", "timed_out", "failed"])
async def test_each_end_is_an_end(status: str) -> None:
    async with ScriptedGateway(stream(event(1, status), event(2, "queued"))) as gateway, gateway.client() as client:
        assert await followed(client) == [(1, status)]


async def test_events_of_other_kinds_pass_through() -> None:
    odd = event(1, "accepted", event_id="x-1", description="Call continue", content={"n": "1"}, later=True)
    plain = b'event: queued\ndata: {"event_id": true, "content": 7, "description": null}\n\n'
    async with ScriptedGateway(stream(odd, plain, event(2, "ended"))) as gateway, gateway.client() as client:
        events = [event async for event in client.events(ID)]

    assert events[0] == Event(1, "accepted", "x-1", "Call continue", {"n": "1"})
    assert events[1] == Event(None, "queued", None, None, {})


async def test_a_lost_connection_is_made_anew_from_where_it_was() -> None:
    first = stream(event(1, "queued"), event(2, "connected"), b"id: 3\nda", cut=True)
    async with ScriptedGateway(first, stream(event(3, "ended"))) as gateway, gateway.client() as client:
        assert await followed(client) == [(1, "queued"), (2, "connected"), (3, "ended")]

    assert [request.headers.get("Last-Event-ID") for request in gateway.received] == [None, "2"]


@in_a_hurry
async def test_a_stream_without_heartbeats_is_taken_for_lost() -> None:
    told = []
    mute = stream(event(1, "queued"), stay=True)
    async with (
        ScriptedGateway(mute, stream(event(2, "ended"))) as gateway,
        gateway.client(silence_timeout=45) as client,
    ):
        async for happened in client.events(ID):
            told.append((happened.number, happened.status))
            asyncio.get_running_loop().call_soon(pass_by, 45)

    assert told == [(1, "queued"), (2, "ended")]
    assert len(gateway.received) == 2


async def test_no_event_is_given_out_twice_even_if_the_gateway_sends_it_twice() -> None:
    first = stream(event(1, "queued"), event(1, "queued"), event(2, "connected"), cut=True)
    again = stream(event(1, "queued"), event(2, "connected"), event(3, "ended"))
    async with ScriptedGateway(first, again) as gateway, gateway.client() as client:
        assert await followed(client) == [(1, "queued"), (2, "connected"), (3, "ended")]


async def test_a_service_goes_on_where_it_was_before() -> None:
    async with ScriptedGateway(stream(event(5, "connected"), event(6, "ended"))) as gateway, gateway.client() as client:
        assert await followed(client, after=5) == [(6, "ended")]

    assert gateway.received[0].headers["Last-Event-ID"] == "5"


async def test_the_gateway_says_when_to_come_back() -> None:
    leaving = stream(event(1, "queued"), b": shutting down\nretry: 1500\n\n")
    async with (
        ScriptedGateway(leaving, problem(503, "shutting-down", retry_after=3), stream(event(2, "ended"))) as gateway,
        gateway.client() as client,
    ):
        assert await followed(client) == [(1, "queued"), (2, "ended")]

    assert gateway.time.slept == pytest.approx([1.7, 3.4])


async def test_a_time_to_wait_without_end_is_cut() -> None:
    async with (
        ScriptedGateway(stream(b"retry: 999999999\n\n"), stream(event(1, "ended"))) as gateway,
        gateway.client(timeout=30) as client,
    ):
        assert await followed(client) == [(1, "ended")]

    assert gateway.time.slept == pytest.approx([15.2])


async def test_a_gateway_that_stays_away_is_given_up() -> None:
    error, gateway = await failed(stream(), error=NotDone, timeout=10)

    assert error.code == "answer-lost"
    assert sum(gateway.time.slept) <= 10
    assert len(gateway.received) == len(gateway.time.slept) + 1


@in_a_hurry
async def test_a_gateway_that_says_nothing_at_all_is_given_up_in_time() -> None:
    passed = 0.0

    async def wait(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        pass_by(seconds)

    async def mute(request: web.BaseRequest) -> web.StreamResponse:
        while request.transport is not None:
            await wait(0.1)
            await asyncio.sleep(0)
        return web.Response()

    async with (
        ScriptedGateway(mute) as gateway,
        gateway.client(timeout=20, answer_timeout=8, clock=lambda: passed, sleep=wait) as client,
    ):
        with pytest.raises(NotDone, match="answer-lost"):
            await followed(client)
        # 8 for the first, 20 from then on, and the steps in which nobody has seen yet that the client has gone.
        assert passed < 8 + 20 + 4

    assert len(gateway.received) == 4


async def test_an_end_is_told_once_whatever_its_number_is() -> None:
    """Replicas that were alone for a while may have given that number to another event."""
    whole = stream(event(1, "queued"), event(2, "ended"))
    async with ScriptedGateway(whole, answer(204, b"")) as gateway, gateway.client() as client:
        assert await followed(client, after=2) == [(2, "ended")]

    assert len(gateway.received) == 1


@pytest.mark.parametrize("after", [-1, 10**9])
async def test_what_is_no_number_of_an_event_is_not_asked_for(after: int) -> None:
    async with ScriptedGateway(stream(event(1, "ended"))) as gateway, gateway.client() as client:
        with pytest.raises(ValueError, match="number of an event"):
            await followed(client, after=after)

    assert gateway.received == []


async def test_a_gateway_that_is_heard_now_and_then_is_not_given_up() -> None:
    heard = [stream(b": heartbeat\n\n", cut=True)] * 20
    async with ScriptedGateway(*heard, stream(event(1, "ended"))) as gateway, gateway.client(timeout=6) as client:
        assert await followed(client) == [(1, "ended")]

    assert sum(gateway.time.slept) > 6
    assert max(gateway.time.slept) == 5


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (problem(404, "unknown-dial"), "unknown-dial"),
        (problem(401, "unauthenticated"), "unauthenticated"),
        (problem(409, "call-superseded"), "call-superseded"),
        (answer(404, b"nginx", {"Content-Type": "text/html"}), "unreadable-answer"),
    ],
)
async def test_what_can_never_get_better_ends_it(step: Step, code: str) -> None:
    error, gateway = await failed(step, error=Refused)

    assert error.code == code
    assert len(gateway.received) == 1


async def test_a_call_that_is_no_longer_known_ends_it_on_the_way() -> None:
    error, _ = await failed(stream(event(1, "queued"), cut=True), problem(404, "unknown-dial"), error=Refused)

    assert error.status == 404


async def test_nothing_to_follow_is_an_end() -> None:
    async with ScriptedGateway(answer(204, b"")) as gateway, gateway.client() as client:
        assert await followed(client, after=9) == []

    assert len(gateway.received) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"nothing",
        b"[]",
        b'"x"',
        b"{",
        b"[" * 60_000,
        b"9" * 5000,
        b"NaN",
        json.dumps({"id": "B" * 22, "status": "ended"}).encode(),
        b"x" * 300_000,
    ],
)
async def test_an_event_that_cant_be_read_ends_it_with_an_error_of_ours(data: bytes) -> None:
    error, gateway = await failed(stream(event(1, "queued"), b"data: " + data + b"\n\n"), error=NotDone)

    assert error.code == "unreadable-answer"
    assert len(gateway.received) == 1


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html"}, {"Content-Type": "application/json"}])
async def test_an_answer_that_is_no_stream_is_an_error_of_ours(headers: dict[str, str]) -> None:
    error, _ = await failed(answer(200, b"data: x\n\n", headers), error=NotDone)

    assert error.code == "unreadable-answer"


async def test_an_id_that_cant_be_sent_back_is_not_sent_back() -> None:
    first = stream(event(1, "queued"), b"id: \x7f\xc3\xa9\ndata: {}\n\n", cut=True)
    async with ScriptedGateway(first, stream(event(2, "ended"))) as gateway, gateway.client() as client:
        assert await followed(client) == [(1, "queued"), (None, "message"), (2, "ended")]

    assert gateway.received[1].headers["Last-Event-ID"] == "1"


async def test_who_leaves_early_closes_the_connection() -> None:
    requests: list[web.BaseRequest] = []

    async def watched(request: web.BaseRequest) -> web.StreamResponse:
        requests.append(request)
        return await stream(event(1, "queued"), stay=True)(request)

    async with ScriptedGateway(watched) as gateway, gateway.client() as client:
        async with contextlib.aclosing(client.events(ID)) as events:
            async for _ in events:
                break
        await until(lambda: requests[0].transport is None)


async def test_a_dial_is_not_kept_waiting_by_calls_that_are_followed() -> None:
    async with (
        ScriptedGateway(*[stream(event(1, "queued"), stay=True)] * 120, answer()) as gateway,
        gateway.client() as client,
        contextlib.AsyncExitStack() as following,
    ):
        for _ in range(120):
            events = await following.enter_async_context(contextlib.aclosing(client.events(ID)))
            await anext(events)
        assert (await client.dial("voice")).id == ID
