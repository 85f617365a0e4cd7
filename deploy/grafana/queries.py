"""What panels ask Prometheus for.

Owns the form of queries, and which series the variables of a dashboard choose. Refuses to say what is drawn of them.
"""

from __future__ import annotations

from typing import Final

Query = tuple[str, str]  # the expression, and what its series are called

RATE: Final = "$__rate_interval"
STEP: Final = "$__interval"  # from a point to the next one
RANGE: Final = "$__range"  # all that is shown
_WHERE: Final = ('job=~"$job"', 'instance=~"$instance"')


def chosen(metric: str, *matchers: str) -> str:
    """The series of a metric that the variables of the dashboard choose; more matchers as PromQL has them."""
    return metric + "{" + ",".join((*_WHERE, *matchers)) + "}"


_BUILD: Final = chosen("gateway_build_info")
_START: Final = chosen("gateway_process_start_time_seconds")


def rate(metric: str, *matchers: str) -> str:
    """Its increase a second."""
    return f"rate({chosen(metric, *matchers)}[{RATE}])"


def increase(metric: str, *matchers: str) -> str:
    """Its increase in all that is shown."""
    return f"increase({chosen(metric, *matchers)}[{RANGE}])"


def from_birth(metric: str, *matchers: str) -> str:
    """Its increase, and what a series had already when it was first seen, as `DialGatewayOutcomesUnknown` counts it.

    The latter has a label of its own, and is counted only if it is of that time: see deploy/prometheus/alerts.yaml.
    """
    series = chosen(metric, *matchers)
    # The time in milliseconds is another of Grafana's variables.
    began = f"min_over_time({_START}[{RANGE}]) > time() - {RANGE}_ms / 1000"
    known = f"{_BUILD} offset {RANGE} or on (job, instance) {began}"
    new = f"min_over_time({series}[{RANGE}]) unless {series} offset {RANGE} and on (job, instance) ({known})"
    return f'{increase(metric, *matchers)} or label_replace({new}, "counted", "at birth", "", "")'


def events(metric: str, *matchers: str) -> str:
    """How many there were since the point before, so that the bars of a panel add up to how many there were in all.

    What a series had already when it was first seen counts as in `from_birth`.
    """
    # An increase is an estimate, of a window that is longer than a step: each event would be in several bars.
    now = f"last_over_time({chosen(metric, *matchers)}[{RATE}])"
    before = f"last_over_time({chosen(metric, *matchers)}[{RATE}] offset {STEP})"
    began = f"last_over_time({_START}[{RATE}]) > time() - {RATE}_ms / 1000"
    known = f"last_over_time({_BUILD}[{RATE}] offset {STEP}) or on (job, instance) {began}"
    # A counter that has fallen began anew.
    return f"{now} - {before} >= 0 or {now} and on (job, instance) ({known})"


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


def quantile_of_all(q: float, histogram: str, *matchers: str) -> str:
    """A quantile of all that is shown, and nothing if there was nothing."""
    counted = total("le", increase(f"{histogram}_bucket", *matchers))
    return f"histogram_quantile({q}, {counted}) >= 0"


def mean(histogram: str, *matchers: str) -> str:
    """The mean of a histogram."""
    count = total("", rate(f"{histogram}_count", *matchers))
    return f"{total('', rate(f'{histogram}_sum', *matchers))} / ({count} > 0)"


def quantiles(histogram: str, *matchers: str) -> list[Query]:
    """The usual three of them."""
    return [(quantile(q, histogram, "", *matchers), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)]
