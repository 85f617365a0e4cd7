"""The one record of a request, from its arrival to its answer, and the one place where it is closed.

Owns what is known of a request while it runs; when it is closed, exactly one log line and one update of the
metrics come out of it. Refuses to hold a credential, a header, a body or a target: what is not in the record
can't leak from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.model import Operation, Outcome, Trace
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import NONE, Metrics

_ERROR_STATUS: Final = 500


class Attempt(NamedTuple):
    """One try at one endpoint; `duration` in seconds from the first byte written, 0 when none was."""

    endpoint: str
    outcome: Outcome
    result_code: str | None
    duration: float


class Record:
    """All that telemetry will know of one request; `started` is in seconds of the monotonic clock.

    `sent` says whether any of its bytes may have reached NSLB.
    """

    __slots__ = (
        "account",
        "attempts",
        "authentication",
        "client_address",
        "code",
        "media",
        "method",
        "operation",
        "outcome",
        "rejected",
        "request_id",
        "result_code",
        "route",
        "sent",
        "server_address",
        "server_port",
        "service",
        "started",
        "status",
        "trace",
        "upstream_duration",
    )

    def __init__(self, started: float, request_id: str, trace: Trace) -> None:
        self.started = started
        self.request_id = request_id
        self.trace = trace
        self.method: str | None = None
        self.route: str | None = None
        self.client_address: str | None = None
        self.service: str | None = None
        self.account: str | None = None
        self.operation: Operation | None = None
        self.media: str | None = None
        self.authentication: tuple[str, str] | None = None
        self.attempts: list[Attempt] = []
        self.sent = False
        self.server_address: str | None = None
        self.server_port: int | None = None
        self.upstream_duration: float | None = None
        self.outcome = Outcome.NOT_SENT
        self.code: str | None = None
        self.result_code: str | None = None
        self.status = 0
        self.rejected: str | None = None

    def tried(self, attempt: Attempt, address: str, port: int) -> None:
        """Note one try at one endpoint; what the last one met is what the log line tells."""
        self.attempts.append(attempt)
        self.server_address = address
        self.server_port = port
        if attempt.outcome is not Outcome.NOT_SENT:
            self.upstream_duration = (self.upstream_duration or 0.0) + attempt.duration


class Telemetry:
    """Takes closed records to their sinks."""

    def __init__(self, log: Log, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self.log = log
        self.metrics = metrics
        self.monotonic = monotonic

    def close(self, record: Record) -> None:
        """Write the log line of a request and count it. Once for each request, at its very end."""
        duration = self.monotonic() - record.started
        self._count(record, duration)
        self._write(record, duration)

    def _count(self, record: Record, duration: float) -> None:
        metrics = self.metrics
        operation = record.operation or NONE
        metrics.request(record.service, operation, record.code or "ok", record.outcome, duration)
        if record.authentication is not None:
            metrics.authentication(*record.authentication)
        for attempt in record.attempts:
            metrics.upstream_request(
                attempt.endpoint,
                record.account or NONE,
                operation,
                attempt.outcome,
                attempt.result_code,
                attempt.duration,
            )
        if record.rejected is not None:
            metrics.rejected(record.service, record.rejected)

    def _write(self, record: Record, duration: float) -> None:
        trace = record.trace
        fields = {
            "request_id": record.request_id,
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
            "service": record.service,
            "account": record.account,
            "operation": record.operation,
            "media": record.media,
            "outcome": record.outcome,
            "code": record.code,
            "result_code": self.metrics.result_codes.label(record.result_code)
            if record.result_code is not None
            else None,
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "client.address": record.client_address,
            "server.address": record.server_address,
            "server.port": record.server_port,
            "attempts": len(record.attempts),
            "duration": round(duration, 6),
            "upstream.duration": round(record.upstream_duration, 6) if record.upstream_duration is not None else None,
        }
        event = "request.forwarded" if record.sent else "request.refused"
        if record.outcome is Outcome.UNKNOWN or record.status >= _ERROR_STATUS:
            self.log.warning(event, **fields)
        else:
            self.log.info(event, **fields)
