"""Counting on the hot path: plain numbers in dictionaries, turned into Prometheus families when somebody asks.

Owns the counters, levels and histograms that every request moves. Refuses threads: all of it belongs to the thread
of the event loop, which is what makes it several times as fast as a locked child of `prometheus_client`.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Labels = tuple[str, ...]
# A trace's id, its value, and when that was, in epoch seconds.
_Last = tuple[str, float, float]


# So that a configuration with very many names doesn't make series that nobody will ever need.
_MOST_EXPECTED: Final = 1_000


class Counts(Collector):
    """A counter with labels, whose values are given in the order of `labels`."""

    def __init__(self, registry: CollectorRegistry, name: str, what: str, labels: Sequence[str]) -> None:
        self._name = name
        self._what = what
        self._labels = labels
        self._values: dict[Labels, int] = {}
        registry.register(self)

    def add(self, *labels: str) -> None:
        """Count one."""
        self._values[labels] = self._values.get(labels, 0) + 1

    def expect(self, series: Iterable[Labels]) -> None:
        """Show series before there is anything to count, as long as there are not very many.

        One that begins with 1 has no increase in Prometheus, which doesn't know that it was 0 before.
        """
        for labels in series:
            if len(self._values) >= _MOST_EXPECTED:
                return
            self._values.setdefault(labels, 0)

    def collect(self) -> Iterable[Metric]:
        """The family with all of its series."""
        family = CounterMetricFamily(self._name, self._what, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric([str(label) for label in labels], value)
        return (family,)


class Levels(Collector):
    """A gauge with one label that goes up and down."""

    def __init__(self, registry: CollectorRegistry, name: str, what: str, label: str) -> None:
        self._name = name
        self._what = what
        self._label = label
        self._values: dict[str, int] = {}
        registry.register(self)

    def move(self, label: str, by: int) -> None:
        """Raise it, or lower it by a negative number."""
        self._values[label] = self._values.get(label, 0) + by

    def collect(self) -> Iterable[Metric]:
        """The family with all of its series."""
        family = GaugeMetricFamily(self._name, self._what, labels=[self._label])
        for label, value in self._values.items():
            family.add_metric([str(label)], value)
        return (family,)


class Distributions(Collector):
    """A histogram with labels; `bounds` are the upper ones, each inclusive, but for the last, which is infinite.

    The last value of each bucket is kept with its trace as the bucket's exemplar. `wall` is in epoch seconds.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - each is a property of the metric, but for the clock
        self,
        registry: CollectorRegistry,
        name: str,
        what: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._what = what
        self._labels = labels
        self._bounds: Final = tuple(map(float, bounds))
        self._shown: Final = [*map(str, self._bounds), "+Inf"]
        self._wall = wall
        self._values: dict[Labels, tuple[list[int], list[float], list[_Last | None]]] = {}
        registry.register(self)

    def observe(self, value: float, trace_id: str | None, *labels: str) -> None:
        """Count one value, which the trace of that id had, if it belongs to one."""
        counts, total, last = self._values.get(labels) or self._begun(labels)
        bucket = bisect_left(self._bounds, value)
        counts[bucket] += 1
        total[0] += value
        if trace_id is not None:
            last[bucket] = (trace_id, value, self._wall())

    def expect(self, series: Iterable[Labels]) -> None:
        """Show series before there is anything to observe, as `Counts.expect`."""
        for labels in series:
            if len(self._values) >= _MOST_EXPECTED:
                return
            if labels not in self._values:
                self._begun(labels)

    def _begun(self, labels: Labels) -> tuple[list[int], list[float], list[_Last | None]]:
        size = len(self._shown)
        begun = self._values[labels] = ([0] * size, [0.0], [None] * size)
        return begun

    def collect(self) -> Iterable[Metric]:
        """The family with all of its series."""
        family = HistogramMetricFamily(self._name, self._what, labels=self._labels)
        for labels, (counts, total, last) in self._values.items():
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            so_far = 0
            for shown, count, latest in zip(self._shown, counts, last, strict=True):
                so_far += count
                if latest is None:
                    buckets.append((shown, so_far))
                else:
                    trace_id, value, at = latest
                    buckets.append((shown, so_far, Exemplar({"trace_id": trace_id}, value, at)))
            family.add_metric([str(label) for label in labels], buckets, total[0])
        return (family,)
