"""A call from its creation to its end: its state, its events one by one and as a stream, its release."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Self

import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import KEY, OTHER_KEY, Answered, Farm, Harness, digest, merge, until

BEARER = {"Authorization": f"Bearer {KEY}"}
_STANDSTILL_SECONDS = 40.0
STREAM = BEARER | {"Accept": "text/event-stream"}
OTHER = {
    "services": {"crm": {"accounts": ["sales"], "credentials": [{"api_key": digest(OTHER_KEY)}]}},
}


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    """Nothing happens to a call unless it is pushed."""
    return await farm.simulator(queue_seconds=None, connect_seconds=None, talk_seconds=None, poll_seconds=5.0)


@pytest.fixture
async def gateway(farm: Farm, simulator: Simulator) -> Harness:
    return await farm.gateway(simulator, OTHER)


async def dialled(gateway: Harness) -> str:
    answer = await gateway.dial()
    assert answer.status == 201
    location = answer.headers["Location"]
    assert location == f"/dial/{answer.json['id']}"
    return location


async def get(gateway: Harness, target: str, headers: Mapping[str, str] = BEARER) -> Answered:
    return await gateway.request("GET", target, headers=headers)


async def delete(gateway: Harness, target: str) -> Answered:
    return await gateway.request("DELETE", target, headers=BEARER)


def push(
    simulator: Simulator,
    description: str,
    content: dict[str, object] | None = None,
    event_id: int | str | None = None,
) -> None:
    """Something happens to the call of the account."""
    simulator.push(description, user="gateway-sales", content=content, event_id=event_id)


def operations(simulator: Simulator) -> list[str | None]:
    return [request.operation for request in simulator.received]


def of(gateway: Harness, operation: str) -> list[dict[str, Any]]:
    """The log lines of requests for an operation."""
    return [line for line in gateway.lines.requests() if line.get("operation") == operation]


class Stream:
    """A stream of events as a caller reads it."""

    def __init__(self, gateway: Harness, location: str, headers: Mapping[str, str] = STREAM) -> None:
        self.request = gateway.session.get(gateway.base + location + "/events", headers=headers)
        self.raw = b""

    async def __aenter__(self) -> Self:
        self.response = await self.request.__aenter__()
        assert self.response.status == 200, await self.response.read()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.response.close()

    async def event(self) -> dict[str, Any]:
        """The next event: its fields, data as JSON."""
        while True:
            block = await self.block()
            if not all(line.startswith(":") for line in block):
                fields = dict(line.split(": ", 1) for line in block if not line.startswith(":"))
                if "data" in fields:
                    return fields | {"data": json.loads(fields["data"])}

    async def block(self) -> list[str]:
        """The next block of lines."""
        lines = []
        while (line := (await self._line()).decode()).strip():
            lines.append(line.rstrip("\n"))
        if not lines and not line:
            raise EOFError
        return lines

    async def _line(self) -> bytes:
        async with asyncio.timeout(_STANDSTILL_SECONDS):
            return await self.response.content.readline()

    async def rest(self) -> str:
        """Everything to the end."""
        return (await self.response.content.read()).decode()


async def test_the_state_of_a_call_follows_its_events(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)

    before = await get(gateway, location)
    push(simulator, "Call in queue", event_id="168100")
    event = await get(gateway, location + "/events")
    after = await get(gateway, location)

    assert (before.status, before.json["status"]) == (200, "accepted")
    assert event.status == 200
    assert event.json == {
        "id": before.json["id"],
        "status": "queued",
        "event_id": "168100",
        "description": "Call in queue",
        "content": {},
    }
    assert after.json == before.json | {"status": "queued"}
    assert operations(simulator) == ["create", "events"]


@pytest.mark.parametrize(
    ("description", "status", "over"),
    [
        ("Call in queue", "queued", False),
        ("Call connected", "connected", False),
        ("Call disconnected", "ended", True),
        ("Call queued timeout", "timed_out", True),
        ("Call failed", "failed", True),
        ("Call continue to poll events with unknown events", "accepted", False),
        ("Something of a later version", "accepted", False),
    ],
)
@pytest.mark.parametrize("event_id", [168199, "168199"])
async def test_each_description_is_its_status_and_others_change_nothing(
    gateway: Harness, simulator: Simulator, description: str, status: str, over: bool, event_id: int | str
) -> None:
    location = await dialled(gateway)
    content: dict[str, object] = {"causeId": event_id, "accessCode": event_id, "nested": {"list": [1, "2"]}}
    push(simulator, description, content, event_id)

    event = await get(gateway, location + "/events")

    assert (event.status, event.json["status"], event.json["description"]) == (200, status, description)
    assert event.json["event_id"] == event_id
    assert event.json["content"] == content
    assert (await get(gateway, location)).json["status"] == status
    released = await delete(gateway, location)
    assert (released.status, released.json["status"]) == (200, status if over else "ended")
    assert operations(simulator).count("drop") == (0 if over else 1)


async def test_a_poll_that_ends_empty_is_204(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=None, poll_seconds=0.05)
    gateway = await farm.gateway(simulator)
    location = await dialled(gateway)

    answer = await get(gateway, location + "/events")

    assert (answer.status, answer.body) == (204, b"")
    assert "Content-Length" not in answer.headers
    assert "Content-Type" not in answer.headers
    (line,) = of(gateway, "events")
    assert (line["event"], line["outcome"], line["attempts"]) == ("request.forwarded", "accepted", 1)
    metrics = await gateway.metrics()
    labels = f'account="sales",endpoint="{simulator.endpoints[0]}",operation="events",outcome="accepted"'
    assert metrics[f'gateway_upstream_requests_total{{{labels},result_code="0"}}'] == 1


async def test_events_come_one_by_one_to_who_does_not_count_and_again_to_who_does(
    gateway: Harness, simulator: Simulator
) -> None:
    location = await dialled(gateway)
    for description in ("Call in queue", "Call connected", "Call disconnected"):
        push(simulator, description)

    told = [await get(gateway, location + "/events") for _ in range(4)]
    again = await get(gateway, location + "/events", BEARER | {"Last-Event-ID": "1"})
    none = await get(gateway, location + "/events", BEARER | {"Last-Event-ID": "3"})

    # The last one comes again to whoever has not understood that it is over.
    assert [answer.json["status"] for answer in told] == ["queued", "connected", "ended", "ended"]
    assert [answer.headers["Last-Event-ID"] for answer in told] == ["1", "2", "3", "3"]
    assert again.json["status"] == "connected"
    assert none.status == 204
    assert operations(simulator).count("events") == 3


async def test_another_service_finds_no_such_call(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    foreign = {"Authorization": f"Bearer {OTHER_KEY}"}
    before = len(simulator.received)

    answers = [
        await gateway.request(method, target, headers=foreign)
        for method, target in (("GET", location), ("GET", location + "/events"), ("DELETE", location))
    ]
    nowhere = await gateway.request("GET", "/dial/AAAAAAAAAAAAAAAAAAAAAA", headers=foreign)

    for answer in answers:
        assert (answer.status, answer.json["code"]) == (404, "unknown-dial")
        assert answer.json | {"instance": ""} == nowhere.json | {"instance": ""}
    assert len(simulator.received) == before
    assert (await get(gateway, location)).json["status"] == "accepted"


async def test_a_stream_tells_all_events_and_ends_with_the_call(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    async with Stream(gateway, location) as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-store"
        events = []
        for description in ("Call in queue", "Call connected", "Call disconnected"):
            push(simulator, description)
            events.append(await stream.event())
        rest = await stream.rest()

    assert [(event["id"], event["event"]) for event in events] == [("1", "queued"), ("2", "connected"), ("3", "ended")]
    assert all(event["data"]["id"] == location.removeprefix("/dial/") for event in events)
    assert events[1]["data"]["content"]["domain"] == "webrtc.example"
    assert rest == ""
    # The connection goes on.
    assert (await get(gateway, location)).json["status"] == "ended"
    lines = of(gateway, "events")
    assert [(line["event"], line["http.response.status_code"], line["attempts"]) for line in lines] == [
        ("request.forwarded", 200, 3)
    ]


async def test_a_stream_goes_on_where_its_reader_stopped(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    push(simulator, "Call in queue")
    async with Stream(gateway, location) as stream:
        await stream.event()
    push(simulator, "Call connected")
    async with Stream(gateway, location, STREAM | {"Last-Event-ID": "1"}) as stream:
        second = await stream.event()
    async with Stream(gateway, location) as stream:
        both = [await stream.event(), await stream.event()]

    assert (second["id"], second["event"]) == ("2", "connected")
    assert [event["id"] for event in both] == ["1", "2"]


async def test_two_readers_share_one_poll(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    async with Stream(gateway, location) as first, Stream(gateway, location) as second:
        third = asyncio.create_task(get(gateway, location + "/events"))
        await until(lambda: simulator.polls == 1)
        await until(lambda: gateway.server.api.under_way == 3)
        push(simulator, "Call in queue")

        assert (await first.event())["event"] == (await second.event())["event"] == "queued"
        assert (await third).json["status"] == "queued"
        await until(lambda: simulator.polls == 1)
    assert operations(simulator) == ["create", "events", "events"]


async def test_polling_ends_when_its_last_reader_leaves(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    async with Stream(gateway, location):
        await until(lambda: simulator.polls == 1)
        async with Stream(gateway, location):
            await until(lambda: gateway.server.api.under_way == 2)
        await until(lambda: gateway.server.api.under_way == 1)
        assert simulator.polls == 1
    await until(lambda: simulator.polls == 0)
    await until(lambda: gateway.server.api.under_way == 0)
    assert operations(simulator) == ["create", "events"]
    # Leaving was our doing, and nothing that NSLB did wrong.
    assert not [name for name in await gateway.metrics() if 'operation="events",outcome="unknown"' in name]


async def test_a_stream_survives_polls_that_fail(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    simulator.fault(Fault("close-request", "events", times=2))
    async with Stream(gateway, location) as stream:
        await until(lambda: operations(simulator).count("events") >= 3)
        push(simulator, "Call in queue")
        assert (await stream.event())["event"] == "queued"
    assert simulator.rings == 1


async def test_a_long_poll_tells_why_it_failed(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    simulator.fault(Fault("result-code", "events", code="1", description="out of order"))

    answer = await get(gateway, location + "/events")

    assert (answer.status, answer.json["code"], answer.json["result_code"]) == (502, "upstream-rejected", "1")
    assert (await get(gateway, location)).json["status"] == "accepted"


async def test_an_expired_token_is_renewed_while_polling(farm: Farm) -> None:
    simulator = await farm.simulator(queue_seconds=None, poll_seconds=5.0)
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    location = await dialled(gateway)
    simulator.fault(Fault("expire-now", "events"))

    async with Stream(gateway, location) as stream:
        await until(lambda: simulator.polls == 1)
        push(simulator, "Call in queue")
        assert (await stream.event())["event"] == "queued"
    assert simulator.fabric.apply_token_requests == 2


async def test_releasing_ends_a_call_for_all_its_readers(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    async with Stream(gateway, location) as stream:
        await until(lambda: simulator.polls == 1)
        released = await delete(gateway, location)
        assert (released.status, released.json["status"]) == (200, "ended")
        assert (await stream.event())["event"] == "ended"
        assert await stream.rest() == ""
    again = await delete(gateway, location)

    assert (again.status, again.json) == (200, released.json)
    assert operations(simulator).count("drop") == 1
    await until(lambda: len(of(gateway, "drop")) == 2)
    line = of(gateway, "drop")[1]
    assert (line["event"], line["attempts"], line["outcome"]) == ("request.answered", 0, "accepted")


async def test_many_releases_at_once_send_one(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    simulator.fault(Fault("delay", "drop", seconds=0.1))

    answers = await asyncio.gather(*(delete(gateway, location) for _ in range(8)))

    assert {(answer.status, answer.json["status"]) for answer in answers} == {(200, "ended")}
    assert operations(simulator).count("drop") == 1


async def test_a_release_that_fails_says_so_and_can_be_repeated(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    simulator.fault(Fault("close-request", "drop", perform=False))

    first = await delete(gateway, location)
    state = await get(gateway, location)
    second = await delete(gateway, location)

    assert (first.status, first.json["outcome"]) == (502, "unknown")
    assert state.json["status"] == "accepted"
    assert (second.status, second.json["status"]) == (200, "ended")


async def test_a_later_call_on_the_same_token_takes_the_place_of_the_first(
    gateway: Harness, simulator: Simulator
) -> None:
    first = await dialled(gateway)
    async with Stream(gateway, first) as stream:
        await until(lambda: simulator.polls == 1)
        second = await dialled(gateway)
        push(simulator, "Call connected")
        assert "a later call" in await stream.rest()

    released = await delete(gateway, first)
    assert (released.status, released.json["code"], released.json["outcome"]) == (409, "call-superseded", "not_sent")
    for headers in (BEARER, STREAM):
        events = await get(gateway, first + "/events", headers)
        assert (events.status, events.json["code"]) == (409, "call-superseded")
    assert "drop" not in operations(simulator)
    # What came on the first one's poll was about the second.
    assert (await get(gateway, first)).json["status"] == "accepted"
    assert (await get(gateway, second + "/events")).json["status"] == "connected"
    assert (await delete(gateway, second)).status == 200
    assert operations(simulator).count("drop") == 1


async def test_what_the_channel_supports(gateway: Harness, simulator: Simulator) -> None:
    answers = [await get(gateway, "/dial/support"), await get(gateway, "/dial/support?account=sales")]

    for answer in answers:
        assert (answer.status, answer.json) == (200, {"click_to_call": True, "webrtc": False, "account": "sales"})
    foreign = await get(gateway, "/dial/support?account=other")
    assert (foreign.status, foreign.json["code"]) == (403, "forbidden")
    for query in ("?account=sales&account=sales", "?acount=sales", "?account"):
        answer = await get(gateway, "/dial/support" + query)
        assert (answer.status, answer.json["code"]) == (400, "malformed-request"), query
    assert operations(simulator) == ["check", "check"]


async def test_each_operation_must_be_allowed(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, {"services": {"billing": {"allow": {"operations": ["create"]}}}})
    location = await dialled(gateway)

    answers = [
        await get(gateway, location + "/events"),
        await delete(gateway, location),
        await get(gateway, "/dial/support"),
    ]

    assert [(answer.status, answer.json["code"]) for answer in answers] == [(403, "forbidden")] * 3
    assert (await get(gateway, location)).status == 200
    assert operations(simulator) == ["create"]


async def test_other_methods_are_told_which_there_are(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    for target, allow in (
        ("/dial", "POST"),
        (location, "GET, DELETE"),
        (location + "/events", "GET"),
        ("/dial/support", "GET"),
    ):
        answer = await gateway.request("PUT", target, headers=BEARER)
        assert (answer.status, answer.json["code"], answer.headers["Allow"]) == (405, "method-not-allowed", allow)
    assert operations(simulator) == ["create"]


async def test_streams_and_polls_end_when_the_gateway_stops(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)
    location = await dialled(gateway)
    async with Stream(gateway, location) as stream:
        poll = asyncio.create_task(get(gateway, location + "/events"))
        await until(lambda: gateway.server.api.under_way == 2)
        await gateway.server.drain()
        rest = await stream.rest()
        answer = await poll

    assert rest == ": the gateway stops here, and the call goes on\nretry: 1000\n\n"
    assert (answer.status, answer.headers["Connection"]) == (204, "close")
    assert simulator.polls == 0


async def unread(
    gateway: Harness, simulator: Simulator, location: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with a stream whose reader fetches nothing, so that the gateway can't write any more."""
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    fields = "".join(f"{name}: {value}\r\n" for name, value in (STREAM | {"Host": "a"}).items())
    writer.write(f"GET {location}/events HTTP/1.1\r\n{fields}\r\n".encode())
    connections = gateway.server._callers.connections
    for _ in range(400):
        push(simulator, "Call in queue", {"more": "x" * 30_000})
        polled = simulator.calls.all[0].events
        await until(lambda: not polled)  # noqa: B023 - waited for in this turn
        if any(connection.writing_paused for connection in connections):
            break
    assert any(connection.writing_paused for connection in connections)
    return reader, writer


async def test_a_reader_that_fetches_nothing_does_not_hold_a_gateway_that_stops(
    farm: Farm, simulator: Simulator
) -> None:
    gateway = await farm.gateway(simulator, {"listen": {"timeouts": {"head": 0.5}}, "drain_seconds": 300})
    location = await dialled(gateway)
    reader, writer = await unread(gateway, simulator, location)

    async with asyncio.timeout(30):
        await gateway.server.drain()

    assert simulator.polls == 0
    writer.transport.abort()
    del reader


async def test_a_secret_in_an_event_is_masked_and_a_number_is_not(gateway: Harness, simulator: Simulator) -> None:
    location = await dialled(gateway)
    token = gateway.token_file.read_text().strip()
    content: dict[str, object] = {"clickToCallCaller": "8613300000000", "echo": [f"x{token}x"], token: 1}
    push(simulator, f"Call failed {token}", content, token)

    answer = await get(gateway, location + "/events")

    assert answer.status == 200
    assert token.encode() not in answer.body
    assert answer.json["content"]["clickToCallCaller"] == "8613300000000"
    assert b"8613300000000" not in gateway.lines.raw


@pytest.mark.parametrize("value", ["-1", "x", "1 2", "9" * 10, "9" * 20, ""])
async def test_a_last_event_id_must_be_a_number(gateway: Harness, simulator: Simulator, value: str) -> None:
    location = await dialled(gateway)

    answer = await get(gateway, location + "/events", BEARER | {"Last-Event-ID": value})

    assert (answer.status, answer.json["code"]) == (400, "malformed-request")
    assert operations(simulator) == ["create"]


async def test_an_account_that_is_gone_from_the_configuration_is_not_called_for(
    farm: Farm, gateway: Harness, simulator: Simulator
) -> None:
    location = await dialled(gateway)
    settings = dict(gateway.settings)
    settings["accounts"] = {"other": settings["accounts"]["sales"]}
    services: dict[str, Any] = {}
    merge(services, settings["services"])
    for service in services.values():
        service["accounts"] = ["other"]
    gateway.write(settings | {"services": services})
    assert await gateway.server.reload()

    assert (await get(gateway, location)).status == 200
    assert (await delete(gateway, location)).json["code"] == "forbidden"
    for headers in (BEARER, STREAM):
        events = await get(gateway, location + "/events", headers)
        assert (events.status, events.json["code"]) == (403, "forbidden")
    assert operations(simulator) == ["create"]
