"""The preview of the dashboards: what is read of them, what Prometheus is asked, and what a browser shows of it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from deploy.grafana.preview.asking import Prometheus, answered, empty
from deploy.grafana.preview.dashboards import Times, Unreadable, panels, replaced, step, variables
from deploy.grafana.preview.showing import NotShown, opened, prepare, served, shown
from tests.conftest import need

ROOT = Path(__file__).resolve().parents[2]
PREVIEW = ROOT / "deploy" / "grafana" / "preview"
START = 1_700_000_000

Asked = list[tuple[str, dict[str, str]]]  # paths, and what was asked there


def panel(number: int, kind: str, title: str, place: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    x, y, w, h = place
    return {"id": number, "type": kind, "title": title, "gridPos": {"x": x, "y": y, "w": w, "h": h}, **more}


# --- what is read


def test_variables_are_replaced_in_each_of_their_forms() -> None:
    values = {"job": "gateway", "instance": "(a|b)", **Times(0, 90, 2, 20).variables}

    text = 'rate(x{job="$job",instance=~"${instance:regex}"}[$__rate_interval]) > ${__range_s} + $__interval_ms'

    assert replaced(text, values) == 'rate(x{job="gateway",instance=~"(a|b)"}[20s]) > 90 + 2000'


def test_a_group_of_a_regular_expression_is_no_variable() -> None:
    assert replaced('label_replace(up, "a", "$1", "b", "x(.*)$")', {}) == 'label_replace(up, "a", "$1", "b", "x(.*)$")'


def test_a_variable_that_the_dashboard_does_not_have_is_not_passed_on() -> None:
    with pytest.raises(Unreadable, match="no variable jop"):
        replaced('up{job="$jop"}', {"job": "gateway"})


async def values_of(selector: str, label: str) -> Sequence[str]:
    return {
        ("", "job"): ["gateway", "other"],
        ('up{job="gateway"}', "instance"): ["127.0.0.1:1", "127.0.0.1:2"],
        ("up", "nothing"): [],
    }[selector, label]


def variable(name: str, query: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "query", "query": query, **more}


async def test_each_kind_of_variable_is_chosen_as_grafana_would() -> None:
    dashboard = {
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "label": "Data source", "query": "prometheus"},
                variable("job", "label_values(job)", regex="/gate/"),
                variable("instance", 'label_values(up{job="$job"}, instance)', includeAll=True, multi=True),
                variable("account", "label_values(up, nothing)", includeAll=True, allValue=".*", hide=2)
                | {"query": {"query": "label_values(job)", "refId": "A"}},
                {"name": "quantile", "type": "custom", "query": "p50 : 0.5, p99 : 0.99", "current": {"value": "0.99"}},
                {"name": "text", "type": "constant", "query": "fixed"},
            ]
        }
    }

    found = await variables(dashboard, values_of)

    assert [(one.name, one.label, one.chosen, one.shown, one.hidden) for one in found] == [
        ("datasource", "Data source", "prometheus", "Prometheus", False),
        ("job", "job", "gateway", "gateway", False),
        ("instance", "instance", r"(127\\.0\\.0\\.1:1|127\\.0\\.0\\.1:2)", "All", False),
        ("account", "account", ".*", "All", True),
        ("quantile", "quantile", "0.99", "0.99", False),
        ("text", "text", "fixed", "fixed", False),
    ]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (variable("a", "label_values(up, nothing)"), "Nothing can be chosen for the variable a"),
        (variable("a", "query_result(up)"), "asks for query_result"),
        ({"name": "a", "type": "adhoc"}, "is of type adhoc"),
    ],
)
async def test_a_variable_that_is_not_understood_is_told(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Unreadable, match=re.escape(complaint)):
        await variables({"templating": {"list": [wrong]}}, values_of)


def test_a_closed_row_is_opened_and_what_is_below_moves_down() -> None:
    inside = [panel(3, "stat", "in it", (0, 2, 12, 4)), panel(4, "stat", "in it too", (0, 6, 12, 3))]
    dashboard = {
        "panels": [
            panel(5, "row", "open", (0, 2, 24, 1), panels=[]),
            panel(1, "stat", "first", (0, 0, 24, 1)),
            panel(2, "row", "closed", (0, 1, 24, 1), collapsed=True, panels=inside),
            panel(6, "stat", "last", (0, 3, 24, 1)),
        ]
    }

    assert [(one["title"], one["gridPos"]["y"]) for one in panels(dashboard)] == [
        ("first", 0),
        ("closed", 1),
        ("in it", 2),
        ("in it too", 6),
        ("open", 9),
        ("last", 10),
    ]


@pytest.mark.parametrize(("least", "expected"), [(None, 2), ("5s", 5), ("1m", 60), (">1s", 2)])
def test_points_are_as_close_as_can_be_told_apart_and_no_closer_than_the_panel_says(
    least: str | None, expected: int
) -> None:
    assert step({"title": "x", "interval": least}, 180, 100) == expected


def test_an_interval_that_is_not_understood_is_told() -> None:
    with pytest.raises(Unreadable, match="interval often"):
        step({"title": "x", "interval": "often"}, 180, 100)


# --- what Prometheus is asked


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
async def prometheus(unused_tcp_port: int, asked: Asked) -> Any:
    answers: dict[str, Any] = {
        "query_range": {
            "resultType": "matrix",
            "result": [{"metric": {"code": "ok"}, "values": [[START, "1"], [START + 1, "2"]]}],
        },
        "query": {"resultType": "scalar", "result": [START, "7"]},
        "query_exemplars": [{"exemplars": [{"timestamp": START + at, "value": str(at)} for at in (1, 2, 90)]}],
        "label/job/values": ["gateway"],
    }

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.match_info["path"], dict(request.query)))
        if request.query.get("query") == "(":
            return web.json_response({"status": "error", "error": "unclosed left parenthesis"}, status=400)
        return web.json_response({"status": "success", "data": answers[request.match_info["path"]]})

    application = web.Application()
    application.router.add_get("/api/v1/{path:.+}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    async with aiohttp.ClientSession() as session:
        yield Prometheus(session, f"127.0.0.1:{unused_tcp_port}")
    await runner.cleanup()


async def test_every_target_is_asked_as_it_says(prometheus: Prometheus, asked: Asked) -> None:
    dashboard = {
        "title": "All of it",
        "links": [{"title": "Runbook"}],
        "templating": {"list": [variable("job", "label_values(job)", label="Job")]},
        "panels": [
            panel(1, "row", "Row", (0, 0, 24, 1)),
            panel(
                2,
                "timeseries",
                "Over time",
                (0, 1, 24, 1),
                targets=[
                    {"refId": "A", "expr": 'rate(x{job="$job"}[$__rate_interval])', "exemplar": True},
                    {"refId": "B", "expr": "y", "hide": True},
                ],
            ),
            panel(3, "stat", "Now", (0, 2, 24, 1), targets=[{"refId": "A", "expr": "z", "instant": True}]),
        ],
    }

    found = await answered(dashboard, prometheus, START, START + 100)

    assert [(path, query.get("query"), query.get("step")) for path, query in asked] == [
        ("label/job/values", None, None),
        ("query_range", 'rate(x{job="gateway"}[20s])', "1"),
        ("query_exemplars", 'rate(x{job="gateway"}[20s])', None),
        ("query", "z", None),
    ]
    assert found["variables"] == [{"label": "Job", "value": "gateway"}]
    assert found["links"] == ["Runbook"]
    row, over, now = found["panels"]
    assert row["answers"] == []
    (answer,) = over["answers"]
    # Of those that would lie upon one another, the greatest.
    assert [one["value"] for one in answer["exemplars"]] == ["2", "90"]
    assert now["answers"][0]["series"] == [{"metric": {}, "value": [START, "7"]}]
    assert empty(found) == []
    over["answers"][0]["series"] = []
    assert empty(found) == ["Over time"]


async def test_a_query_that_prometheus_refuses_is_told(prometheus: Prometheus) -> None:
    with pytest.raises(Unreadable, match="unclosed left parenthesis"):
        await prometheus.over("(", Times(0, 1, 1, 1))


# --- what is shown


def answer(series: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"refId": "A", "legend": "", "table": False, "step": 1, "series": series, "exemplars": [], **more}


def line(code: str, *values: float) -> dict[str, Any]:
    return {"metric": {"code": code}, "values": [[START + at, str(value)] for at, value in enumerate(values)]}


def now(value: float, **metric: str) -> dict[str, Any]:
    return {"metric": metric, "value": [START + 60, str(value)]}


SHARE = {
    "defaults": {
        "unit": "percentunit",
        "max": 1,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": "red", "value": None}, {"color": "green", "value": 0.9}],
        },
    },
    "overrides": [],
}
RENAMED = {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"account": "Account"}}}
LOUD = {"matcher": {"id": "byName", "options": "bad"}, "properties": [{"id": "displayName", "value": "very bad"}]}
CANNED: dict[str, Any] = {
    "title": "Canned",
    "from": START,
    "to": START + 60,
    "variables": [{"label": "Job", "value": "All"}],
    "links": ["Runbook"],
    "panels": [
        panel(1, "row", "What is seen", (0, 0, 24, 1), answers=[]),
        panel(
            2,
            "timeseries",
            "Requests",
            (0, 1, 12, 8),
            description="What was asked.",
            fieldConfig={"defaults": {"unit": "reqps"}, "overrides": [LOUD]},
            answers=[
                answer(
                    [line("ok", *range(60)), line("bad", *[3] * 60)],
                    legend="{{code}}",
                    exemplars=[{"timestamp": START + 30, "value": "20"}],
                )
            ],
        ),
        panel(3, "stat", "Calls", (12, 1, 4, 4), answers=[answer([line("ok", 1, 2, 1234)])]),
        panel(4, "gauge", "Share", (16, 1, 8, 4), fieldConfig=SHARE, answers=[answer([now(0.987)])]),
        panel(
            5,
            "bargauge",
            "Outcomes",
            (12, 5, 6, 4),
            options={"orientation": "horizontal"},
            answers=[answer([now(41, outcome="accepted"), now(2, outcome="unknown")], legend="{{outcome}}")],
        ),
        panel(
            6,
            "table",
            "Accounts",
            (18, 5, 6, 4),
            transformations=[RENAMED],
            answers=[answer([now(7, account="desk-1"), now(9, account="desk-2")], table=True)],
        ),
        panel(7, "text", "Note", (0, 9, 12, 2), options={"content": "It is **bold**."}, answers=[]),
        panel(8, "stat", "Lost", (12, 9, 12, 2), answers=[answer([])]),
    ],
}


@pytest.mark.timeout(300)  # the first time the packages are installed
async def test_a_browser_shows_every_panel_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = await prepare(need("npm"))
    async with served(page, {"canned": CANNED}) as address, opened(need("chromium"), tmp_path) as tab:
        picture = await shown(tab, address, "canned")  # and refuses complaints, and requests to elsewhere

        texts = {
            number: await tab.value(f"document.getElementById('panel-{number}').innerText.replace(/\\s+/g, ' ')")
            for number in range(1, 9)
        }
        header = await tab.value("document.getElementById('page').innerText")
        drawn = {
            name: await tab.value(f"document.querySelectorAll('#panel-2 {name}').length")
            for name in (".u-over", "svg.exemplar")
        }
        gauge = await tab.value("document.querySelector('#panel-4 canvas').parentElement.ariaLabel")
        fonts = await tab.value("[...document.fonts].filter((font) => font.status === 'loaded').length")
        outside = await tab.value(
            "[...document.querySelectorAll('[id^=panel-]')].filter((one) => one.scrollHeight > one.clientHeight).length"
        )
    for number, expected in {
        1: "What is seen",
        2: "Requests ok very bad",
        3: "Calls 1234",
        4: "Share",
        5: "Outcomes accepted 41 unknown 2",
        6: "Accounts Account Value desk-1 7 desk-2 9",
        7: "Note It is bold.",
        8: "Lost No data",
    }.items():
        assert texts[number].strip() == expected
    assert "Canned" in header
    assert "Last 1 minute" in header
    assert drawn == {".u-over": 1, "svg.exemplar": 1}
    assert gauge == "98.7%"
    assert fonts >= 2
    assert outside == 0
    assert colours(picture) > 20


def colours(png: bytes) -> int:
    """How many different lines of pixels there are; of a blank picture one."""
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert width == 1440
    pixels = zlib.decompress(data)
    size = len(pixels) // height
    return len({pixels[row * size : (row + 1) * size] for row in range(height)})


@pytest.mark.timeout(300)
async def test_a_panel_that_can_not_be_shown_is_told(tmp_path: Path) -> None:
    page = await prepare(need("npm"))
    odd = {**CANNED, "panels": [panel(1, "piechart", "Odd", (0, 0, 24, 8), answers=[answer([now(1)])])]}
    async with served(page, {"odd": odd}) as address, opened(need("chromium"), tmp_path) as tab:
        with pytest.raises(NotShown, match="A panel of type piechart can't be shown"):
            await shown(tab, address, "odd")


@pytest.mark.timeout(300)
async def test_whoever_is_told_to_end_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    for program in ("npm", "chromium", "redis-server", "prometheus"):
        need(program)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.grafana.preview", f"--output={tmp_path}", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        text = ""
        while "Calls are made" not in text:
            line = await process.stdout.readline()
            assert line, text
            text += line.decode()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)  # whoever is impatient changes nothing
        assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    (directory,) = re.findall(r"^Logs: +(.+)$", text, re.MULTILINE)
    assert not Path(directory).exists()
    for address in re.findall(r"^(?:Prometheus|Redis|Gateway [12]): +(?:http://)?([0-9.:]+)", text, re.MULTILINE):
        host, _, port = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_of_these_packages_and_names_no_registry() -> None:
    wanted = json.loads((PREVIEW / "package.json").read_text())
    lock = json.loads((PREVIEW / "package-lock.json").read_text())["packages"]

    assert lock[""]["dependencies"] == wanted["dependencies"]
    assert lock[""]["devDependencies"] == wanted["devDependencies"]
    assert all(re.fullmatch(r"[0-9.]+", version) for version in wanted["dependencies"].values())
    assert not [name for name, package in lock.items() if "resolved" in package]
    assert not [name for name, package in lock.items() if name and "integrity" not in package]
