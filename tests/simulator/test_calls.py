"""The life of a call, as its long polls tell it."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulator.conftest import Start
from tests.simulator.raw import CREATE, DROP, EVENTS, VOICE, connected, cookie, once

PATIENT = 30.0


async def test_a_call_from_queue_to_end(start: Start) -> None:
    simulator = await start(queue_seconds=0, connect_seconds=0, talk_seconds=0, poll_seconds=PATIENT)
    good = cookie(simulator.issue_token())

    async with connected(simulator) as raw:
        await raw.ask("POST", CREATE, good, VOICE)
        events = [(await raw.ask("GET", EVENTS, good)).json for _ in range(3)]

    assert [event["resultDesc"] for event in events] == ["Call in queue", "Call connected", "Call disconnected"]
    assert int(events[1]["eventId"]) == 168101
    content = events[1]["content"]
    assert content.keys() == {"domain", "gwAddresses", "accessCode", "clickToCallCaller"}
    assert [call.state for call in simulator.calls.all] == ["ended"]


async def test_ids_are_sometimes_numbers_and_sometimes_strings(start: Start) -> None:
    simulator = await start(poll_seconds=PATIENT)
    good = cookie(simulator.issue_token())
    seen = set()

    async with connected(simulator) as raw:
        await raw.ask("POST", CREATE, good, VOICE)
        for description in ["Call connected", "Call in queue"] * 3:
            simulator.push(description)
            event = (await raw.ask("GET", EVENTS, good)).json
            seen.add(("eventId", type(event["eventId"])))
            if description == "Call connected":
                seen.add(("accessCode", type(event["content"]["accessCode"])))

    assert seen == {(name, kind) for name in ("eventId", "accessCode") for kind in (int, str)}


async def test_an_event_answers_a_waiting_poll_at_once(start: Start) -> None:
    simulator = await start(poll_seconds=PATIENT)
    good = cookie(simulator.issue_token())

    async with connected(simulator) as raw, connected(simulator) as other:
        await raw.ask("POST", CREATE, good, VOICE)
        poll = asyncio.create_task(raw.ask("GET", EVENTS, good))
        await simulator.until(lambda: simulator.polls == 1)
        assert (await other.ask("POST", DROP, good)).json["resultCode"] == "0"
        assert (await poll).json["resultDesc"] == "Call disconnected"


async def test_a_poll_without_events_ends_empty(start: Start) -> None:
    simulator = await start(poll_seconds=0.01)
    good = cookie(simulator.issue_token())

    reply = await once(simulator, "GET", EVENTS, good)

    assert reply.json == {"resultCode": "0", "resultDesc": "ClickToCall polled without any events"}


async def test_a_client_that_hangs_up_swallows_no_event(start: Start) -> None:
    simulator = await start(poll_seconds=PATIENT)
    good = cookie(simulator.issue_token())
    await once(simulator, "POST", CREATE, good, VOICE)

    async with connected(simulator) as raw:
        raw.send("GET", EVENTS, good)
        await simulator.until(lambda: simulator.polls == 1)
    await simulator.until(lambda: simulator.polls == 0)
    simulator.push("Call connected")

    assert (await once(simulator, "GET", EVENTS, good)).json["resultDesc"] == "Call connected"


@pytest.mark.parametrize(
    ("outcome", "description", "state"),
    [("timeout", "Call queued timeout", "timed_out"), ("fail", "Call failed", "failed")],
)
async def test_calls_that_come_to_nothing(start: Start, outcome: str, description: str, state: str) -> None:
    simulator = await start(queue_seconds=0, connect_seconds=0, poll_seconds=PATIENT)
    good = cookie(simulator.issue_token())
    simulator.script(outcome)

    async with connected(simulator) as raw:
        await raw.ask("POST", CREATE, good, VOICE)
        await raw.ask("GET", EVENTS, good)
        event = (await raw.ask("GET", EVENTS, good)).json

    assert event["resultDesc"] == description
    assert event["content"].keys() == ({"causeId", "causeDesc"} if outcome == "fail" else set())
    assert simulator.calls.all[0].state == state


async def test_events_of_no_interest_can_be_pushed(start: Start) -> None:
    simulator = await start(poll_seconds=PATIENT)
    good = cookie(simulator.issue_token())
    await once(simulator, "POST", CREATE, good, VOICE)

    description = "Call continue to poll events with unknown events"
    simulator.push(description, content={"a": 1}, event_id="7")

    event = (await once(simulator, "GET", EVENTS, good)).json
    assert event == {"resultCode": "0", "resultDesc": description, "eventId": "7", "content": {"a": 1}}


async def test_events_are_of_the_current_call_alone(start: Start) -> None:
    simulator = await start(poll_seconds=0.01)
    good = cookie(simulator.issue_token())

    await once(simulator, "POST", CREATE, good, VOICE)
    simulator.push("Call connected")
    await once(simulator, "POST", CREATE, good, VOICE)

    assert (await once(simulator, "GET", EVENTS, good)).json["resultDesc"].startswith("ClickToCall polled")


async def test_what_can_not_be_pushed_or_scripted(start: Start) -> None:
    simulator = await start()

    with pytest.raises(LookupError):
        simulator.push("Call connected")
    with pytest.raises(ValueError, match="outcome"):
        simulator.script("succeed")
