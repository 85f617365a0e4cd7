"""Counters and histograms of the hot path."""

from __future__ import annotations

from itertools import product

from prometheus_client import CollectorRegistry

from gateway.telemetry.tallies import Counts, Distributions

MOST = 1_000


def test_what_is_expected_is_shown_with_0_and_does_not_lose_what_was_counted() -> None:
    registry = CollectorRegistry()
    counts = Counts(registry, "dials", "Dials.", ("service", "code"))
    counts.add("billing", "ok")

    counts.expect([("billing", "ok"), ("billing", "internal")])

    assert registry.get_sample_value("dials_total", {"service": "billing", "code": "ok"}) == 1
    assert registry.get_sample_value("dials_total", {"service": "billing", "code": "internal"}) == 0
    assert registry.get_sample_value("dials_total", {"service": "other", "code": "ok"}) is None


def test_a_histogram_that_is_expected_is_empty_and_does_not_lose_what_was_observed() -> None:
    registry = CollectorRegistry()
    times = Distributions(registry, "seconds", "Times.", ("operation",), (1.0, 2.0))
    times.observe(1.5, None, "create")

    times.expect([("create",), ("drop",)])

    assert registry.get_sample_value("seconds_count", {"operation": "create"}) == 1
    assert registry.get_sample_value("seconds_bucket", {"operation": "drop", "le": "+Inf"}) == 0


def test_of_very_many_names_only_so_many_are_shown_before_they_are_needed() -> None:
    registry = CollectorRegistry()
    counts = Counts(registry, "dials", "Dials.", ("service", "code"))
    names = (f"service-{number}" for number in range(10**9))  # it must not go through all of them, either

    counts.expect((name, "ok") for name in names)
    counts.expect(product(("late",), ("ok",)))
    counts.add("late", "ok")

    (family,) = counts.collect()
    assert len(family.samples) == MOST + 1
    assert registry.get_sample_value("dials_total", {"service": "late", "code": "ok"}) == 1
