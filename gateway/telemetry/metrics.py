"""The metrics of the contract, with their bound children looked up once.

Owns the registry and every series in it. Refuses label values that come from outside: services, accounts and
endpoints are names of the configuration, the rest are words of fixed sets, and of result codes only so many.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from gateway.model import Outcome

NONE: Final = "-"  # no name of the configuration can be this: they begin with a letter or a digit
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOST_DIGITS: Final = 6


class ResultCodes:
    """Bounds the values of the label `result_code`.

    One to six digits stand for themselves (contract, "Metrics"), but that alone would be a million series:
    only the first `most` different ones do, the rest is `other`, like everything that isn't digits.
    """

    def __init__(self, most: int = 50) -> None:
        self._most = most
        self._seen: set[str] = set()

    def label(self, code: str | None) -> str:
        """The label value for a result code as NSLB sent it; `None` when there was none."""
        if code is None:
            return NONE
        if code in self._seen:
            return code
        if 1 <= len(code) <= _MOST_DIGITS and code.isascii() and code.isdigit() and len(self._seen) < self._most:
            self._seen.add(code)
            return code
        return "other"


class Metrics:
    """The registry and one method for each thing that is counted. Durations are in seconds."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        self.result_codes = ResultCodes()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, namespace="gateway", registry=registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(name, what, labels, namespace="gateway", registry=registry)

        def histogram(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(name, what, labels, namespace="gateway", registry=registry, buckets=BUCKETS)

        self._requests = counter("requests", "Requests of callers.", "service", "operation", "code")
        self._request_duration = histogram(
            "request_duration_seconds", "Whole requests, as the caller sees them.", "operation", "outcome"
        )
        self._upstream_requests = counter(
            "upstream_requests",
            "Attempts at an endpoint.",
            "endpoint",
            "account",
            "operation",
            "outcome",
            "result_code",
        )
        self._upstream_duration = histogram(
            "upstream_duration_seconds",
            "From the first byte sent to NSLB to the end of its answer.",
            "endpoint",
            "operation",
        )
        self._in_flight = gauge("requests_in_flight", "Requests under way.", "operation")
        self._authentication = counter("authentication", "Attempts of callers to authenticate.", "method", "result")
        self._rejected = counter("rejected", "Requests refused for want of room.", "service", "reason")
        self._connections = gauge("upstream_connections", "Connections to NSLB, idle or busy.", "endpoint", "state")
        self._event_loop_lag = gauge(
            "event_loop_lag_seconds", "The longest that the event loop was late in the last 15 seconds."
        )
        self._certificate_expiry = gauge(
            "certificate_expiry_timestamp_seconds", "When the certificate of that role expires.", "role"
        )
        self._reloads = counter("config_reloads", "Reloads of the configuration.", "result")
        self.config_success = gauge(
            "config_last_success_timestamp_seconds", "When the configuration in force was loaded."
        )
        Info("build", "The version that runs.", namespace="gateway", registry=registry).info({"version": version})
        ProcessCollector(namespace="gateway", registry=registry)
        self._lateness: deque[float] = deque(maxlen=15)
        self._bound_requests: dict[tuple[str | None, str, str], Counter] = {}
        self._bound_durations: dict[tuple[str, str], Histogram] = {}
        self._bound_upstream: dict[tuple[str, str, str, str, str], Counter] = {}
        self._bound_upstream_durations: dict[tuple[str, str], Histogram] = {}
        self._bound_authentication: dict[tuple[str, str], Counter] = {}
        self._bound_in_flight: dict[str, Gauge] = {}

    # Looking up a child by its labels costs more than counting on it, so each is looked up once.

    def request(self, service: str | None, operation: str, code: str, outcome: str, duration: float) -> None:
        """Count a caller's request and how long it took; a service that is not known is `None`."""
        try:
            self._bound_requests[service, operation, code].inc()
        except KeyError:
            bound = self._requests.labels(service or NONE, operation, code)
            self._bound_requests[service, operation, code] = bound
            bound.inc()
        try:
            self._bound_durations[operation, outcome].observe(duration)
        except KeyError:
            observed = self._request_duration.labels(operation, outcome)
            self._bound_durations[operation, outcome] = observed
            observed.observe(duration)

    def upstream_request(  # noqa: PLR0913, PLR0917 - one argument for each label of the contract
        self,
        endpoint: str,
        account: str,
        operation: str,
        outcome: str,
        result_code: str | None,
        duration: float,
    ) -> None:
        """Count one attempt at an endpoint; its duration only when something was sent."""
        key = (endpoint, account, operation, outcome, self.result_codes.label(result_code))
        try:
            self._bound_upstream[key].inc()
        except KeyError:
            bound = self._bound_upstream[key] = self._upstream_requests.labels(*key)
            bound.inc()
        if outcome != Outcome.NOT_SENT:
            try:
                self._bound_upstream_durations[endpoint, operation].observe(duration)
            except KeyError:
                observed = self._upstream_duration.labels(endpoint, operation)
                self._bound_upstream_durations[endpoint, operation] = observed
                observed.observe(duration)

    def in_flight(self, operation: str) -> Gauge:
        """The gauge of the requests under way for an operation."""
        try:
            return self._bound_in_flight[operation]
        except KeyError:
            bound = self._bound_in_flight[operation] = self._in_flight.labels(operation)
            return bound

    def authentication(self, method: str, result: str) -> None:
        """Count an attempt of a caller to say who it is."""
        try:
            self._bound_authentication[method, result].inc()
        except KeyError:
            bound = self._bound_authentication[method, result] = self._authentication.labels(method, result)
            bound.inc()

    def rejected(self, service: str | None, reason: str) -> None:
        """Count a request refused for want of room (`overload`) or of time (`draining`)."""
        self._rejected.labels(service or NONE, reason).inc()

    def connections(self, endpoint: str, idle: int, busy: int) -> None:
        """Set how many connections an endpoint has."""
        self._connections.labels(endpoint, "idle").set(idle)
        self._connections.labels(endpoint, "busy").set(busy)

    def forget_connections(self) -> None:
        """Drop the series of all endpoints, before those that the configuration still names are set."""
        self._connections.clear()

    def certificate_expires(self, role: str, at: float) -> None:
        """Set when the certificate of a role (`upstream`, `client`, `listener`) expires, in epoch seconds."""
        self._certificate_expiry.labels(role).set(at)

    def loop_was_late(self, seconds: float) -> None:
        """Note by how much the event loop missed a second; the gauge shows the worst of the last fifteen."""
        self._lateness.append(max(0.0, seconds))
        self._event_loop_lag.set(max(self._lateness))

    def reloaded(self, result: str) -> None:
        """Count a reload: `success` or `failure`."""
        self._reloads.labels(result).inc()
