"""Links from a panel to the log find all lines of what is shown and no others, whatever its legend says."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest

from gateway.simulator import Fault, Simulator
from gateway.telemetry.logs import FIELDS
from tests.deploy.dashboards import Json, documents, interpolated, panels
from tests.deploy.loki import Chosen, Links, asked, links, matching
from tests.deploy.queries import Selector, parsed
from tests.harness import Farm, Harness, until

LINKED: Final[dict[str, tuple[Json, Links]]] = {
    f"{page['title']}: {panel['title']}": (panel, leading)
    for page in documents().values()
    for panel in panels(page)
    if (leading := links(page, panel)) is not None
}
JOB: Final = "gateway"
LABELS: Final = dict.fromkeys(("account", "code", "outcome", "result_code"), "any")
CHOICES: Final[tuple[Chosen, ...]] = (
    {},
    {"service": ["billing"]},
    {"service": ["-"]},
    {"service": ["-", "billing"]},
    {"service": ["another"], "account": ["another"]},
    {"account": ["sales"]},
    {"account": ["another", "sales"]},
)
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
        labels = {"job": JOB, "instance": "a:1"} | dict(_LABEL.findall(sample[2]))
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
    for title, (panel, leading) in LINKED.items():
        (target,) = panel["targets"]
        (label,) = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        for chosen in CHOICES:
            variables = {name: "|".join(several) for name, several in chosen.items()}
            selector = parsed(interpolated(target["expr"], **variables)).selectors[0]
            for value, count in counted(samples, selector, label).items():
                found = matching(leading.query({label: value}, chosen, value), {JOB: lines})
                assert len(found) == count, (title, chosen, value)
                values.setdefault(label, set()).update({value} if count else ())

    # What is looked at has in it what no line has a field for, and all that must not be taken for one another.
    assert {"ok", "no-agent-available", "upstream-invalid-response", "malformed-request"} <= values["code"]
    assert {"-", "0", "13", "4711", "other"} <= values["result_code"]
    assert values["outcome"] == {"accepted", "rejected", "unknown"}
    assert len(values["endpoint"]) == 1
    assert values["account"] == {"sales"}


@pytest.mark.parametrize("title", LINKED)
def test_a_link_asks_for_fields_of_the_log(title: str) -> None:
    for query in queries(title, {}):
        assert set(asked(query)) <= FIELDS


def queries(title: str, chosen: Chosen) -> list[str]:
    """What the links of a panel ask for."""
    _, leading = LINKED[title]
    return [leading.query(LABELS, chosen, name) for name in ("", *leading.named)]


@pytest.mark.parametrize("title", LINKED)
@pytest.mark.parametrize(
    ("jobs", "found"),
    [
        (None, {"dial-gateway", "shop/dial-gateway", "third"}),
        (["shop/dial-gateway"], {"shop/dial-gateway"}),
        (["dial-gateway", "shop/dial-gateway"], {"dial-gateway", "shop/dial-gateway"}),
    ],
)
def test_a_link_finds_the_lines_of_the_jobs_that_are_chosen(
    title: str, jobs: list[str] | None, found: set[str]
) -> None:
    for query in queries(title, {} if jobs is None else {"job": jobs}):
        selector, _, _ = query.partition(" | json")
        streams: dict[str, list[dict[str, Any]]] = {
            job: [{"job": job}] for job in ("", "dial-gateway", "shop/dial-gateway", "third")
        }

        assert {line["job"] for line in matching(f"{selector} | json", streams)} == found


@pytest.mark.parametrize("title", LINKED)
def test_a_link_asks_for_the_service_and_the_account_that_its_panel_asks_for(title: str) -> None:
    ((target,), chosen) = LINKED[title][0]["targets"], {"service": ["a", "b"], "account": ["c"]}
    wanted = {name for name in chosen if f"${name}" in target["expr"]}

    assert wanted
    for query in queries(title, chosen):
        for name, values in chosen.items():
            assert (f'{name}=~"{"|".join(values)}"' in query) == (name in wanted)


def test_a_link_of_an_account_finds_no_lines_of_another() -> None:
    _, leading = LINKED["Dial gateway / Tokens and callers: Failed refreshes by account"]
    lines: list[dict[str, Any]] = [{"event": "token.refresh_failed", "account": name} for name in ("sales", "support")]

    assert matching(leading.query({"account": "sales"}, {}), {JOB: lines}) == lines[:1]


def test_a_link_that_grafana_would_spoil_would_be_noticed() -> None:
    expression = "{job=~%5C%22$job%5C%22} | json"
    url = f"/explore?left={{%22datasource%22:%22${{logs}}%22,%22queries%22:[{{%22expr%22:%22{expression}%22}}]}}"
    streams: dict[str, list[dict[str, Any]]] = {"one": [{}], "another": [{}]}

    spoilt = Links(url, {}, {"job": ".+"})
    assert matching(spoilt.query({}, {}), streams) == []
    assert matching(spoilt.query({}, {"job": ["one", "another"]}), streams) == []
    piped = Links(url.replace("$job", "${job:pipe}"), {}, {"job": ".*"})
    assert len(matching(piped.query({}, {"job": ["one", "another"]}), streams)) == 2
    with pytest.raises(ValueError, match="Loki refuses"):
        matching(piped.query({}, {}), streams)


def test_a_filter_that_nothing_has_or_nobody_knows_would_be_noticed() -> None:
    lines: list[dict[str, Any]] = [{"code": "ok", "attempts": 0}, {"attempts": 2}]

    assert matching('{job=~"a"} | json | code="accepted"', {"a": lines}) == []
    assert matching('{job=~"a"} | json | code="" | attempts > 0', {"a": lines}) == [lines[1]]
    assert matching('{job=~"a"} | json | label_format code=`{{or .code "-"}}` | code="-"', {"a": lines}) == [lines[1]]
    with pytest.raises(ValueError, match="not known here"):
        matching('{job=~"a"} | json | code!="ok"', {"a": lines})
    with pytest.raises(ValueError, match="not known here"):
        matching('{job=~"a"} |= "ok"', {"a": lines})
