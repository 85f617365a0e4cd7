"""The *Overview*: how dials go, in the four golden signals, and what is left of the error budget."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.colours import BAD, CALM, CODES, FAINT, GOOD, OUTCOMES, WARN
from deploy.grafana.panels import THIRD, lines, number, page
from deploy.grafana.queries import chosen, events, from_birth, or_none, quantile_of_all, quantiles, rate, some, total
from deploy.prometheus.objectives import BAD as BAD_DIALS
from deploy.prometheus.objectives import MAY_FAIL

_DIALS: Final = ('operation="create"', 'service=~"$service"')
_UNKNOWN: Final = ('operation="create"', 'outcome="unknown"', 'account=~"$account"')


def overview() -> Dashboard:
    """The dashboard."""
    requests, duration = "gateway_requests_total", "gateway_request_duration_seconds"
    dials = total("", rate(requests, *_DIALS))
    failing = f"({total('', rate(requests, *_DIALS, BAD_DIALS))} or vector(0))"
    by_code = total("code", rate(requests, *_DIALS, BAD_DIALS))
    of_month, bad_of_month = (
        total("", f'sum_over_time(job:gateway_{kind}:increase5m{{job=~"$job"}}[30d])')
        for kind in ("dials", "dials_bad")
    )
    attempts = "gateway_upstream_requests_total"
    unknown = total("", from_birth(attempts, *_UNKNOWN)) + " or vector(0)"
    rejected = total("reason", rate("gateway_rejected_total", 'service=~"$service|-"'))
    accepted = ('operation="create"', 'outcome="accepted"')
    return page(
        "dial-gateway-overview",
        "Dial gateway / Overview",
        "How dials go: traffic, errors, latency, saturation, and what is left of the error budget.",
        [
            (
                "Now",
                [
                    number("Dials", "Dials asked for, a second.", "reqps", dials, graph=True, decimals=1),
                    number(
                        "Good dials",
                        "Dials that did not fail for a reason that is not their caller's.",
                        "percentunit",
                        f"1 - {failing} / ({dials} > 0)",
                        steps=((None, BAD), (0.99, WARN), (1 - MAY_FAIL, GOOD)),
                        decimals=2,
                        runbook="DialGatewayErrorBudgetBurnsFast",
                    ),
                    number(
                        "Error budget left",
                        "Of the dials of 30 days that may fail (one of a thousand), how many are left; of whole jobs, "
                        "whatever service is chosen. Of fewer days if Prometheus keeps fewer (15 by default).",
                        "percentunit",
                        f"1 - {bad_of_month} / ({of_month} > 0) / {MAY_FAIL}",
                        steps=((None, BAD), (0, WARN), (0.25, GOOD)),
                        decimals=0,
                        runbook="DialGatewayErrorBudgetBurns",
                    ),
                    number(
                        "Nobody knows",
                        "Dials that were sent, and of which nobody knows whether a phone rang, in the time shown.",
                        "short",
                        unknown,
                        steps=((None, GOOD), (0.5, WARN), (3.5, BAD)),
                        decimals=0,
                        runbook="DialGatewayOutcomesUnknown",
                    ),
                    number(
                        "Latency, p99",
                        "Within which 99 of 100 accepted dials were answered, in the time shown.",
                        "s",
                        quantile_of_all(0.99, duration, *accepted),
                        steps=((None, GOOD), (0.5, WARN), (1, BAD)),
                        runbook="DialGatewayLatencyBudgetBurnsFast",
                    ),
                    number(
                        "Gateways",
                        "Gateways that are scraped.",
                        "short",
                        f"count({chosen('gateway_build_info')}) or vector(0)",
                        steps=((None, BAD), (1, GOOD)),
                        runbook="DialGatewayAbsent",
                    ),
                ],
            ),
            (
                "What became of dials",
                [
                    lines(
                        "Dials by what became of them",
                        "`ok`, or the code of the problem that the caller was told of.",
                        "reqps",
                        [(some(total("code", rate(requests, *_DIALS))), "{{code}}")],
                        width=16,
                        bars=True,
                        stacked=True,
                        colours=CODES,
                        hue=CALM,
                        runbook="DialGatewayErrorBudgetBurnsFast",
                        logs='operation="create" | code="${__field.labels.code}"',
                        logs_of={"ok": 'operation="create" | code=""'},  # a line without a problem has no code
                    ),
                    lines(
                        "Nobody knows whether a phone rang",
                        "Dials that were sent and not answered in a way that tells. There should be none.",
                        "short",
                        [
                            (
                                or_none(total("endpoint", events(attempts, *_UNKNOWN)), "endpoint"),
                                "{{endpoint}}",
                            )
                        ],
                        width=THIRD,
                        bars=True,
                        colours={"none": GOOD},
                        hue=BAD,
                        runbook="DialGatewayOutcomesUnknown",
                        logs='operation="create" | outcome="unknown" | attempts > 0',
                    ),
                ],
            ),
            (
                "The four golden signals",
                [
                    lines(
                        "Latency of accepted dials",
                        "As callers see it; the points are single requests, and lead to their traces.",
                        "s",
                        quantiles(duration, *accepted),
                        exemplars=True,
                        marks=[(1, WARN)],
                        runbook="DialGatewayLatencyBudgetBurnsFast",
                    ),
                    lines(
                        "Traffic",
                        "Requests of callers; `-` are those that are none of NSLB's operations.",
                        "reqps",
                        [(total("operation", rate(requests, 'service=~"$service"')), "{{operation}}")],
                        stacked=True,
                    ),
                    lines(
                        "Errors",
                        "Part of the dials that failed for a reason that is not their caller's, by code.",
                        "percentunit",
                        [(or_none(f"{by_code} / on () group_left () ({dials} > 0)", "code"), "{{code}}")],
                        stacked=True,
                        colours={"none": GOOD, **CODES},
                        marks=[(MAY_FAIL, WARN)],
                        runbook="DialGatewayErrorBudgetBurnsFast",
                    ),
                    lines(
                        "Saturation",
                        "Requests under way, and those refused for want of room, a second.",
                        "short",
                        [
                            (total("operation", chosen("gateway_requests_in_flight")), "{{operation}} under way"),
                            (or_none(rejected, "reason"), "{{reason}} refused"),
                        ],
                        colours={"none refused": FAINT, "overload refused": WARN},
                        runbook="DialGatewayOverloaded",
                    ),
                ],
            ),
            (
                "Objectives",
                [
                    lines(
                        "Burn rate of the error budget",
                        "1 uses the budget up in 30 days. Above 14.4 in an hour, or 6 in six hours, somebody is woken.",
                        "short",
                        [
                            (
                                f'job:gateway_dials_bad:burn_rate{window}{{job=~"$job"}}',
                                f"{window}, {{{{job}}}}",
                            )
                            for window in ("5m", "1h", "6h", "3d")
                        ],
                        marks=[(1, WARN), (14.4, BAD)],
                        runbook="DialGatewayErrorBudgetBurns",
                    ),
                    lines(
                        "Burn rate of the latency budget",
                        "The same, of accepted dials that take longer than a second: one of a hundred may.",
                        "short",
                        [
                            (
                                f'job:gateway_dials_slow:burn_rate{window}{{job=~"$job"}}',
                                f"{window}, {{{{job}}}}",
                            )
                            for window in ("5m", "1h", "6h", "3d")
                        ],
                        marks=[(1, WARN), (14.4, BAD)],
                        runbook="DialGatewayLatencyBudgetBurns",
                    ),
                    lines(
                        "Dials at the contact centre by outcome",
                        "Attempts. `unknown`: a phone that may have rung.",
                        "reqps",
                        [
                            (
                                total("outcome", rate(attempts, 'operation="create"', 'account=~"$account"')),
                                "{{outcome}}",
                            )
                        ],
                        bars=True,
                        stacked=True,
                        colours=OUTCOMES,
                        logs='operation="create" | outcome="${__field.labels.outcome}" | attempts > 0',
                    ),
                    lines(
                        "Idempotency-Key",
                        "Requests with a key: first ones, and repetitions that rang no second phone.",
                        "reqps",
                        [(total("result", rate("gateway_idempotency_total")), "{{result}}")],
                        stacked=True,
                    ),
                ],
            ),
        ],
    )
