"""The metrics of the contract.

Owns the registry and every series in it. Refuses label values that come from outside: services, accounts and
endpoints are names of the configuration, the rest are words of fixed sets, and of result codes only so many.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Mapping
from itertools import product
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from gateway.model import Operation, Outcome
from gateway.problems import FAILURE_CODES
from gateway.telemetry.tallies import Counts, Distributions, Levels

NONE: Final = "-"  # no name of the configuration can be this: they begin with a letter or a digit
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOST_DIGITS: Final = 6
_AUTHENTICATIONS: Final = (
    *product(("api_key",), ("accepted", "unknown", "expired")),
    *product(("none",), ("missing", "ambiguous", "malformed")),
)
_DECISIONS: Final = ("new", "replayed", "in_progress", "mismatch")
_REASONS: Final = ("overload", "draining")
_RESULTS: Final = ("success", "failure")


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

        def counts(name: str, what: str, *labels: str) -> Counts:
            return Counts(registry, f"gateway_{name}", what, labels)

        def distributions(name: str, what: str, *labels: str) -> Distributions:
            return Distributions(registry, f"gateway_{name}", what, labels, BUCKETS)

        self._requests = counts("requests", "Requests of callers.", "service", "operation", "code")
        self._request_duration = distributions(
            "request_duration_seconds", "Whole requests, as the caller sees them.", "operation", "outcome"
        )
        self._upstream_requests = counts(
            "upstream_requests",
            "Attempts at an endpoint.",
            "endpoint",
            "account",
            "operation",
            "outcome",
            "result_code",
        )
        self._upstream_duration = distributions(
            "upstream_duration_seconds",
            "From the first byte sent to NSLB to the end of its answer.",
            "endpoint",
            "operation",
        )
        self._in_flight = Levels(registry, "gateway_requests_in_flight", "Requests under way.", "operation")
        self._authentication = counts("authentication", "Attempts of callers to authenticate.", "method", "result")
        self._rejected = counts("rejected", "Requests refused for want of room.", "service", "reason")
        self._connections = gauge("upstream_connections", "Connections to NSLB, idle or busy.", "endpoint", "state")
        self._token_expiry = gauge(
            "token_expiry_timestamp_seconds", "When the account's present token expires.", "account"
        )
        self._token_refreshes = counts("token_refreshes", "Tokens obtained, or not.", "account", "trigger", "result")
        self._token_refresh_duration = distributions(
            "token_refresh_duration_seconds", "How long it took to obtain a token, or to fail."
        )
        self._idempotency = counts("idempotency", "Requests with an Idempotency-Key.", "result")
        self._store_available = gauge("store_available", "Whether the store can be reached.")
        self._store_operations = counts("store_operations", "What was asked of the store.", "operation", "result")
        self._store_duration = distributions(
            "store_duration_seconds", "How long the store took to answer.", "operation"
        )
        self._event_loop_lag = gauge(
            "event_loop_lag_seconds", "The longest that the event loop was late in the last 15 seconds."
        )
        self._certificate_expiry = gauge(
            "certificate_expiry_timestamp_seconds", "When the certificate of that role expires.", "role"
        )
        self._lines_lost = counter("log_lines_lost", "Lines of the log that nobody took in time.")
        self._reloads = counter("config_reloads", "Reloads of the configuration.", "result")
        self._config_valid = gauge(
            "config_last_reload_successful", "Whether the configuration in force is what its files say by now."
        )
        self._config_valid.set(1)
        self.config_success = gauge(
            "config_last_success_timestamp_seconds", "When the configuration in force was loaded."
        )
        Info("build", "The version that runs.", namespace="gateway", registry=registry).info({"version": version})
        ProcessCollector(namespace="gateway", registry=registry)
        self._lateness: deque[float] = deque(maxlen=15)
        self._authentication.expect(_AUTHENTICATIONS)
        self._idempotency.expect(product(_DECISIONS))
        for result in _RESULTS:
            self._reloads.labels(result)

    def expect(self, services: Collection[str], accounts: Collection[str], endpoints: Collection[str]) -> None:
        """Show from its beginning what is rare and must be noticed, by the names of a configuration."""
        create, missed = (Operation.CREATE,), (Outcome.UNKNOWN, Outcome.NOT_SENT)
        self._requests.expect(product(services, create, ("ok", *FAILURE_CODES)))
        self._request_duration.expect(product(create, Outcome))
        self._upstream_requests.expect(product(endpoints, accounts, create, missed, (NONE,)))
        self._upstream_duration.expect(product(endpoints, create))
        self._rejected.expect(product((NONE, *services), _REASONS))

    def expect_refreshes(self, account: str, triggers: Collection[str]) -> None:
        """The same of the refreshes of an account."""
        self._token_refreshes.expect(product((account,), triggers, _RESULTS))

    def request(  # noqa: PLR0913, PLR0917 - one argument for each label of the contract
        self, service: str | None, operation: str, code: str, outcome: str, duration: float, trace_id: str | None
    ) -> None:
        """Count a caller's request and how long it took; a service that is not known is `None`."""
        self._requests.add(service or NONE, operation, code)
        self._request_duration.observe(duration, trace_id, operation, outcome)

    def upstream_request(  # noqa: PLR0913, PLR0917 - one argument for each label of the contract
        self,
        endpoint: str,
        account: str,
        operation: str,
        outcome: Outcome,
        result_code: str | None,
        duration: float,
        trace_id: str | None,
    ) -> None:
        """Count one attempt at an endpoint; its duration only when something was sent."""
        label = self.result_codes.label(result_code)
        self._upstream_requests.add(endpoint, account, operation, outcome, label)
        if outcome is not Outcome.NOT_SENT:
            self._upstream_duration.observe(duration, trace_id, endpoint, operation)

    def entered(self, operation: str) -> None:
        """Note a request under way for an operation."""
        self._in_flight.move(operation, 1)

    def left(self, operation: str) -> None:
        """Note the end of one."""
        self._in_flight.move(operation, -1)

    def authentication(self, method: str, result: str) -> None:
        """Count an attempt of a caller to say who it is."""
        self._authentication.add(method, result)

    def rejected(self, service: str | None, reason: str) -> None:
        """Count a request refused for want of room (`overload`) or of time (`draining`)."""
        self._rejected.add(service or NONE, reason)

    def connections(self, endpoint: str, idle: int, busy: int) -> None:
        """Set how many connections an endpoint has."""
        self._connections.labels(endpoint, "idle").set(idle)
        self._connections.labels(endpoint, "busy").set(busy)

    def forget_connections(self) -> None:
        """Drop the series of all endpoints, before those that the configuration still names are set."""
        self._connections.clear()

    def certificates_expire(self, at: Mapping[str, float]) -> None:
        """Set when the certificate of each role (`upstream`, `fabric`, `client`, `listener`) expires, in epoch seconds.

        Of a role that is not named nothing is known any more.
        """
        self._certificate_expiry.clear()
        for role, expiry in at.items():
            self._certificate_expiry.labels(role).set(expiry)

    def token_expires(self, account: str, at: float) -> None:
        """Set when the present token of an account expires, in epoch seconds."""
        self._token_expiry.labels(account).set(at)

    def forget_account(self, account: str) -> None:
        """Drop the gauge of an account that is no more."""
        with contextlib.suppress(KeyError):
            self._token_expiry.remove(account)

    def token_refreshed(self, account: str, trigger: str, result: str, duration: float | None = None) -> None:
        """Count a refresh (`success` or `failure`), and how long it took if it was made here."""
        self._token_refreshes.add(account, trigger, result)
        if duration is not None:
            self._token_refresh_duration.observe(duration, None)

    def idempotency(self, result: str) -> None:
        """Count a request with an `Idempotency-Key`: `new`, `replayed`, `in_progress` or `mismatch`."""
        self._idempotency.add(result)

    def store_available(self, *, available: bool) -> None:
        """Set whether the store can be reached."""
        self._store_available.set(available)

    def store_operation(self, operation: str, result: str, duration: float | None = None) -> None:
        """Count what was asked of the store: `success`, `refused` or `unavailable`."""
        self._store_operations.add(operation, result)
        if duration is not None:
            self._store_duration.observe(duration, None, operation)

    def loop_was_late(self, seconds: float) -> None:
        """Note by how much the event loop missed a second; the gauge shows the worst of the last fifteen."""
        self._lateness.append(max(0.0, seconds))
        self._event_loop_lag.set(max(self._lateness))

    def lines_lost(self, lines: int) -> None:
        """Count lines of the log that could not be written."""
        self._lines_lost.inc(lines)

    def reloaded(self, result: str) -> None:
        """Count a reload: `success` or `failure`."""
        self._reloads.labels(result).inc()
        self._config_valid.set(result == "success")
