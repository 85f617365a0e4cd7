"""Spans of requests, sent to a collector by OTLP: made from the one record of each, when it is closed.

Owns which requests are sampled, the names and attributes of spans (OpenTelemetry's semantic conventions for HTTP), and
the exporter. Refuses anything that is not in the record, and to hold a request up: spans are sent by a thread of their
own, and given up when the collector doesn't take them in time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from gateway.model import Outcome, Trace
from gateway.telemetry.record import Attempt, Record, new_span_id

_NAME: Final = "dial-gateway"
_OTHER_METHOD: Final = "_OTHER"
_SAMPLED: Final = 1
_ERROR_STATUS: Final = 500
_CLIENT_ERROR_STATUS: Final = 400
_NANOSECONDS: Final = 1_000_000_000

Attributes = dict[str, str | int]


class Traces:
    """The spans of this process; `version` is the gateway's, `scheme` is how callers reach it, `http` or `https`."""

    def __init__(self, version: str, scheme: str) -> None:
        self._scheme = scheme
        resource = Resource.create({SERVICE_VERSION: version})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: _NAME}))
        self._resource = resource
        self._scope = InstrumentationScope(_NAME, version)
        self._sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def begin(self, record: Record) -> None:
        """Decide whether a request is sampled, as its caller did, or as `OTEL_TRACES_SAMPLER` says."""
        trace = record.trace
        context = None
        if trace.parent_id is not None:
            context = set_span_in_context(NonRecordingSpan(_context(trace, trace.parent_id, remote=True)))
        trace_id = int(trace.trace_id, 16)
        decision = self._sampler.should_sample(context, trace_id, _NAME, SpanKind.SERVER).decision
        record.traced = decision is Decision.RECORD_AND_SAMPLE
        flags = int(trace.flags, 16) & ~_SAMPLED | record.traced
        record.trace = Trace(trace.trace_id, trace.span_id, f"{flags:02x}", trace.parent_id)

    def served(self, record: Record, now: float) -> None:
        """Export the spans of a request that has ended; `now` is in seconds of the monotonic clock."""
        # A method that is not of HTTP is told of as `_OTHER`, and so is a head that nobody can read.
        method = record.method or _OTHER_METHOD
        name = "HTTP" if method == _OTHER_METHOD else method
        found: Attributes = {
            "http.request.method": method,
            "http.response.status_code": record.status,
            "url.scheme": self._scheme,
        }
        if record.route is not None:
            name = f"{name} {record.route}"
            # The path itself is not kept: an id in it is the caller's alone.
            found |= {"http.route": record.route, "url.path": record.route}
        if record.client_address is not None:
            found["client.address"] = record.client_address
        self._close(record, now, name, SpanKind.SERVER, found)

    def polled(self, record: Record, now: float) -> None:
        """Export the spans of a long poll, which is nobody's request."""
        self._close(record, now, f"poll {record.operation}", SpanKind.INTERNAL, {})

    def _close(self, record: Record, now: float, name: str, kind: SpanKind, about: Attributes) -> None:
        ended = time.time_ns()
        trace = record.trace
        own = _context(trace, trace.span_id)
        parent = None if trace.parent_id is None else _context(trace, trace.parent_id, remote=True)
        # A 4xx is the caller's error, not this server's (semantic conventions, HTTP server spans).
        failed = record.status >= _ERROR_STATUS or record.outcome is Outcome.UNKNOWN
        began = ended - _nanoseconds(now - record.started)
        self._export(name, own, parent, kind, about | _of_request(record), (began, ended), failed=failed)
        method, path = record.asked
        for number, attempt in enumerate(record.attempts):
            finished = ended - _nanoseconds(now - attempt.ended)
            self._export(
                method,
                _context(trace, attempt.span_id or new_span_id()),
                own,
                SpanKind.CLIENT,
                _of_attempt(attempt, number, method, path),
                (finished - _nanoseconds(attempt.duration), finished),
                failed=_failed(attempt),
            )

    async def finish(self, seconds: float) -> None:
        """Send what is waiting, for so many seconds at most."""
        # It may hang at a collector that does not answer, and must not hold the process then.
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, seconds)

    def _export(  # noqa: PLR0913, PLR0917 - what makes a span
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, str | int],
        times: tuple[int, int],
        *,
        failed: bool,
    ) -> None:
        self._processor.on_end(
            ReadableSpan(
                name,
                context,
                parent,
                self._resource,
                attributes,
                kind=kind,
                status=Status(StatusCode.ERROR) if failed else Status(),
                start_time=times[0],
                end_time=times[1],
                instrumentation_scope=self._scope,
            )
        )


def _of_request(record: Record) -> Attributes:
    found: Attributes = {"dial.request_id": record.request_id, "dial.outcome": record.outcome}
    for name, value in (
        ("dial.service", record.service),
        ("dial.account", record.account),
        ("dial.operation", record.operation),
        ("dial.code", record.code),
    ):
        if value is not None:
            found[name] = value
    if record.status >= _ERROR_STATUS:
        found["error.type"] = record.code or str(record.status)
    return found


def _context(trace: Trace, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), remote, TraceFlags(int(trace.flags, 16)))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)


def _failed(attempt: Attempt) -> bool:
    # That no agent is free is an answer: to HTTP nothing has failed.
    return attempt.status >= _CLIENT_ERROR_STATUS or attempt.outcome in {Outcome.NOT_SENT, Outcome.UNKNOWN}


def _of_attempt(attempt: Attempt, number: int, method: str, path: str) -> Attributes:
    endpoint = urlsplit(attempt.endpoint)
    found: Attributes = {
        "http.request.method": method,
        "server.address": endpoint.hostname or "",
        "server.port": endpoint.port or 0,
        "url.full": attempt.endpoint + path,
        "dial.outcome": attempt.outcome,
    }
    if attempt.result_code is not None:
        found["dial.result_code"] = attempt.result_code
    if attempt.status:
        found["http.response.status_code"] = attempt.status
    if number:
        found["http.request.resend_count"] = number
    if _failed(attempt):
        status = attempt.status
        found["error.type"] = str(status) if status >= _CLIENT_ERROR_STATUS else attempt.outcome.value
    return found
