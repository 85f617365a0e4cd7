"""The operators' listener: probes, status and metrics."""

from __future__ import annotations

import pytest

from gateway.simulator import Fault
from tests.harness import Farm


@pytest.mark.parametrize(("path", "word"), [("/livez", "alive"), ("/readyz", "ready"), ("/startupz", "started")])
async def test_a_running_gateway_says_so(farm: Farm, path: str, word: str) -> None:
    gateway = await farm.gateway(await farm.simulator())

    answer = await gateway.operators(path)

    assert (answer.status, answer.body) == (200, f"{word}\n".encode())


async def test_readiness_does_not_depend_on_the_upstream(farm: Farm, unused_tcp_port: int) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=[f"https://127.0.0.1:{unused_tcp_port}"])
    assert (await gateway.dial()).status == 503

    assert (await gateway.operators("/readyz")).status == 200


async def test_status_tells_of_endpoints_and_accounts_without_a_secret(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    await gateway.dial()

    answer = await gateway.operators("/status")

    status = answer.json
    assert status["endpoints"][0]["endpoint"] == simulator.endpoints[0]
    assert status["endpoints"][0]["connections"] == {"idle": 1, "busy": 0, "connecting": 0}
    assert status["accounts"] == [
        {
            "account": "sales",
            "source": "file",
            "state": "fresh",
            "usable": True,
            "generation": 1,
            "token_age_seconds": pytest.approx(0, abs=60),
            "token_expires": None,
            "last_refresh": None,
        }
    ]
    assert status["store"] == {"kind": "memory", "available": True}
    assert gateway.token_file.read_bytes().strip() not in answer.body


async def test_metrics_come_as_prometheus_text_and_as_openmetrics(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator())

    text = await gateway.operators("/metrics")
    openmetrics = await gateway.operators("/metrics", headers={"Accept": "application/openmetrics-text"})

    assert text.headers["Content-Type"].startswith("text/plain")
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")
    for line in text.body.decode().splitlines():
        assert line.startswith(("# HELP gateway_", "# TYPE gateway_", "gateway_"))


async def test_what_is_rare_is_shown_before_it_happens(farm: Farm) -> None:
    """What counts from 1 has no increase in Prometheus."""
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    endpoint = simulator.endpoints[0]
    upstream = f'gateway_upstream_requests_total{{account="sales",endpoint="{endpoint}",operation="create"'
    rare = (
        'gateway_requests_total{code="ok",operation="create",service="billing"}',
        'gateway_requests_total{code="upstream-disconnected",operation="create",service="billing"}',
        'gateway_requests_total{code="internal",operation="create",service="billing"}',
        upstream + ',outcome="unknown",result_code="-"}',
        upstream + ',outcome="not_sent",result_code="-"}',
        'gateway_request_duration_seconds_count{operation="create",outcome="unknown"}',
        'gateway_token_refreshes_total{account="sales",result="failure",trigger="early"}',
        'gateway_rejected_total{reason="overload",service="billing"}',
        'gateway_authentication_total{method="api_key",result="expired"}',
        'gateway_idempotency_total{result="mismatch"}',
        'gateway_config_reloads_total{result="failure"}',
    )
    before = await gateway.metrics()
    simulator.fault(Fault("close-request", "create"))

    assert (await gateway.dial()).json["outcome"] == "unknown"

    after = await gateway.metrics()
    assert [before[name] for name in rare] == [0.0] * len(rare)
    risen = {name for name in rare if after[name] > before[name]}
    assert risen == {rare[1], rare[3], rare[5]}


async def test_openmetrics_leads_from_a_slow_bucket_to_the_trace_that_was_slow(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator())
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await gateway.dial(headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})

    text = (await gateway.operators("/metrics")).body.decode()
    openmetrics = (
        await gateway.operators("/metrics", headers={"Accept": "application/openmetrics-text"})
    ).body.decode()

    for name in ("gateway_request_duration_seconds", "gateway_upstream_duration_seconds"):
        (told,) = [line for line in openmetrics.splitlines() if line.startswith(f"{name}_bucket") and " # " in line]
        assert f'# {{trace_id="{trace_id}"}} ' in told
    assert trace_id not in text


async def test_nothing_else_is_there_and_callers_routes_are_not(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator())

    for path in ("/dial", "/", "/debug", "/metrics/"):
        assert (await gateway.operators(path)).status == 404


async def test_a_version_that_is_none_gets_the_plain_text(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator())

    answer = await gateway.operators("/metrics", headers={"Accept": "application/openmetrics-text; version=abc"})

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert gateway.lines.of("library.message", "internal.fault") == []
