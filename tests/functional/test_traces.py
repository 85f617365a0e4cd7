"""Traces: the spans that a collector gets, what goes on to NSLB, and that nothing is traced unless it is asked for."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway import __version__
from gateway.config import ConfigurationError, load, traced
from gateway.simulator import Fault, Simulator
from tests.harness import KEY, Farm, Harness, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BEARER = {"Authorization": f"Bearer {KEY}"}


class Collector:
    """An OTLP receiver."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.silent = False

    async def take(self, request: web.Request) -> web.Response:
        if self.silent:
            await asyncio.sleep(3600)
        exported = ExportTraceServiceRequest.FromString(await request.read())
        for resource in exported.resource_spans:
            self.resources.append({pair.key: pair.value.string_value for pair in resource.resource.attributes})
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return web.Response()

    def of(self, kind: int) -> list[Span]:
        return [span for span in self.spans if span.kind == kind]


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    collector = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    yield collector
    await runner.cleanup()


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator(queue_seconds=None, poll_seconds=0.05)


@pytest.fixture
async def gateway(collector: Collector, farm: Farm, simulator: Simulator) -> Harness:
    assert collector.spans == []
    return await farm.gateway(simulator)


def attributes(span: Span) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def told(simulator: Simulator) -> list[str | None]:
    """The `traceparent` of each create."""
    return [request.header("traceparent") for request in simulator.creates()]


async def test_a_call_has_a_span_and_its_attempt_another(
    gateway: Harness, simulator: Simulator, collector: Collector
) -> None:
    await gateway.dial(headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "r-1"})

    await until(lambda: len(collector.spans) == 2)
    (server,), (client,) = collector.of(Span.SPAN_KIND_SERVER), collector.of(Span.SPAN_KIND_CLIENT)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert server.parent_span_id.hex() == PARENT
    assert client.parent_span_id == server.span_id
    assert told(simulator) == [f"00-{TRACE}-{client.span_id.hex()}-01"]
    (line,) = gateway.lines.requests()
    assert (line["trace_id"], line["span_id"]) == (TRACE, server.span_id.hex())
    assert server.name == "POST /dial"
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/dial",
        "http.response.status_code": 201,
        "url.scheme": "http",
        "url.path": "/dial",
        "client.address": "127.0.0.1",
        "dial.request_id": "r-1",
        "dial.service": "billing",
        "dial.account": "sales",
        "dial.operation": "create",
        "dial.outcome": "accepted",
    }
    host, port = simulator.endpoints[0].removeprefix("https://").split(":")
    assert client.name == "POST"
    assert attributes(client) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": host,
        "server.port": int(port),
        "url.full": simulator.endpoints[0] + "/service-cloud/rest/webadapter/v1/webadapterfacade/createClickToCall",
        "dial.outcome": "accepted",
        "dial.result_code": "0",
    }
    assert server.start_time_unix_nano <= client.start_time_unix_nano
    assert client.start_time_unix_nano < client.end_time_unix_nano <= server.end_time_unix_nano
    assert server.status.code == client.status.code == Status.STATUS_CODE_UNSET
    assert collector.resources[0]["service.name"] == "dial-gateway"
    assert collector.resources[0]["service.version"] == __version__


async def test_each_attempt_has_a_span_of_its_own(collector: Collector, farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    await until(lambda: gateway.lines.of("token.refreshed"))
    simulator.fault(Fault("expire-now", "create"))

    assert (await gateway.dial()).status == 201

    await until(lambda: len(collector.of(Span.SPAN_KIND_SERVER)) == 1)
    clients = collector.of(Span.SPAN_KIND_CLIENT)
    assert [attributes(span)["http.response.status_code"] for span in clients] == [401, 200]
    assert [attributes(span).get("error.type") for span in clients] == ["401", None]
    assert [attributes(span).get("http.request.resend_count") for span in clients] == [None, 1]
    trace_id = clients[0].trace_id.hex()
    assert told(simulator) == [f"00-{trace_id}-{span.span_id.hex()}-01" for span in clients]
    assert len({span.span_id for span in clients}) == 2


async def test_a_call_that_may_have_been_made_is_an_error(
    gateway: Harness, simulator: Simulator, collector: Collector
) -> None:
    simulator.fault(Fault("close-request", "create"))

    await gateway.dial()

    await until(lambda: len(collector.spans) == 2)
    (server,), (client,) = collector.of(Span.SPAN_KIND_SERVER), collector.of(Span.SPAN_KIND_CLIENT)
    assert server.status.code == client.status.code == Status.STATUS_CODE_ERROR
    assert attributes(server)["error.type"] == "upstream-disconnected"
    assert attributes(client)["error.type"] == attributes(client)["dial.outcome"] == "unknown"


async def test_an_answer_that_no_agent_is_free_is_no_error_of_http(
    gateway: Harness, simulator: Simulator, collector: Collector
) -> None:
    simulator.fault(Fault("result-code", "create", code="13"))

    await gateway.dial()

    await until(lambda: len(collector.spans) == 2)
    (client,) = collector.of(Span.SPAN_KIND_CLIENT)
    assert client.status.code == Status.STATUS_CODE_UNSET
    assert (attributes(client)["dial.outcome"], attributes(client)["dial.result_code"]) == ("rejected", "13")
    assert "error.type" not in attributes(client)


async def test_a_refusal_is_no_error_of_the_server(gateway: Harness, collector: Collector) -> None:
    await gateway.dial({"media": "smoke"})
    await gateway.dial(key="dgw_" + "x" * 43)

    await until(lambda: len(collector.spans) == 2)
    assert [span.status.code for span in collector.spans] == [Status.STATUS_CODE_UNSET] * 2
    assert sorted(str(attributes(span)["dial.code"]) for span in collector.spans) == [
        "malformed-request",
        "unauthenticated",
    ]


async def test_a_head_that_can_not_be_read_and_a_method_of_nobody_are_spans_of_a_server_too(
    gateway: Harness, simulator: Simulator, collector: Collector
) -> None:
    reader, writer = await asyncio.open_connection(*gateway.server.address.rsplit(":", 1))
    writer.write(b"BREW /dial\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    assert (await gateway.request("PROPFIND", "/dial", headers=BEARER)).status == 405

    await until(lambda: len(collector.spans) == 2)
    assert [span.kind for span in collector.spans] == [Span.SPAN_KIND_SERVER] * 2
    unreadable, unknown = (attributes(span) for span in collector.spans)
    assert [span.name for span in collector.spans] == ["HTTP", "HTTP /dial"]
    assert unreadable["http.request.method"] == unknown["http.request.method"] == "_OTHER"
    assert (unreadable["http.response.status_code"], unknown["http.response.status_code"]) == (400, 405)
    assert "url.path" not in unreadable
    assert simulator.received == []


async def test_polls_that_readers_share_have_a_trace_of_their_own(gateway: Harness, collector: Collector) -> None:
    location = (await gateway.dial()).headers["Location"]

    await gateway.request("GET", location + "/events", headers=BEARER)

    await until(lambda: len(collector.of(Span.SPAN_KIND_SERVER)) == 2 and collector.of(Span.SPAN_KIND_INTERNAL))
    poll = collector.of(Span.SPAN_KIND_INTERNAL)[0]
    assert (poll.name, poll.parent_span_id) == ("poll events", b"")
    (asked,) = [span for span in collector.of(Span.SPAN_KIND_CLIENT) if span.trace_id == poll.trace_id]
    assert (asked.name, asked.parent_span_id) == ("GET", poll.span_id)


async def test_what_the_caller_does_not_sample_is_not_exported(
    gateway: Harness, simulator: Simulator, collector: Collector
) -> None:
    await gateway.dial(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await gateway.dial()

    await until(lambda: len(collector.spans) == 2)
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}
    first, second = told(simulator)
    assert str(first).startswith(f"00-{TRACE}-")
    assert (str(first)[-3:], str(second)[-3:]) == ("-00", "-01")


async def test_an_exemplar_leads_to_no_trace_that_was_not_exported(gateway: Harness, collector: Collector) -> None:
    async def exemplars() -> set[str]:
        text = (await gateway.operators("/metrics", headers={"Accept": "application/openmetrics-text"})).body.decode()
        return set(re.findall(r'# \{trace_id="([0-9a-f]{32})"\}', text))

    await gateway.dial(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert await exemplars() == set()

    await gateway.dial(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})

    await until(lambda: len(collector.spans) == 2)
    assert await exemplars() == {TRACE}


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (f"00-{TRACE}-{PARENT}-ff", "03"),  # flags that this version does not define are 0
        (f"00-{TRACE}-{PARENT}-02", "02"),
        (f"01-{TRACE}-{PARENT}-01-more", "01"),  # of a later version the sampled flag is known
        (f"cc-{TRACE}-{PARENT}-fe", "00"),
    ],
)
async def test_flags_go_on_as_far_as_they_are_defined(farm: Farm, simulator: Simulator, came: str, goes: str) -> None:
    gateway = await farm.gateway(simulator)

    await gateway.dial(headers={"traceparent": came})

    (went,) = told(simulator)
    assert str(went).startswith(f"00-{TRACE}-")
    assert str(went).endswith(f"-{goes}")


async def test_the_sampler_of_the_environment_is_asked(
    collector: Collector, farm: Farm, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "dialler")
    gateway = await farm.gateway(simulator)
    assert (await gateway.dial(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})).status == 201
    assert [str(telling)[-3:] for telling in told(simulator)] == ["-00"]

    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert (await (await farm.gateway(simulator)).dial()).status == 201

    await until(lambda: len(collector.spans) == 2)
    assert TRACE not in {span.trace_id.hex() for span in collector.spans}
    assert collector.resources[0]["service.name"] == "dialler"


async def test_a_collector_that_does_not_answer_holds_nothing(gateway: Harness, collector: Collector) -> None:
    collector.silent = True

    assert [(await gateway.dial()).status for _ in range(20)] == [201] * 20

    # The drain comes to its end as well, at the end of this test, with the collector as it is.
    async with asyncio.timeout(10):
        gateway.server.stop("test")
        await gateway.server.drain()
    assert gateway.lines.of("gateway.stopped")


async def test_no_secret_is_in_a_span(gateway: Harness, simulator: Simulator, collector: Collector) -> None:
    token = gateway.token_file.read_text().strip()
    await gateway.dial(headers={"Idempotency-Key": "secret-key"})

    await until(lambda: len(collector.spans) == 2)
    exported = "".join(str(span) for span in collector.spans)
    for secret in (token, KEY, "secret-key", "cookie", "authorization"):
        assert secret not in exported.lower() + exported
    assert simulator.creates()


async def test_without_being_asked_nothing_is_traced_or_imported(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator)
    await gateway.dial(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})

    (line,) = gateway.lines.requests()
    assert told(simulator) == [f"00-{TRACE}-{line['span_id']}-01"]
    code = "import gateway.server, sys; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_the_standard_variables_switch_it_on(environ: dict[str, str], on: bool) -> None:
    assert traced(environ) is on


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
async def test_what_can_not_be_done_is_a_fault(farm: Farm, simulator: Simulator, environ: dict[str, str]) -> None:
    gateway = await farm.gateway(simulator)

    with pytest.raises(ConfigurationError) as rejection:
        load(gateway.path, environ)

    assert ["OTEL_" in fault.message for fault in rejection.value.faults] == [True]
