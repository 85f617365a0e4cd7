"""The one record of a request, from its arrival to its answer, and the one place where it is closed.

Owns what is known of a request while it runs; when it is closed, exactly one log line and one update of the
metrics come out of it, and its spans if it is traced. Refuses to hold a credential, a header, a body or a target: what
is not in the record can't leak from it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.model import Operation, Outcome, Trace
from gateway.telemetry.logs import Log
from gateway.telemetry.metrics import NONE, Metrics

if TYPE_CHECKING:
    from gateway.telemetry.traces import Traces

_ERROR_STATUS: Final = 500


@dataclass(slots=True)
class Attempt:
    """One try at one endpoint; `duration` in seconds from the first byte written, 0 when none was.

    `status` is its HTTP status, if it had an answer. Of a request that is traced, `span_id` is what the endpoint was
    told, and `ended` is in seconds of the monotonic clock.
    """

    endpoint: str
    outcome: Outcome
    result_code: str | None
    duration: float
    status: int = 0
    span_id: str = ""
    ended: float = 0.0


class Record:
    """All that telemetry will know of one request; `started` is in seconds of the monotonic clock.

    `sent` says whether any of its bytes may have reached NSLB. `polls` counts the long polls that it shared with
    others, whose attempts are counted elsewhere. `late` says that the caller's time was over, and that it was told so.
    `asked` is the method and the path of what NSLB was asked.
    """

    # Most requests end with most of these as they are; set here, they cost nothing until they change.
    method: str | None = None
    route: str | None = None
    client_address: str | None = None
    service: str | None = None
    account: str | None = None
    operation: Operation | None = None
    media: str | None = None
    authentication: tuple[str, str] | None = None
    sent = False
    polls = 0
    late = False
    traced = False
    asked = ("_OTHER", "")
    server_address: str | None = None
    server_port: int | None = None
    upstream_duration: float | None = None
    outcome = Outcome.NOT_SENT
    code: str | None = None
    result_code: str | None = None
    status = 0
    rejected: str | None = None

    def __init__(self, started: float, request_id: str, trace: Trace) -> None:
        self.started = started
        self.request_id = request_id
        self.trace = trace
        self.attempts: list[Attempt] = []
        self._span_id = ""

    def traceparent(self) -> str:
        """What an endpoint is told of the trace: the attempt's place in it if it is traced, else the request's."""
        if not self.traced:
            return self.trace.traceparent()
        self._span_id = new_span_id()
        return Trace(self.trace.trace_id, self._span_id, self.trace.flags).traceparent()

    def tried(self, attempt: Attempt, address: str, port: int) -> None:
        """Note one try at one endpoint; what the last one met is what the log line tells."""
        self.attempts.append(attempt)
        if self.traced:
            attempt.span_id, self._span_id = self._span_id, ""
            attempt.ended = time.monotonic()
        self.server_address = address
        self.server_port = port
        if attempt.outcome is not Outcome.NOT_SENT:
            self.upstream_duration = (self.upstream_duration or 0.0) + attempt.duration


class Telemetry:
    """Makes records, and takes them to their sinks when they are closed."""

    def __init__(
        self, log: Log, metrics: Metrics, monotonic: Callable[[], float], traces: Traces | None = None
    ) -> None:
        self.log = log
        self.metrics = metrics
        self.monotonic = monotonic
        self._traces = traces

    def begin(self, request_id: str, trace: Trace) -> Record:
        """The record of a request that begins."""
        record = Record(self.monotonic(), request_id, trace)
        if self._traces is not None:
            self._traces.begin(record)
        return record

    def close(self, record: Record) -> None:
        """Write the log line of a request, count it, and export its spans. Once for each, at its very end."""
        now = self.monotonic()
        duration = now - record.started
        self._count(record, duration)
        self._write(record, duration)
        if record.traced and self._traces is not None:
            self._traces.served(record, now)

    def polled(self, record: Record) -> None:
        """Count the attempts of a long poll, which is nobody's request, and export its spans."""
        self._count_attempts(record)
        if record.traced and self._traces is not None:
            self._traces.polled(record, self.monotonic())

    def _count(self, record: Record, duration: float) -> None:
        metrics = self.metrics
        operation = record.operation or NONE
        code = record.code or "ok"
        metrics.request(record.service, operation, code, record.outcome, duration, self._exemplary(record))
        if record.authentication is not None:
            metrics.authentication(*record.authentication)
        self._count_attempts(record)
        if record.rejected is not None:
            metrics.rejected(record.service, record.rejected)

    def _exemplary(self, record: Record) -> str | None:
        """The id that an exemplar leads to: of a trace that is exported, or, where none is, of lines of the log."""
        return record.trace.trace_id if record.traced or self._traces is None else None

    def _count_attempts(self, record: Record) -> None:
        trace_id = self._exemplary(record)
        for attempt in record.attempts:
            self.metrics.upstream_request(
                attempt.endpoint,
                record.account or NONE,
                record.operation or NONE,
                attempt.outcome,
                attempt.result_code,
                attempt.duration,
                trace_id,
            )

    def _write(self, record: Record, duration: float) -> None:
        trace = record.trace
        failed = record.outcome is Outcome.UNKNOWN or record.status >= _ERROR_STATUS
        line: dict[str, object] = {
            "timestamp": "",
            "level": "warning" if failed else "info",
            "event": _event(record),
            "request_id": record.request_id,
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
        }
        _add_what_was_asked(line, record)
        line["outcome"] = record.outcome
        if record.code is not None:
            line["code"] = record.code
        if record.result_code is not None:
            line["result_code"] = self.metrics.result_codes.label(record.result_code)
        line["http.response.status_code"] = record.status
        if record.server_address is not None:
            line["server.address"] = record.server_address
            line["server.port"] = record.server_port
        line["attempts"] = len(record.attempts) + record.polls
        line["duration"] = round(duration, 6)
        if record.upstream_duration is not None:
            line["upstream.duration"] = round(record.upstream_duration, 6)
        self.log.request(line)


def new_span_id() -> str:
    """An id for a span: 16 hexadecimal digits that are not all 0 (W3C Trace Context, 3.2.2.4)."""
    return f"{random.randrange(1, 1 << 64):016x}"  # noqa: S311 - it must be of its own, and is no secret


def _event(record: Record) -> str:
    if record.sent:
        return "request.forwarded"
    return "request.refused" if record.code is not None else "request.answered"


# Fields without a value are not written; asking each is half the time of dropping them afterwards.
def _add_what_was_asked(line: dict[str, object], record: Record) -> None:
    if record.service is not None:
        line["service"] = record.service
    if record.account is not None:
        line["account"] = record.account
    if record.operation is not None:
        line["operation"] = record.operation
    if record.media is not None:
        line["media"] = record.media
    if record.method is not None:
        line["http.request.method"] = record.method
    if record.route is not None:
        line["http.route"] = record.route
    if record.client_address is not None:
        line["client.address"] = record.client_address
