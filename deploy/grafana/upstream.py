"""*Upstream*: the contact centre as the gateway sees it, endpoint by endpoint."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.colours import BAD, CALM, GOOD, OUTCOMES, WARN
from deploy.grafana.panels import QUARTER, THIRD, lines, number, page
from deploy.grafana.queries import chosen, mean, quantile, quantile_of_all, quantiles, rate, total

_DAY: Final = 86_400
_DIALS: Final = 'operation="create"'


def upstream() -> Dashboard:
    """The dashboard."""
    attempts, duration = "gateway_upstream_requests_total", "gateway_upstream_duration_seconds"
    own = 'account=~"$account"'
    accepted = (_DIALS, 'outcome="accepted"')
    all_ = total("endpoint", rate(attempts, own))
    failed = total("endpoint", rate(attempts, own, 'outcome=~"not_sent|unknown"'))
    return page(
        "dial-gateway-upstream",
        "Dial gateway / Upstream",
        "NSLB by endpoint: attempts, outcomes, latency, connections, certificates.",
        [
            (
                "Now",
                [
                    number(
                        "Attempts",
                        "Requests to NSLB, a second.",
                        "reqps",
                        total("", rate(attempts, own)),
                        width=QUARTER,
                        graph=True,
                        decimals=1,
                    ),
                    number(
                        "Latency, p99",
                        "Within which NSLB answered 99 of 100 dials, in the time shown.",
                        "s",
                        quantile_of_all(0.99, duration, _DIALS),
                        width=QUARTER,
                        steps=((None, GOOD), (0.5, WARN), (1, BAD)),
                        runbook="DialGatewayLatencyBudgetBurnsFast",
                    ),
                    number(
                        "Connections",
                        "Open connections to NSLB.",
                        "short",
                        total("", chosen("gateway_upstream_connections")),
                        width=QUARTER,
                        graph=True,
                    ),
                    number(
                        "First certificate to end",
                        "Time until the first of all certificates ends.",
                        "s",
                        f"min({chosen('gateway_certificate_expiry_timestamp_seconds')}) - time()",
                        width=QUARTER,
                        steps=((None, BAD), (2 * _DAY, WARN), (14 * _DAY, GOOD)),
                        decimals=0,
                        runbook="DialGatewayCertificateNearExpiry",
                    ),
                ],
            ),
            (
                "Attempts",
                [
                    lines(
                        "Attempts by outcome",
                        "Of all operations. `unknown` of a dial: a phone that may have rung.",
                        "reqps",
                        [(total("outcome", rate(attempts, own)), "{{outcome}}")],
                        bars=True,
                        stacked=True,
                        colours=OUTCOMES,
                        runbook="DialGatewayOutcomesUnknown",
                        logs='outcome="${__field.labels.outcome}" | attempts > 0',
                    ),
                    lines(
                        "Attempts by endpoint",
                        "Calls are shared over connections that are open.",
                        "reqps",
                        [(all_, "{{endpoint}}")],
                        stacked=True,
                    ),
                    lines(
                        "Failing attempts by endpoint",
                        "Part of its attempts that did not reach it (`not_sent`), or were not answered (`unknown`).",
                        "percentunit",
                        [(f"({failed} or 0 * {all_}) / ({all_} > 0)", "{{endpoint}}")],
                        runbook="DialGatewayErrorBudgetBurnsFast",
                        logs='outcome=~"not_sent|unknown" | attempts > 0',
                    ),
                    lines(
                        "Answers by result code",
                        "NSLB's `resultCode`; `-` are attempts without one.",
                        "reqps",
                        [(total("result_code", rate(attempts, own)), "{{result_code}}")],
                        bars=True,
                        stacked=True,
                        colours={"0": GOOD, "-": WARN},
                        hue=CALM,
                        logs='result_code="${__field.labels.result_code}" | attempts > 0',
                        # A line without an answer has no result code; nor has one of a request that was never tried.
                        logs_of={"-": 'result_code="" | attempts > 0'},
                    ),
                ],
            ),
            (
                "Latency",
                [
                    lines(
                        "Latency of dials",
                        "From the first byte sent to the end of the answer; the points lead to traces.",
                        "s",
                        quantiles(duration, _DIALS),
                        exemplars=True,
                        runbook="DialGatewayLatencyBudgetBurnsFast",
                    ),
                    lines(
                        "Latency of dials by endpoint, p99",
                        "One that is slower than the others is the one to look at.",
                        "s",
                        [(quantile(0.99, duration, "endpoint", _DIALS), "{{endpoint}}")],
                    ),
                    lines(
                        "Latency by operation, p90",
                        "Of a poll (`events`) it is how long NSLB held it, which is no fault.",
                        "s",
                        [(quantile(0.9, duration, "operation"), "{{operation}}")],
                    ),
                    lines(
                        "Share of the gateway in the latency of dials",
                        "Mean time of an accepted dial, and of an attempt: the rest is the gateway's, or waiting.",
                        "s",
                        [
                            (mean("gateway_request_duration_seconds", *accepted), "dials"),
                            (mean(duration, _DIALS), "attempts"),
                        ],
                    ),
                ],
            ),
            (
                "Connections and certificates",
                [
                    lines(
                        "Connections by state",
                        "Idle ones wait to be used again; busy ones carry a request, or a poll.",
                        "short",
                        [(total("state", chosen("gateway_upstream_connections")), "{{state}}")],
                        width=THIRD,
                        stacked=True,
                        colours={"idle": CALM, "busy": WARN},
                    ),
                    lines(
                        "Connections by endpoint",
                        "Idle and busy.",
                        "short",
                        [(total("endpoint", chosen("gateway_upstream_connections")), "{{endpoint}}")],
                        width=THIRD,
                        stacked=True,
                    ),
                    number(
                        "Time until certificates end",
                        "By role: NSLB's (`upstream`), ours to NSLB (`client`), ours to callers (`listener`).",
                        "s",
                        f"min by (role) ({chosen('gateway_certificate_expiry_timestamp_seconds')}) - time()",
                        each="{{role}}",
                        width=THIRD,
                        decimals=0,
                        steps=((None, BAD), (2 * _DAY, WARN), (14 * _DAY, GOOD)),
                        runbook="DialGatewayCertificateNearExpiry",
                    ),
                ],
            ),
        ],
    )
