"""A real Prometheus scrapes real gateways: every query of every panel and rule finds what it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway.simulator import Fault, Simulator
from tests.deploy.dashboards import documents, interpolated, targets
from tests.deploy.prometheus_server import Prometheus, prometheus
from tests.deploy.queries import Selector, parsed, rules
from tests.harness import KEY, Farm
from tests.lasting import Gateways, gateways

MOST_LOOKS = 90
# What comes about in a minute is not what these wait for: a gateway that refuses for want of room has too much to do.
RARE = {"gateway_rejected_total"}
# Of these panels nothing is what they show here: no line is lost, and nobody is refused for want of room.
NOTHING = {"Lines of the log lost", "Saturation"}
# They begin at 1, and that they show it proves nothing.
FALLING = {"Good dials", "Error budget left"}
# What has these in it is 0 where nothing was counted.
COUNTING = ("vector(0)", "increase(", "last_over_time(")
SETTINGS = ({"drain_seconds": 6}, {"drain_seconds": 7})
LOOKS_TO_A_RELOAD = 15
# What the alert looks at, whatever it has to be.
UNKNOWN = rules("alert")["DialGatewayOutcomesUnknown"]["expr"].rpartition(" > ")[0]


@dataclass
class Traffic:
    """Calls of all kinds, with faults in between, until it is told to stop; `traces` are the ids that were sent."""

    made: Gateways
    simulator: Simulator
    traces: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Go on until cancelled."""
        number = 0
        while True:
            number += 1
            for process in self.made.running:
                with contextlib.suppress(aiohttp.ClientError):
                    await self._round(process.base, number)
            await asyncio.sleep(0.05)

    async def _round(self, base: str, number: int) -> None:
        kinds = (
            Fault("close-request", "create"),
            Fault("result-code", "create", code="13"),
            Fault("status", "create", status=500),
        )
        if number % 5 == 0:
            self.simulator.fault(kinds[number // 5 % len(kinds)])
        if number % 20 == 10:
            self.simulator.fault(Fault("status", "applyToken", status=500))
            self.simulator.expire()
        answer = await self._ask(base, "POST", "/dial", {"Idempotency-Key": f"key-{number // 2}"}, {"media": "voice"})
        await self._ask(base, "POST", "/dial", {"Authorization": "Bearer dgw_wrong"}, {"media": "voice"})
        await self._ask(base, "GET", "/dial/support")
        if "id" in answer:
            await self._ask(base, "GET", f"/dial/{answer['id']}/events")
            await self._ask(base, "DELETE", f"/dial/{answer['id']}")

    async def _ask(
        self, base: str, method: str, target: str, more: dict[str, str] | None = None, body: object = None
    ) -> dict[str, object]:
        trace = secrets.token_hex(16)
        self.traces.add(trace)
        headers = {"Authorization": f"Bearer {KEY}", "traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"} | (
            more or {}
        )
        async with self.made.session.request(
            method, base + target, headers=headers | (more or {}), json=body
        ) as answer:
            told = await answer.json(content_type=None)
            return told if isinstance(told, dict) and answer.status == 201 else {}


@dataclass
class Watched:
    """What runs."""

    prometheus: Prometheus
    traffic: Traffic
    made: Gateways


@pytest.fixture
async def watched(farm: Farm, tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Watched]:
    """Two gateways on one store with callers, and a Prometheus that scrapes both."""
    simulator = await farm.simulator(queue_seconds=0.0, connect_seconds=0.0, talk_seconds=None, poll_seconds=0.2)
    url = f"sqlite://{tmp_path}/state.db"
    async with gateways(farm, simulator, url, 2, farm.applied(simulator)) as made:
        scraped = [process.admin.removeprefix("http://") for process in made.running]
        async with prometheus(tmp_path / "prometheus", unused_tcp_port, scraped) as server:
            traffic = Traffic(made, simulator)
            callers = asyncio.create_task(traffic.run())
            try:
                yield Watched(server, traffic, made)
            finally:
                callers.cancel()
                await asyncio.gather(callers, return_exceptions=True)


def _reload(made: Gateways, change: Mapping[str, int]) -> None:
    settings = yaml.safe_load(made.path.read_text())
    made.path.write_text(yaml.safe_dump(settings | change))


@dataclass(frozen=True)
class Question:
    """What Prometheus is asked, and which of its answers says that it has counted something."""

    text: str
    counts: Callable[[float], bool] = math.isfinite

    async def answered(self, server: Prometheus) -> bool:
        """Whether there is such an answer; a series called `none` is there when there is no other."""
        found = await server.query(self.text)
        return any(self.counts(value) for labels, value in found if "none" not in labels.values())


def panel_queries() -> dict[str, Question]:
    """Each query of each panel, for gateways that are scraped every second, by where it is."""
    found = {}
    for name, page in documents().items():
        for target in targets(page):
            title, text = target.panel["title"], interpolated(target.text, window="15s", shown="1m", step="10s")
            question = Question(text)
            if title in FALLING:
                question = Question(text, lambda value: value < 1)
            elif title not in NOTHING and any(part in text for part in COUNTING):
                question = Question(text, lambda value: value > 0)
            elif "vector(0)" in text:
                continue  # it would find itself
            found[f"{name}: {title}: {target.text}"] = question
    return found


def rule_queries() -> Iterator[tuple[str, str]]:
    """Every series that a rule asks for, by the rule; alone, because together they mostly and rightly find nothing."""
    for kind in ("record", "alert"):
        for name, rule in rules(kind).items():
            for selector in parsed(rule["expr"]).selectors:
                if selector.metric not in RARE:
                    yield f"{name}: {selector.metric}", _alone(selector)


def _alone(selector: Selector) -> str:
    # Which codes and results there are depends on what happens; that the label is there is what is asked.
    labels = ",".join(f'{label}!=""' for label in selector.labels)
    return f"{selector.metric}{{{labels}}}"


async def test_every_query_of_every_panel_and_rule_finds_something(watched: Watched) -> None:
    left = panel_queries() | {name: Question(text) for name, text in rule_queries()}
    assert len(left) > 100
    for look in range(MOST_LOOKS):
        if look % LOOKS_TO_A_RELOAD == 0:
            _reload(watched.made, SETTINGS[look // LOOKS_TO_A_RELOAD % len(SETTINGS)])
        for name, question in list(left.items()):
            if await question.answered(watched.prometheus):
                del left[name]
        if not left:
            break
        await asyncio.sleep(1)

    assert left == {}
    assert {target["health"] for target in await watched.prometheus.targets()} == {"up"}
    assert {(rule["name"], rule["health"]) for rule in await watched.prometheus.rules()} == {
        (name, "ok") for kind in ("record", "alert") for name in rules(kind)
    }
    assert await watched.prometheus.query("gateway_no_such_metric") == []
    # The exemplars of both histograms lead to requests that there were.
    for histogram in ("gateway_request_duration_seconds_bucket", "gateway_upstream_duration_seconds_bucket"):
        found = await watched.prometheus.exemplars(histogram + '{operation="create"}', 120)
        assert found
        assert found <= watched.traffic.traces
    # Failures that were made on purpose are seen as what they were, and counted once.
    unknown = 'gateway_upstream_requests_total{operation="create",outcome="unknown"}'
    ((_, made),) = await watched.prometheus.query(f"sum({unknown})")
    ((_, told),) = await watched.prometheus.query(UNKNOWN)
    assert told > 3
    assert told < 1.5 * made + 1
    ((_, bad),) = await watched.prometheus.query("job:gateway_dials_bad:burn_rate5m")
    assert 0 < bad < 1000


def test_what_shows_nothing_is_not_taken_for_what_counts() -> None:
    asked = panel_queries()

    assert {name for name, question in asked.items() if question.counts(0)} < asked.keys()
    for title in ("Nobody knows", "Failed refreshes", "New generations by trigger", "Errors", "Reloads"):
        (question,) = [question for name, question in asked.items() if f": {title}: " in name]
        assert not question.counts(0)
        assert question.counts(1)
    assert {target.panel["title"] for page in documents().values() for target in targets(page)} >= FALLING | NOTHING
