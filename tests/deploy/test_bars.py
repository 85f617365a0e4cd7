"""Bars that count events add up to how many there were, whatever the steps and however the series came about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.dashboards import EVERY, Json, documents, interpolated, panels, targets
from tests.deploy.queries import Selector, parsed, series
from tests.deploy.test_rules import promtool

COUNTING: Final = {
    panel["title"]: panel
    for page in documents().values()
    for panel in panels(page)
    if panel["fieldConfig"]["defaults"].get("custom", {}).get("drawStyle") == "bars"
    and panel["fieldConfig"]["defaults"]["unit"] == "short"
}
# Steps, and Grafana's window for a rate: a step and a scrape of 15 seconds, or four scrapes. The last are of a data
# source that takes scrapes for rarer than they are.
GRIDS: Final = (("15s", "60s"), ("60s", "75s"), ("120s", "135s"), ("60s", "240s"))
_TARGET: Final = 'job="dial-gateway",instance="a:9090"'


@dataclass(frozen=True, slots=True)
class Course:
    """What a gateway showed in 25 minutes, every 15 seconds as promtool writes it, and how many events that was."""

    counter: str
    start: str
    build: str
    count: int


_OLD: Final = {"start": "-86400x100", "build": "1x100"}
COURSES: Final = {
    "one": Course("0x40 1x60", **_OLD, count=1),
    "several, and one of them alone": Course("7x40 8 8 10x58", **_OLD, count=3),
    "the first of its kind": Course("_x40 2x60", **_OLD, count=2),
    "a scrape that failed": Course("0x40 _ 1x58", **_OLD, count=1),
    "a new gateway": Course("_x40 1 1 2x57", "_x40 595x59", "_x40 1x59", 2),
    "a restart": Course("0x20 3x19 stale _x3 1x56", "-86400x40 stale _x3 670x56", "1x40 stale _x3 1x56", 4),
    "a new Prometheus": Course("_x40 5x20 6x40", "_x40 -86400x61", "_x40 1x61", 1),
}


def _labels(selector: Selector) -> str:
    wanted = {name: "any" if value == EVERY else value for name, _, value in selector.matchers}
    others = {name: wanted.get(name, "any") for name in sorted(series()[selector.metric] - {"job", "instance"})}
    return ",".join([_TARGET, *(f'{name}="{value}"' for name, value in others.items())])


def _case(panel: Json, course: Course, step: str, window: str) -> dict[str, Any]:
    (target,) = panel["targets"]
    text = interpolated(target["expr"], step=step, window=window)
    counter = next(one for one in parsed(text).selectors if one.metric.endswith("_total"))
    return {
        "interval": "15s",
        "input_series": [
            {"series": f"{counter.metric}{{{_labels(counter)}}}", "values": course.counter},
            {"series": f"gateway_process_start_time_seconds{{{_TARGET}}}", "values": course.start},
            {"series": f'gateway_build_info{{{_TARGET},version="1"}}', "values": course.build},
        ],
        "promql_expr_test": [
            {
                "expr": f"sum(sum_over_time(({text})[20m:{step}]))",
                "eval_time": "24m",
                "exp_samples": [{"labels": "{}", "value": course.count}],
            }
        ],
    }


@pytest.mark.parametrize("title", COUNTING)
@pytest.mark.parametrize("course", COURSES)
def test_bars_add_up_to_the_number_of_events(title: str, course: str, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(yaml.safe_dump({"tests": [_case(COUNTING[title], COURSES[course], *grid) for grid in GRIDS]}))

    done = promtool("test", "rules", cases)

    assert done.returncode == 0, done.stdout + done.stderr


def test_bars_that_do_not_would_be_noticed(tmp_path: Path) -> None:
    panel = {"targets": [{"expr": "sum(increase(gateway_config_reloads_total[$__rate_interval]))"}]}
    cases = tmp_path / "cases.yaml"
    cases.write_text(yaml.safe_dump({"tests": [_case(panel, COURSES["several, and one of them alone"], *GRIDS[0])]}))

    assert promtool("test", "rules", cases).returncode != 0


def test_every_panel_that_counts_events_over_time_is_one_of_these() -> None:
    counted = {
        target.panel["title"]
        for page in documents().values()
        for target in targets(page)
        if target.panel["type"] == "timeseries" and re.search(r"\bincrease\(|last_over_time\(", target.text)
    }

    assert counted == COUNTING.keys()
    assert counted >= {"Nobody knows whether a phone rang", "Reloads", "New generations by trigger"}
