"""Single numbers say something where there is nothing to count."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.dashboards import Json, documents, interpolated, panels
from tests.deploy.test_rules import promtool

_TARGET: Final = 'job="dial-gateway",instance="a:9090"'
_BUCKETS: Final = {"0.5": "0+8x20 160x40", "1.0": "0+10x20 200x40", "+Inf": "0+10x20 200x40"}
_LATENCIES: Final = {
    "overview": ("gateway_request_duration_seconds_bucket", 'operation="create",outcome="accepted"'),
    "upstream": ("gateway_upstream_duration_seconds_bucket", 'operation="create"'),
}
_WITHIN: Final = 0.975  # from 80 of 100, which took half a second, to all of them, the 99th is 95 % of the way


def _number(page: str, title: str) -> Json:
    (panel,) = [one for one in panels(documents()[page]) if one["title"] == title]
    return panel


def _asked(panel: Json, shown: str, series: dict[str, str], expected: list[Any], directory: Path) -> None:
    """Have promtool ask for a panel's number after an hour."""
    (target,) = panel["targets"]
    text = interpolated(target["expr"], shown=shown)
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": f"round({text}, 0.001)", "eval_time": "1h", "exp_samples": expected}],
    }
    cases = directory / "cases.yaml"
    cases.write_text(yaml.safe_dump({"tests": [case]}))
    done = promtool("test", "rules", cases)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("series", "count"), [({}, 0), ({f'gateway_build_info{{{_TARGET},version="1"}}': "1x70"}, 1)])
def test_no_gateway_is_none_and_red(series: dict[str, str], count: int, tmp_path: Path) -> None:
    panel = _number("overview", "Gateways")

    _asked(panel, "60m", series, [{"labels": "{}", "value": count}], tmp_path)

    lowest, next_ = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert (lowest["color"], next_["value"], next_["color"]) == ("red", 1, "green")


@pytest.mark.parametrize("page", _LATENCIES)
def test_a_latency_is_that_of_the_dials_shown_though_the_last_minutes_had_none(page: str, tmp_path: Path) -> None:
    metric, labels = _LATENCIES[page]
    series = {f'{metric}{{{_TARGET},{labels},le="{bound}"}}': values for bound, values in _BUCKETS.items()}

    _asked(_number(page, "Latency, p99"), "60m", series, [{"labels": "{}", "value": _WITHIN}], tmp_path)


@pytest.mark.parametrize("page", _LATENCIES)
def test_no_dial_in_the_time_shown_has_no_latency(page: str, tmp_path: Path) -> None:
    metric, labels = _LATENCIES[page]
    series = {f'{metric}{{{_TARGET},{labels},le="{bound}"}}': values for bound, values in _BUCKETS.items()}

    _asked(_number(page, "Latency, p99"), "30m", series, [], tmp_path)
