"""The dashboards: written by their program, well made by the linter's rules, and of every metric that there is."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from deploy.grafana.__main__ import documents as written
from deploy.grafana.colours import BAD, CODES
from gateway.problems import FIXED_CODES
from tests.deploy.dashboards import NAMES, Json, documents, faults, panels, targets
from tests.deploy.queries import ROOT, parsed, rules, series, unknown
from tests.unit.test_documentation import families

# In no panel, each for its reason.
LEFT_OUT = {
    "gateway_process_virtual_memory_bytes": "what is reserved says nothing of what is used",
}


def test_they_are_what_their_program_writes() -> None:
    for name, document in written().items():
        assert (ROOT / "grafana" / f"{name}.json").read_text() == document
    assert set(written()) == set(NAMES)
    command = [sys.executable, "-m", "deploy.grafana", "--check"]
    assert subprocess.run(command, check=False, timeout=60, cwd=ROOT.parent).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_linter_would_say_nothing(name: str) -> None:
    assert list(faults(documents()[name])) == []


def _change(path: str, value: Any) -> Callable[[Json], None]:
    def change(page: Json) -> None:
        *steps, last = path.split(".")
        found: Any = page
        for step in steps:
            found = found[int(step)] if step.isdigit() else found[step]
        found[last] = value

    return change


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("template_datasource_rule", _change("templating.list.0.name", "prometheus")),
        ("template_job_and_instance_rule", _change("templating.list.1.allValue", ".*")),
        ("template_job_and_instance_rule", _change("templating.list.1.allValue", ".+")),
        ("template_label_promql_rule", _change("templating.list.1.query", "values(job)")),
        ("template_on_time_change_reload_rule", _change("templating.list.1.refresh", 1)),
        ("uneditable_dashboard", _change("editable", True)),
        ("panel_datasource_rule", _change("panels.1.datasource", {"type": "prometheus", "uid": "abc"})),
        ("panel_title_description_rule", _change("panels.1.description", "")),
        ("panel_units_rule", _change("panels.1.fieldConfig.defaults.unit", "furlongs")),
        ("panel_no_targets_rule", _change("panels.1.targets", [])),
        ("target_promql_rule", _change("panels.1.targets.0.expr", 'sum(rate(a{job=~"$job",instance=~"$instance"}[1m]')),
        ("target_job_and_instance_rule", _change("panels.1.targets.0.expr", 'a{job=~"$job"}')),
        ("target_rate_interval_rule", _change("panels.1.targets.0.expr", "rate(a[5m])")),
        ("target_counter_agg_rule", _change("panels.1.targets.0.expr", "a_total")),
    ],
)
def test_what_is_not_as_it_should_be_would_be_noticed(rule: str, change: Callable[[Json], None]) -> None:
    page = copy.deepcopy(documents()["overview"])
    change(page)
    said = []
    try:
        said += [fault.partition(":")[0] for fault in faults(page)]
    except ValueError:
        assert rule == "target_promql_rule"
        return

    assert rule in said


@pytest.mark.parametrize("name", NAMES)
def test_every_query_asks_for_series_that_there_are(name: str) -> None:
    for target in targets(documents()[name]):
        assert list(unknown(target.query)) == [], target.panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_every_label_in_a_legend_is_one_that_the_query_keeps(name: str) -> None:
    for panel in panels(documents()[name]):
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = (
                set(re.findall(r"by \(([^)]*)\)", target["expr"])[0].split(", ")) if " by (" in target["expr"] else None
            )
            assert kept is None or shown <= kept, panel["title"]


def test_every_metric_is_in_a_panel_or_left_out_for_a_reason() -> None:
    asked = {
        selector.metric
        for page in documents().values()
        for target in targets(page)
        for selector in target.query.selectors
    }
    shown = {name for name in families() if any(re.fullmatch(name + "(_bucket|_sum|_count)?", one) for one in asked)}

    assert shown | LEFT_OUT.keys() == families().keys()
    assert not shown & LEFT_OUT.keys()
    assert asked <= series().keys()


def test_every_recorded_series_is_used() -> None:
    asked = [target.query for page in documents().values() for target in targets(page)]
    asked += [parsed(rule["expr"]) for kind in ("record", "alert") for rule in rules(kind).values()]

    assert rules("record").keys() <= {selector.metric for query in asked for selector in query.selectors}


def test_every_panel_has_a_place_and_an_id_of_its_own() -> None:
    for page in documents().values():
        assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
        taken: set[tuple[int, int]] = set()
        for panel in page["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            taken |= cells


def test_links_lead_to_entries_of_the_runbook() -> None:
    entries = {name.lower() for name in rules("alert")}
    for page in documents().values():
        for panel in panels(page):
            for link in panel.get("links") or ():
                assert link["url"].startswith("${runbook}#")
                assert link["url"].partition("#")[2] in entries


def test_unknown_alone_is_red_whatever_shows_it() -> None:
    unknown_codes = {code for code, colour in CODES.items() if colour == BAD}
    shown = set()
    for page in documents().values():
        for panel in panels(page):
            names = {target["legendFormat"] for target in panel["targets"]}
            red = {
                override["matcher"]["options"]
                for override in panel["fieldConfig"].get("overrides") or ()
                for one in override["properties"]
                if one["id"] == "color" and one["value"]["fixedColor"] == BAD
            }
            if names & {"{{code}}", "{{outcome}}"}:
                shown |= red
                assert red == (unknown_codes if "{{code}}" in names else {"unknown"}), panel["title"]
                assert panel["fieldConfig"]["defaults"].get("color", {}).get("fixedColor") != BAD

    assert {"upstream-timeout", "upstream-invalid-response", "outcome-unknown", "unknown"} <= shown
    assert not {"upstream-unreachable", "no-agent-available", "ok"} & unknown_codes
    assert CODES.keys() == FIXED_CODES | {"ok", "no-agent-available"}


def test_an_axis_of_nothing_does_not_read_as_if_there_were_much() -> None:
    drawn = [panel for page in documents().values() for panel in panels(page) if panel["type"] == "timeseries"]
    least = {"short": 1, "percentunit": 0.01, "reqps": 0.1, "ops": 0.1}

    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in drawn} >= least.keys()
    for panel in drawn:
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["custom"].get("axisSoftMax") == least.get(defaults["unit"]), panel["title"]


def test_what_takes_time_has_exemplars_that_lead_to_traces() -> None:
    exemplary = [
        panel["title"]
        for page in documents().values()
        for panel in panels(page)
        if any(target.get("exemplar") for target in panel["targets"])
    ]

    assert exemplary == ["Latency of accepted dials", "Latency of dials"]


def test_every_alert_is_linked_from_a_panel_but_those_that_none_could_show() -> None:
    linked = {
        link["url"].partition("#")[2]
        for page in documents().values()
        for panel in panels(page)
        for link in panel.get("links") or ()
    }
    without = {name for name in rules("alert") if name.lower() not in linked}

    # Of the same panels as their fast ones; a target that is down; calls refused for want of a token are errors.
    assert without == {
        "DialGatewayErrorBudgetBurnsSlowly", "DialGatewayLatencyBudgetBurnsSlowly", "DialGatewayDown",
        "DialGatewayNoToken", "DialGatewayCertificateEnds",
    }  # fmt: skip
