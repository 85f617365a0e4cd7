"""What panels ask Prometheus for.

Owns the form of queries, and which series the variables of a dashboard choose. Refuses to say what is drawn of them.
"""

from __future__ import annotations

from typing import Final

Query = tuple[str, str]  # the expression, and what its series are called

RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"  # all that is shown
_WHERE: Final = ('job=~"$job"', 'instance=~"$instance"')


def chosen(metric: str, *matchers: str) -> str:
    """The series of a metric that the variables of the dashboard choose; more matchers as PromQL has them."""
    return metric + "{" + ",".join((*_WHERE, *matchers)) + "}"


def rate(metric: str, *matchers: str) -> str:
    """Its increase a second."""
    return f"rate({chosen(metric, *matchers)}[{RATE}])"


def increase(metric: str, *matchers: str, over: str = RATE) -> str:
    """Its increase over a time."""
    return f"increase({chosen(metric, *matchers)}[{over}])"


def from_birth(metric: str, *matchers: str, over: str = RATE) -> str:
    """Its increase, and what a series had already when it was first seen, as `DialGatewayOutcomesUnknown` counts it.

    The latter has a label of its own, and is counted only if it is of that time: see deploy/prometheus/alerts.yaml.
    """
    series, build = chosen(metric, *matchers), chosen("gateway_build_info")
    began = f"min_over_time({chosen('gateway_process_start_time_seconds')}[{over}])"
    # The time in milliseconds is another of Grafana's variables.
    known = f"{build} offset {over} or on (job, instance) {began} > time() - {over}_ms / 1000"
    new = f"min_over_time({series}[{over}]) unless {series} offset {over} and on (job, instance) ({known})"
    return f'{increase(metric, *matchers, over=over)} or label_replace({new}, "counted", "at birth", "", "")'


def total(by: str, expression: str) -> str:
    """The sum over all but these labels."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def some(expression: str) -> str:
    """Its series that are above nothing: what has not happened has no place in a legend."""
    return f"{expression} > 0"


def or_none(expression: str, label: str) -> str:
    """Its series that are above nothing, or, where there are none, a line at nothing called `none`."""
    return f'{some(expression)} or on () label_replace(vector(0), "{label}", "none", "", "")'


def quantile(q: float, histogram: str, by: str, *matchers: str) -> str:
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {total(labels, rate(f'{histogram}_bucket', *matchers))})"


def mean(histogram: str, *matchers: str) -> str:
    """The mean of a histogram."""
    count = total("", rate(f"{histogram}_count", *matchers))
    return f"{total('', rate(f'{histogram}_sum', *matchers))} / ({count} > 0)"


def quantiles(histogram: str, *matchers: str) -> list[Query]:
    """The usual three of them."""
    return [(quantile(q, histogram, "", *matchers), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)]
