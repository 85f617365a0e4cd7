"""The dashboards as Grafana gets them, and what grafana/dashboard-linter asks of them.

Owns the linter's rules (its docs/rules, each named as there), carried out here because it is a program of its own that
no registry of ours has. Refuses exceptions without a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.deploy.queries import ROOT, Query, parsed

Json = dict[str, Any]

NAMES: Final = ("overview", "upstream", "callers", "process")
_RATES: Final = ("rate", "irate", "increase", "delta", "idelta", "deriv")
_COUNTER: Final = re.compile(r"_(total|count|sum|bucket)$")
_UNITS: Final = frozenset({"reqps", "ops", "s", "short", "percentunit", "bytes", "none"})
# A recorded series has no instance, and its window is its own; a budget is that of 30 days, whatever is shown.
RECORDED: Final = re.compile(r"^job:")
MONTH: Final = "[30d]"
# The linter wants `.+`, which is the same; but Grafana puts it as it is into a link's address, where `+` is a space.
EVERY: Final = "..*"


@dataclass(frozen=True, slots=True)
class Target:
    """A query of a panel."""

    panel: Json
    text: str

    @property
    def query(self) -> Query:
        """It, with Grafana's own variables put in."""
        return parsed(interpolated(self.text))


def interpolated(text: str, *, window: str = "1m", shown: str = "5m", step: str = "15s", **variables: str) -> str:
    """A query as Grafana would ask it; a variable that is not given has all of its values."""
    for name, length in (("$__rate_interval", window), ("$__range", shown), ("$__interval", step)):
        text = text.replace(f"{name}_ms", str(_milliseconds(length))).replace(name, length)
    return re.sub(r"\$\{?([a-z]+)\}?", lambda found: variables.get(found[1], EVERY), text)


def _milliseconds(length: str) -> int:
    return int(length[:-1]) * {"s": 1000, "m": 60_000}[length[-1]]


def documents() -> dict[str, Json]:
    """The dashboards, by name."""
    return {name: json.loads((ROOT / "grafana" / f"{name}.json").read_text()) for name in NAMES}


def panels(page: Json) -> list[Json]:
    """The panels of a dashboard that show something."""
    return [panel for panel in page["panels"] if panel["type"] != "row"]


def targets(page: Json) -> list[Target]:
    """The queries of a dashboard."""
    return [Target(panel, target["expr"]) for panel in panels(page) for target in panel["targets"]]


# --- the rules of grafana/dashboard-linter


def faults(page: Json) -> Iterator[str]:
    """What the linter would say."""
    for rule in _PAGE_RULES:
        yield from (f"{rule.__name__}: {what}" for what in rule(page))
    for panel in panels(page):
        for rule in _PANEL_RULES:
            yield from (f"{rule.__name__}: {panel['title']}: {what}" for what in rule(panel))
    for target in targets(page):
        for check in _TARGET_RULES:
            yield from (f"{check.__name__}: {target.panel['title']}: {what}" for what in check(target))


def template_datasource_rule(page: Json) -> Iterator[str]:
    sources = [
        one for one in page["templating"]["list"] if one["type"] == "datasource" and one["query"] == "prometheus"
    ]
    if [(one["name"], one["label"]) for one in sources] != [("datasource", "Data source")]:
        yield "there must be one, named datasource"


def template_job_and_instance_rule(page: Json) -> Iterator[str]:
    for name, label in (("job", "Job"), ("instance", "Instance")):
        found = [one for one in page["templating"]["list"] if one["name"] == name]
        wanted = {
            "type": "query",
            "label": label,
            "multi": True,
            "allValue": EVERY,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
        }
        if len(found) != 1 or not wanted.items() <= found[0].items():
            yield name


def template_label_promql_rule(page: Json) -> Iterator[str]:
    for one in page["templating"]["list"]:
        if one["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), ([a-z_]+)\)", one["query"])
            if found is None:
                yield one["name"]
            else:
                parsed(interpolated(found[1]))


def template_on_time_change_reload_rule(page: Json) -> Iterator[str]:
    yield from (one["name"] for one in page["templating"]["list"] if one["type"] == "query" and one["refresh"] != 2)


def uneditable_dashboard(page: Json) -> Iterator[str]:
    if page["editable"]:
        yield "it can be edited, and the change would be lost"


def panel_datasource_rule(panel: Json) -> Iterator[str]:
    for one in (panel, *panel["targets"]):
        if one["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield str(one["datasource"])


def panel_title_description_rule(panel: Json) -> Iterator[str]:
    yield from (name for name in ("title", "description") if not panel.get(name))


def panel_units_rule(panel: Json) -> Iterator[str]:
    if panel["fieldConfig"]["defaults"].get("unit") not in _UNITS:
        yield "unit"


def panel_no_targets_rule(panel: Json) -> Iterator[str]:
    if not panel["targets"]:
        yield "it asks for nothing"


def target_promql_rule(target: Target) -> Iterator[str]:
    try:
        _ = target.query
    except ValueError as exc:
        yield str(exc)


def target_job_and_instance_rule(target: Target) -> Iterator[str]:
    for selector in parsed(interpolated(target.text, job="$job", instance="$instance")).selectors:
        wanted = {("job", "MatchOp.Re", "$job"), ("instance", "MatchOp.Re", "$instance")}
        if RECORDED.match(selector.metric):
            wanted = {("job", "MatchOp.Re", "$job")}
        if not wanted <= set(selector.matchers):
            yield selector.metric


def target_rate_interval_rule(target: Target) -> Iterator[str]:
    windows = set(re.findall(r"\[[^\]]*\]", target.text))
    if not windows <= {"[$__rate_interval]", "[$__range]", MONTH}:
        yield str(windows)


def target_counter_agg_rule(target: Target) -> Iterator[str]:
    for selector in target.query.selectors:
        # Of one at another time it is asked whether it was there at all, which no rate can tell.
        if _COUNTER.search(selector.metric) and not selector.ranged and not selector.earlier:
            yield selector.metric


_PAGE_RULES: Final[tuple[Callable[[Json], Iterator[str]], ...]] = (
    template_datasource_rule,
    template_job_and_instance_rule,
    template_label_promql_rule,
    template_on_time_change_reload_rule,
    uneditable_dashboard,
)
_PANEL_RULES: Final[tuple[Callable[[Json], Iterator[str]], ...]] = (
    panel_datasource_rule,
    panel_title_description_rule,
    panel_units_rule,
    panel_no_targets_rule,
)
_TARGET_RULES: Final[tuple[Callable[[Target], Iterator[str]], ...]] = (
    target_promql_rule,
    target_job_and_instance_rule,
    target_rate_interval_rule,
    target_counter_agg_rule,
)
