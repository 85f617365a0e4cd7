"""In whichever phase a create fails, the caller learns the truth, and NSLB never sees it twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.simulator import Fault
from tests.harness import Farm

# kind of fault, its arguments → how many creates NSLB sees, status, code, outcome
ANSWERED: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("status", {"status": 400}, 502, "upstream-rejected", "rejected"),
    ("status", {"status": 404}, 502, "upstream-rejected", "rejected"),
    ("status", {"status": 429}, 502, "upstream-rejected", "rejected"),
    ("status", {"status": 401}, 502, "upstream-credential-rejected", "rejected"),
    ("status", {"status": 403}, 502, "upstream-credential-rejected", "rejected"),
    ("status", {"status": 500}, 502, "upstream-invalid-response", "unknown"),
    ("status", {"status": 502}, 502, "upstream-invalid-response", "unknown"),
    (
        "status",
        {"status": 500, "body": '{"resultCode":"7","resultDesc":"business failure"}'},
        502,
        "upstream-rejected",
        "rejected",
    ),
    ("status", {"status": 500, "body": '{"resultCode":"0"}'}, 502, "upstream-invalid-response", "unknown"),
    ("result-code", {"code": "13", "description": "connect failed"}, 503, "no-agent-available", "rejected"),
    ("result-code", {"code": "99", "description": "no"}, 502, "upstream-rejected", "rejected"),
    ("garbage", {}, 502, "upstream-invalid-response", "unknown"),
    ("not-json", {}, 502, "upstream-invalid-response", "unknown"),
    ("no-result-code", {}, 502, "upstream-invalid-response", "unknown"),
    ("content-type", {}, 502, "upstream-invalid-response", "unknown"),
    ("encoded", {}, 502, "upstream-invalid-response", "unknown"),
    ("redirect", {}, 502, "upstream-invalid-response", "unknown"),
    ("oversize", {"bytes": 70_000}, 502, "upstream-invalid-response", "unknown"),
    ("headers-flood", {}, 502, "upstream-invalid-response", "unknown"),
    ("truncated", {}, 502, "upstream-disconnected", "unknown"),
    ("reset-request", {}, 502, "upstream-disconnected", "unknown"),
    ("close-request", {}, 502, "upstream-disconnected", "unknown"),
    ("reset-answer", {}, 502, "upstream-disconnected", "unknown"),
]


@pytest.mark.parametrize(
    ("kind", "arguments", "status", "code", "outcome"),
    ANSWERED,
    ids=[f"{kind}-{'-'.join(str(v)[:3] for v in arguments.values())}" for kind, arguments, *_ in ANSWERED],
)
async def test_after_sending_the_outcome_is_told_and_nothing_is_sent_again(
    farm: Farm, kind: str, arguments: dict[str, Any], status: int, code: str, outcome: str
) -> None:
    simulator = await farm.simulator(nslb_ports=(0, 0))
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault(kind, operation="create", times=None, **arguments))

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, outcome)
    assert len(simulator.creates()) == 1
    (line,) = gateway.lines.requests()
    assert (line["event"], line["code"], line["outcome"]) == ("request.forwarded", code, outcome)
    assert line["attempts"] == 1
    metrics = await gateway.metrics()
    assert sum(v for n, v in metrics.items() if n.startswith("gateway_upstream_requests_total")) == 1
    assert metrics[f'gateway_requests_total{{code="{code}",operation="create",service="billing"}}'] == 1


async def test_silence_is_a_timeout_with_an_unknown_outcome(farm: Farm) -> None:
    simulator = await farm.simulator(nslb_ports=(0, 0))
    gateway = await farm.gateway(simulator, {"upstream": {"timeouts": {"response": 0.2}}})
    simulator.fault(Fault("silence", operation="create", times=None))

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (504, "upstream-timeout", "unknown")
    assert len(simulator.creates()) == 1
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("kind", ["reset-accept", "reset-handshake"])
async def test_a_connection_that_never_stood_is_not_sent(farm: Farm, kind: str) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault(kind, times=None))

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "upstream-unreachable", "not_sent")
    assert answer.headers["Retry-After"] == str(answer.json["retry_after"])
    assert simulator.received == []
    (line,) = gateway.lines.requests()
    assert line["event"] == "request.refused"


async def test_a_refused_connection_is_not_sent(farm: Farm, unused_tcp_port: int) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=[f"https://127.0.0.1:{unused_tcp_port}"])

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "upstream-unreachable", "not_sent")
    assert simulator.received == []


async def test_a_peer_that_accepts_and_is_silent_is_not_sent(farm: Farm) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    simulator = await farm.simulator()
    hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = hole.sockets[0].getsockname()[1]
    gateway = await farm.gateway(
        simulator,
        {"upstream": {"timeouts": {"connect": 0.2}}},
        endpoints=[f"https://127.0.0.1:{port}"],
    )

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "upstream-unreachable", "not_sent")
    hole.close()
    await hole.wait_closed()


async def test_what_was_not_sent_goes_to_the_next_endpoint(farm: Farm, unused_tcp_port: int) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=[f"https://127.0.0.1:{unused_tcp_port}", simulator.endpoints[0]])

    answer = await gateway.dial()

    assert answer.status == 201
    assert len(simulator.creates()) == 1
    (line,) = gateway.lines.requests()
    assert line["attempts"] == 2
    metrics = await gateway.metrics()
    dead, alive = f"https://127.0.0.1:{unused_tcp_port}", simulator.endpoints[0]
    assert sum(v for n, v in metrics.items() if "upstream_requests" in n and dead in n and "not_sent" in n) == 1
    assert sum(v for n, v in metrics.items() if "upstream_requests" in n and alive in n and "accepted" in n) == 1


@pytest.mark.parametrize("kind", ["chunked", "informational", "close"])
async def test_every_documented_form_of_an_answer_is_understood(farm: Farm, kind: str) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault(kind, operation="create", times=None))

    answers = [await gateway.dial() for _ in range(3)]

    assert [answer.status for answer in answers] == [201, 201, 201]
    assert len(simulator.creates()) == 3


async def test_an_answer_that_nobody_asked_for_is_never_taken_for_the_next_one(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("unsolicited", operation="create", times=1))
    first = await gateway.dial()
    simulator.fault(Fault("result-code", operation="create", times=1, code="99", description="no"))

    second = await gateway.dial()

    assert first.status == 201
    assert (second.status, second.json["result_code"]) == (502, "99")
    assert simulator.connections == 2


async def test_a_kept_connection_that_the_peer_closed_costs_no_call(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("close", operation="create", times=None))

    for _ in range(20):
        assert (await gateway.dial()).status == 201

    assert len(simulator.creates()) == 20


async def test_a_refused_token_is_sent_again_only_when_there_is_a_newer_one(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.expire()
    refused = await gateway.dial()
    seen = len(simulator.creates())
    gateway.token_file.write_text(simulator.issue_token("gateway-sales"))

    accepted = await gateway.dial()

    assert (refused.status, refused.json["code"]) == (502, "upstream-credential-rejected")
    assert seen == 1
    assert accepted.status == 201
    assert [request.status for request in simulator.creates()] in ([401, 401, 200], [401, 200])
    assert (await gateway.dial()).status == 201


async def test_a_refused_token_stays_refused_when_the_newer_one_cannot_be_sent(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    assert (await gateway.dial()).status == 201
    await simulator.refuse()
    simulator.fault(Fault("status", operation="create", status=401, headers={"Connection": "close"}))
    gateway.token_file.write_text(simulator.issue_token("gateway-sales"))

    answer = await gateway.dial()

    # NSLB has had it, so `not_sent` would be untrue.
    assert (answer.json["code"], answer.json["outcome"]) == ("upstream-credential-rejected", "rejected")
    assert [request.status for request in simulator.creates()] == [200, 401]
    line = gateway.lines.requests()[-1]
    assert (line["event"], line["outcome"], line["attempts"]) == ("request.forwarded", "rejected", 2)
