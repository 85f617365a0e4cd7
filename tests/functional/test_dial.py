"""An accepted call: what the caller gets, what NSLB got, and what telemetry tells of it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from gateway.simulator import Fault, Simulator
from tests.harness import Farm, digest

PATH = "/service-cloud/rest/webadapter/v1/webadapterfacade/createClickToCall"
OTHER = "dgw_" + "s" * 43


async def test_a_call_is_placed_and_told_as_documented(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    answer = await gateway.dial(headers={"X-Request-ID": "order-4711"})

    assert answer.status == 201
    body = answer.json
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", body.pop("id"))
    assert answer.headers["Location"] == f"/dial/{answer.json['id']}"
    assert answer.headers["X-Request-ID"] == "order-4711"
    assert answer.headers["Content-Type"] == "application/json"
    assert "Set-Cookie" not in answer.headers
    assert body == {
        "status": "accepted",
        "media": "voice",
        "account": "sales",
        "outcome": "accepted",
        "result_code": "0",
        "result_description": "connect successfully.",
    }


async def test_nslb_gets_exactly_the_documented_request_and_nothing_of_the_callers(farm: Farm) -> None:
    simulator = await farm.simulator()
    token = simulator.issue_token("gateway-sales")
    gateway = await farm.gateway(simulator, token=token)
    claimed = {
        "X-Forwarded-For": "8.8.8.8",
        "Cookie": "ccmessaging-token=evil; JSESSIONID=evil",
        "ccmessaging-token": "evil",
        "X-Request-ID": "r-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "User-Agent": "evil",
    }

    await gateway.dial({"media": "video"}, headers=claimed)

    (request,) = simulator.creates()
    host = simulator.endpoints[0].removeprefix("https://")
    span = request.header("traceparent")
    assert span is not None
    assert re.fullmatch(r"00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01", span)
    assert "b7ad6b7169203331" not in span
    assert (request.method, request.target, request.body) == ("POST", PATH, b'{"mediaAbility": "1"}')
    assert [(name, value) for name, value in request.headers if name != "traceparent"] == [
        ("Host", host),
        ("Content-Type", "application/json; charset=UTF-8"),
        ("Accept", "application/json"),
        ("Cookie", f"ccmessaging-token={token}"),
        ("X-Request-ID", "r-1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Content-Length", "21"),
    ]
    assert "%" in token
    assert b"evil" not in request.raw


def two_accounts(farm: Farm, simulator: Simulator) -> dict[str, Any]:
    """The service has another account beside `sales`."""
    support = farm.directory / "support-token"
    support.write_text(simulator.issue_token("gateway-support"))
    return {
        "accounts": {"support": {"token": {"file": str(support)}}},
        "services": {"billing": {"accounts": ["sales", "support"]}},
    }


async def test_the_session_cookie_stays_with_its_account(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, two_accounts(farm, simulator))

    for account in ("sales", "support", "sales", "support"):
        assert (await gateway.dial({"media": "voice", "account": account})).status == 201

    sessions = [request.cookies().get("JSESSIONID") for request in simulator.creates()]
    assert sessions[:2] == [None, None]
    assert sessions[2] is not None
    assert sessions[3] is not None
    assert sessions[2] != sessions[3]
    assert simulator.session_mixups == 0
    for request in simulator.creates():
        assert sum(name == "Cookie" for name, _ in request.headers) == 1
        assert request.raw.count(b"ccmessaging-token") == 1


async def test_the_token_is_sent_as_a_field_as_well_when_that_is_set(farm: Farm) -> None:
    simulator = await farm.simulator()
    token = simulator.issue_token("gateway-sales")
    gateway = await farm.gateway(simulator, {"upstream": {"token_header": True}}, token=token)

    await gateway.dial()

    (request,) = simulator.creates()
    assert request.header("ccmessaging-token") == token
    assert request.cookies()["ccmessaging-token"] == token


async def test_without_an_account_the_services_accounts_take_turns(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, two_accounts(farm, simulator))

    used = [(await gateway.dial()).json["account"] for _ in range(4)]

    assert used == ["sales", "support", "sales", "support"]


async def test_one_line_and_one_count_tell_of_a_call(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    await gateway.dial(headers={"X-Request-ID": "r-7"})

    (line,) = gateway.lines.requests()
    host, _, port = simulator.endpoints[0].removeprefix("https://").rpartition(":")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert re.fullmatch(r"[0-9a-f]{32}", line.pop("trace_id"))
    assert re.fullmatch(r"[0-9a-f]{16}", line.pop("span_id"))
    assert line.pop("duration") >= line.pop("upstream.duration") > 0
    assert line == {
        "level": "info",
        "event": "request.forwarded",
        "request_id": "r-7",
        "service": "billing",
        "account": "sales",
        "operation": "create",
        "media": "voice",
        "outcome": "accepted",
        "result_code": "0",
        "http.request.method": "POST",
        "http.route": "/dial",
        "http.response.status_code": 201,
        "client.address": "127.0.0.1",
        "server.address": host,
        "server.port": int(port),
        "attempts": 1,
    }
    metrics = await gateway.metrics()
    endpoint = simulator.endpoints[0]
    assert metrics['gateway_requests_total{code="ok",operation="create",service="billing"}'] == 1
    assert metrics['gateway_request_duration_seconds_count{operation="create",outcome="accepted"}'] == 1
    assert (
        metrics[
            f'gateway_upstream_requests_total{{account="sales",endpoint="{endpoint}",operation="create",'
            'outcome="accepted",result_code="0"}'
        ]
        == 1
    )
    assert metrics[f'gateway_upstream_duration_seconds_count{{endpoint="{endpoint}",operation="create"}}'] == 1
    assert metrics['gateway_requests_in_flight{operation="create"}'] == 0
    assert metrics['gateway_authentication_total{method="api_key",result="accepted"}'] == 1
    assert metrics[f'gateway_upstream_connections{{endpoint="{endpoint}",state="idle"}}'] == 1


async def test_two_services_have_their_own_keys_and_accounts(farm: Farm) -> None:
    simulator = await farm.simulator()
    support = farm.directory / "support-token"
    support.write_text(simulator.issue_token("gateway-support"))
    gateway = await farm.gateway(
        simulator,
        {
            "accounts": {"support": {"token": {"file": str(support)}}},
            "services": {"care": {"accounts": ["support"], "credentials": [{"api_key": digest(OTHER)}]}},
        },
    )

    mine = await gateway.dial(key=OTHER)
    theirs = await gateway.dial({"media": "voice", "account": "sales"}, key=OTHER)
    nobodys = await gateway.dial({"media": "voice", "account": "nobodys"}, key=OTHER)

    assert (mine.status, mine.json["account"]) == (201, "support")
    assert (theirs.status, theirs.json["code"]) == (403, "forbidden")
    assert theirs.json["detail"] == nobodys.json["detail"]
    assert len(simulator.creates()) == 1


async def test_many_calls_at_once_share_connections_and_each_is_sent_once(farm: Farm) -> None:
    simulator = await farm.simulator(nslb_ports=(0, 0))
    gateway = await farm.gateway(simulator, {"upstream": {"connections": 4}})

    answers = await asyncio.gather(*(gateway.dial() for _ in range(60)))

    assert [answer.status for answer in answers] == [201] * 60
    assert len(simulator.creates()) == 60
    assert simulator.connections <= 8
    assert len({answer.json["id"] for answer in answers}) == 60


async def test_with_every_connection_busy_for_too_long_a_call_is_refused_and_not_sent(farm: Farm) -> None:
    simulator = await farm.simulator()
    tight = {"connections": 1, "timeouts": {"connect": 0.2, "response": 1}}
    gateway = await farm.gateway(simulator, {"upstream": tight})
    simulator.fault(Fault("silence", operation="create", times=1))
    waiting = asyncio.create_task(gateway.dial())
    while not simulator.creates():
        await asyncio.sleep(0.005)

    refused = await gateway.dial()

    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (503, "overloaded", "not_sent")
    assert len(simulator.creates()) == 1
    metrics = await gateway.metrics()
    assert metrics['gateway_rejected_total{reason="overload",service="billing"}'] == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
