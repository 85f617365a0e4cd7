"""The rules for Prometheus: well formed, of metrics that there are, each alert with its cases and its entry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway.problems
from deploy.prometheus.objectives import BAD_CODES, recording
from gateway.model import Outcome
from gateway.problems import FIXED_CODES, ProblemType
from tests.conftest import need
from tests.deploy.manifests import jobs
from tests.deploy.overlays import OVERLAYS, overlay
from tests.deploy.queries import ROOT, RULES, parsed, rules, unknown
from tests.unit.test_documentation import coded, table

HERE = Path(__file__).parent
CASES = tuple(HERE / f"{name}.yaml" for name in ("alerts", "budgets", "low_traffic", "unknown_outcomes"))
# Of callers, of the contact centre, of an account that has a call, of a gateway that stops.
NOT_BAD = {
    "account-busy", "call-superseded", "forbidden", "headers-too-large", "idempotency-in-progress",
    "idempotency-key-reused", "malformed-request", "method-not-allowed", "not-found", "payload-too-large",
    "shutting-down", "unauthenticated", "unknown-dial", "unsupported-media-type", "upstream-rejected", "uri-too-long",
}  # fmt: skip
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [need("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def sections() -> dict[str, str]:
    """The entries of the runbook; several headings in a row share one."""
    text = (ROOT / "runbook.md").read_text()
    parts = HEADING.split(text)[1:]
    found: dict[str, str] = {}
    waiting: list[str] = []
    for heading, content in zip(parts[::2], parts[1::2], strict=True):
        waiting.append(heading)
        if content.strip():
            found |= dict.fromkeys(waiting, content)
            waiting = []
    assert waiting == []
    return found


def test_the_recording_rules_are_what_their_program_writes() -> None:
    assert (ROOT / "prometheus" / "recording.yaml").read_text() == recording()
    command = [sys.executable, "-m", "deploy.prometheus", "--check"]
    assert subprocess.run(command, check=False, timeout=60, cwd=ROOT.parent).returncode == 0


def test_of_every_code_it_is_decided_whether_it_is_bad() -> None:
    kinds = [kind for kind in vars(gateway.problems).values() if isinstance(kind, ProblemType)]

    assert set(BAD_CODES) | NOT_BAD == FIXED_CODES
    assert set(BAD_CODES) & NOT_BAD == set()
    assert {kind.code for kind in kinds if kind.outcome is Outcome.UNKNOWN} <= set(BAD_CODES)


def test_no_other_file_has_the_list_of_bad_codes_or_an_objective() -> None:
    burning = [rule["expr"] for name, rule in rules("alert").items() if "Budget" in name]

    assert len(burning) == 6
    assert not [expression for expression in burning if "code=" in expression or re.search(r"\b0\.0", expression)]
    by_hand = [path for path in ROOT.rglob("*.py") if BAD_CODES[-1] in path.read_text()]
    assert by_hand == [ROOT / "prometheus" / "objectives.py"]


def test_the_rules_are_well_formed() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_would_be_noticed(tmp_path: Path) -> None:
    twice = tmp_path / "rules.yaml"
    twice.write_text(
        RULES[1].read_text() + RULES[1].read_text().partition("groups:\n")[2].replace("- name: ", "- name: x")
    )

    assert promtool("check", "rules", "--lint=all", "--lint-fatal", twice).returncode != 0


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_should_and_is_silent_when_it_should_not(cases: Path) -> None:
    done = promtool("test", "rules", cases)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_of_both_kinds() -> None:
    seen: dict[str, set[bool]] = {name: set() for name in rules("alert")}
    for path in CASES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            (expected,) = case["alert_rule_test"]
            seen[expected["alertname"]].add(bool(expected["exp_alerts"]))

    assert {name: kinds for name, kinds in seen.items() if kinds != {True, False}} == {}


def test_a_case_that_is_wrong_would_be_noticed(tmp_path: Path) -> None:
    document: dict[str, Any] = yaml.safe_load(CASES[0].read_text())
    document["rule_files"] = [str(path) for path in RULES]
    document["tests"] = document["tests"][:1]
    document["tests"][0]["alert_rule_test"][0]["exp_alerts"] = []
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(document))

    assert promtool("test", "rules", wrong).returncode != 0


@pytest.mark.parametrize("kind", ["record", "alert"])
def test_every_rule_asks_for_series_that_there_are(kind: str) -> None:
    for name, rule in rules(kind).items():
        assert list(unknown(parsed(rule["expr"]))) == [], name


@pytest.mark.parametrize(
    "wrong",
    ["gateway_request_total", 'gateway_requests_total{opration="create"}', "sum by (endpont) (gateway_requests_total)"],
)
def test_a_misspelled_name_would_be_noticed(wrong: str) -> None:
    assert list(unknown(parsed(wrong))) != []


def test_every_job_of_the_manifests_is_a_gateways_for_the_alerts_and_what_is_beside_one_is_not() -> None:
    patterns = {
        value
        for rule in rules("alert").values()
        for selector in parsed(rule["expr"]).selectors
        for name, _, value in selector.matchers
        if name == "job"
    }
    called = [name for one in OVERLAYS for name in jobs(overlay(one), "shop")]

    (pattern,) = patterns
    assert set(called) == {"dial-gateway", "shop/dial-gateway"}
    for name in called:
        assert re.fullmatch(pattern, name), name
    for name in ("dial-gateway/redis-exporter", "dial-gateway-redis", "shop/dial-gateway-redis", "redial-gateway"):
        assert not re.fullmatch(pattern, name), name


def test_codes_and_outcomes_in_expressions_are_those_of_the_gateway() -> None:
    for rule in (*rules("record").values(), *rules("alert").values()):
        for selector in parsed(rule["expr"]).selectors:
            for name, _, value in selector.matchers:
                if name == "code":
                    assert set(value.split("|")) <= FIXED_CODES | {"ok"}
                elif name == "outcome":
                    assert value in {"accepted", "not_sent", "rejected", "unknown"}


def test_every_alert_is_told_in_full() -> None:
    for name, rule in rules("alert").items():
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        told = rule["annotations"]
        assert told.keys() == {"summary", "description", "runbook_url"}, name
        assert told["runbook_url"].endswith(f"#{name.lower()}")


def test_every_alert_has_an_entry_in_the_runbook_and_no_other() -> None:
    entries = sections()

    assert entries.keys() == rules("alert").keys()
    for name, content in entries.items():
        assert "**Means**" in content, name
        assert "**Look" in content, name
        assert "**Do**" in content or "and **do** as for" in content, name


def test_the_runbook_names_codes_events_and_alerts_that_there_are() -> None:
    text = (ROOT / "runbook.md").read_text()
    events = {row["event"].strip("`") for row in table("event", "level")}
    named = set(re.findall(r"`((?:token|config|store|internal|gateway|request|log)\.[a-z_]+)`", text))

    assert named <= events
    assert set(re.findall(r"\(#([a-z]+)\)", text)) <= {name.lower() for name in rules("alert")}


def test_every_alert_is_in_the_readme_with_its_severity() -> None:
    told: dict[str, str] = {}
    for row in table("alert", "severity"):
        names = coded(row["alert"])
        kinds = row["severity"].split(", ")
        told |= dict(zip(names, kinds * len(names) if len(kinds) == 1 else kinds, strict=False))

    assert told == {name: rule["labels"]["severity"] for name, rule in rules("alert").items()}
