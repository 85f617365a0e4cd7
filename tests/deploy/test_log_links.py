"""Links from a panel to the log find all lines of what is shown and no others, whatever its legend says."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from gateway.simulator import Fault, Simulator
from gateway.telemetry.logs import FIELDS
from tests.deploy.dashboards import Json, documents, interpolated, panels
from tests.deploy.loki import asked, links, matching
from tests.deploy.queries import Selector, parsed
from tests.harness import Farm, Harness, until

LINKED: Final[dict[str, Json]] = {
    f"{page['title']}: {panel['title']}": panel
    for page in documents().values()
    for panel in panels(page)
    if links(panel) is not None
}
_SAMPLE: Final = re.compile(r"(\w+)\{(.*)\}")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


async def traffic(gateway: Harness, simulator: Simulator) -> None:
    """Dials that end in every way, with one attempt at most for each."""
    await until(lambda: gateway.lines.of("token.refreshed"))
    await gateway.dial(headers={"Idempotency-Key": "once"})
    await gateway.dial(headers={"Idempotency-Key": "once"})
    await gateway.dial({"media": "smell"})
    await gateway.dial(key="dgw_wrong")
    await gateway.request("GET", "/dial/no-such-call")
    for fault in (
        Fault("result-code", "create", code="13"),
        Fault("result-code", "create", code="4711"),
        Fault("result-code", "create", code="1234567"),
        Fault("close-request", "create"),
        Fault("status", "create", status=500),
        Fault("not-json", "create"),
    ):
        simulator.fault(fault)
        await gateway.dial()


def counted(samples: dict[str, float], selector: Selector, label: str) -> dict[str, float]:
    """How many events a panel shows in all, by the label that its series are called by."""
    found: dict[str, float] = {}
    for name, value in samples.items():
        sample = _SAMPLE.fullmatch(name)
        if sample is None or sample[1] != selector.metric:
            continue
        labels = {"job": "gateway", "instance": "a:1"} | dict(_LABEL.findall(sample[2]))
        if all(_holds(operator, labels[key], wanted) for key, operator, wanted in selector.matchers):
            found[labels[label]] = found.get(labels[label], 0) + value
    return found


def _holds(operator: str, value: str, wanted: str) -> bool:
    match operator.removeprefix("MatchOp."):
        case "Equal":
            return value == wanted
        case "NotEqual":
            return value != wanted
        case "Re":
            return re.fullmatch(wanted, value) is not None
        case other:
            raise ValueError(f"{other} is not known here")


async def test_every_link_finds_as_many_lines_as_its_panel_counts_of_each_series(farm: Farm) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("status", "applyToken", status=500))
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    await traffic(gateway, simulator)
    samples = await gateway.metrics()
    lines: list[dict[str, Any]] = gateway.lines.all()

    values: dict[str, set[str]] = {}
    for title, panel in LINKED.items():
        (target,) = panel["targets"]
        (label,) = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        selector = parsed(interpolated(target["expr"])).selectors[0]
        leading = links(panel)
        assert leading is not None
        for value, count in counted(samples, selector, label).items():
            found = matching(leading.of(value, {label: value}), lines)
            assert len(found) == count, (title, value)
            values.setdefault(label, set()).update({value} if count else ())

    # What is looked at has in it what no line has a field for, and all that must not be taken for one another.
    assert {"ok", "no-agent-available", "upstream-invalid-response", "malformed-request"} <= values["code"]
    assert {"-", "0", "13", "4711", "other"} <= values["result_code"]
    assert values["outcome"] == {"accepted", "rejected", "unknown"}
    assert len(values["endpoint"]) == 1
    assert values["account"] == {"sales"}


@pytest.mark.parametrize("title", LINKED)
def test_a_link_asks_for_fields_of_the_log(title: str) -> None:
    leading = links(LINKED[title])
    assert leading is not None

    for query in (leading.usual, *leading.named.values()):
        assert set(asked(query)) <= FIELDS


def test_a_filter_that_nothing_has_or_nobody_knows_would_be_noticed() -> None:
    lines: list[dict[str, Any]] = [{"code": "ok", "attempts": 0}, {"attempts": 2}]

    assert matching('{job=~"$job"} | json | code="accepted"', lines) == []
    assert matching('{job=~"$job"} | json | code="" | attempts > 0', lines) == [lines[1]]
    with pytest.raises(ValueError, match="not known here"):
        matching('{job=~"$job"} | json | code!="ok"', lines)
    with pytest.raises(ValueError, match="not known here"):
        matching('{job=~"$job"} |= "ok"', lines)
