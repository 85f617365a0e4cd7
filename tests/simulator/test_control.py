"""The control port: what it shows, what it does, and that it gives away no token."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from gateway.simulator import Simulator
from tests.simulator.conftest import Start
from tests.simulator.raw import CHECK, CREATE, VOICE, cookie, once, session_of


async def control(simulator: Simulator, method: str, path: str, content: object = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, simulator.control_url + path, json=content) as response,
    ):
        return response.status, await response.json()


async def test_received_hides_tokens_and_sessions(start: Start) -> None:
    simulator = await start()
    token = simulator.issue_token()
    session = session_of(await once(simulator, "GET", CHECK, cookie(token)))
    await once(simulator, "POST", CREATE, cookie(token, session) | {"ccmessaging-token": token}, VOICE)

    status, received = await control(simulator, "GET", "/received")

    assert status == 200
    assert [(entry["operation"], entry["status"], entry["user"]) for entry in received] == [
        ("check", 200, "gateway-sales"),
        ("create", 200, "gateway-sales"),
    ]
    assert received[1]["body"] == VOICE.decode()
    assert token not in str(received)
    assert session not in str(received)
    assert str(received).count("ccmessaging-token=sha256:") == 2
    assert await control(simulator, "DELETE", "/received") == (200, [])
    assert simulator.received == []


async def test_faults(start: Start) -> None:
    simulator = await start()
    order = {"kind": "status", "operation": "create", "times": 2, "status": 503}

    assert await control(simulator, "POST", "/faults", order) == (201, [order | {"endpoint": None}])
    reply = await once(simulator, "POST", CREATE, cookie(simulator.issue_token()), VOICE)
    assert reply.status == 503
    assert (await control(simulator, "GET", "/faults"))[1][0]["times"] == 1
    assert await control(simulator, "DELETE", "/faults") == (200, [])


async def test_calls_are_shown_ended_and_scripted(start: Start) -> None:
    simulator = await start()
    good = cookie(simulator.issue_token())

    assert (await control(simulator, "POST", "/script", {"outcomes": ["fail"]}))[0] == 200
    await once(simulator, "POST", CREATE, good, VOICE)
    event = {"description": "Call connected", "event_id": "1", "content": {}}
    assert (await control(simulator, "POST", "/calls/gateway-sales/events", event))[1]["state"] == "connected"
    assert (await control(simulator, "GET", "/calls"))[1] == [
        {"number": 1, "user": "gateway-sales", "media": "0", "state": "connected"}
    ]
    assert (await control(simulator, "POST", "/calls/gateway-sales/end"))[1]["state"] == "ended"
    assert (await control(simulator, "POST", "/calls/gateway-sales/end"))[0] == 404


async def test_tokens_are_applied_for_and_expire(start: Start) -> None:
    simulator = await start()

    token = (await control(simulator, "POST", "/tokens", {"user": "somebody"}))[1]["token"]
    assert (await once(simulator, "GET", CHECK, cookie(token))).status == 200
    assert await control(simulator, "POST", "/expire", {"user": "nobody"}) == (200, {"expired": 0})
    assert await control(simulator, "POST", "/expire") == (200, {"expired": 1})
    assert (await once(simulator, "GET", CHECK, cookie(token))).status == 401


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/faults", {"kind": "nonsense"}, 400),
        ("POST", "/faults", {}, 400),
        ("POST", "/faults", [], 400),
        ("POST", "/faults", None, 400),
        ("POST", "/tokens", {}, 400),
        ("POST", "/tokens", {"user": 1}, 400),
        ("POST", "/tokens", {"user": "a", "more": 1}, 400),
        ("POST", "/script", {"outcomes": "fail"}, 400),
        ("POST", "/script", {"outcomes": ["win"]}, 400),
        ("POST", "/script", {"outcomes": [{}]}, 400),
        ("POST", "/calls/a/events", {"description": "x"}, 404),
        ("POST", "/calls/a/events", {"description": "x", "content": 1}, 400),
        ("PUT", "/faults", None, 405),
        ("GET", "/nowhere", None, 404),
    ],
)
async def test_misuse_is_told_in_json(start: Start, method: str, path: str, content: object, status: int) -> None:
    simulator = await start()

    answered, problem = await control(simulator, method, path, content)

    assert answered == status
    assert list(problem) == ["error"]
    assert problem["error"]
