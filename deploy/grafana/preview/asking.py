"""What Prometheus answers to a dashboard's queries, as the page takes it.

Owns the questions. Refuses an answer that is an error, and to draw more exemplars than can be told apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp

from deploy.grafana.preview.dashboards import Times, Unreadable, panels, replaced, step, variables

RATE_INTERVAL: Final = 20  # of scrapes a second apart Grafana would take 4 s, in which too few calls happen
_COLUMNS: Final = 200
_MOST_EXEMPLARS: Final = 40


class Prometheus:
    """One that runs, asked over its API."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._url = f"http://{address}/api/v1"

    async def label_values(self, selector: str, label: str) -> list[str]:
        """The values of a label, of all series or those of a selector."""
        data = await self._get(f"label/{label}/values", {"match[]": selector} if selector else {})
        return [str(value) for value in data]

    async def over(self, query: str, times: Times) -> list[dict[str, Any]]:
        """The series of a query, over the whole time."""
        # A point stands where Grafana puts it: at a whole number of steps.
        start, end = (moment // times.step * times.step for moment in (times.start, times.end))
        data = await self._get("query_range", {"query": query, "start": start, "end": end, "step": times.step})
        return _series(data, query)

    async def at_the_end(self, query: str, times: Times) -> list[dict[str, Any]]:
        """The series of a query, with one value each."""
        return _series(await self._get("query", {"query": query, "time": times.end}), query)

    async def exemplars(self, query: str, times: Times) -> list[dict[str, Any]]:
        """The greatest exemplar of each of some stretches of the time."""
        asked: dict[str, str | float] = {"query": query, "start": times.start, "end": times.end}
        greatest: dict[int, dict[str, Any]] = {}
        for series in await self._get("query_exemplars", asked):
            for one in series["exemplars"]:
                stretch = int((one["timestamp"] - times.start) / (times.end - times.start) * _MOST_EXEMPLARS)
                if stretch not in greatest or float(greatest[stretch]["value"]) < float(one["value"]):
                    greatest[stretch] = one
        return list(greatest.values())

    async def _get(self, path: str, query: Mapping[str, str | float]) -> Any:
        async with self._session.get(f"{self._url}/{path}", params=query) as answer:
            content = await answer.json()
        if content["status"] != "success":
            raise Unreadable(f"Prometheus does not take {dict(query)}: {content['error']}")
        return content["data"]


def _series(data: Mapping[str, Any], query: str) -> list[dict[str, Any]]:
    match data["resultType"], data["result"]:
        case "vector" | "matrix", list(result):
            return result
        case "scalar", value:
            return [{"metric": {}, "value": value}]
        case kind, _:
            raise Unreadable(f"Prometheus answers with a {kind} to {query}")


async def answered(dashboard: Mapping[str, Any], prometheus: Prometheus, start: float, end: float) -> dict[str, Any]:
    """The dashboard, with what Prometheus has for it, as the page takes it. Raises `Unreadable`."""
    chosen = await variables(dashboard, prometheus.label_values)
    names = {one.name: one.chosen for one in chosen}
    return {
        "title": dashboard["title"],
        "from": start,
        "to": end,
        "variables": [{"label": one.label, "value": one.shown} for one in chosen if not one.hidden],
        "links": [link["title"] for link in dashboard.get("links") or []],
        "panels": [
            await _panel(panel, prometheus, names, start, end) for panel in panels(dashboard)
        ],
    }  # fmt: skip


async def _panel(
    panel: Mapping[str, Any], prometheus: Prometheus, names: Mapping[str, str], start: float, end: float
) -> dict[str, Any]:
    distance = step(panel, end - start, _COLUMNS)
    times = Times(start, end, distance, max(RATE_INTERVAL, 4 * distance))
    targets: Sequence[Mapping[str, Any]] = panel.get("targets") or []
    answers = [_answer(target, prometheus, names, times) for target in targets if not target.get("hide")]
    kept = ("id", "type", "title", "description", "transparent", "gridPos", "fieldConfig", "options", "transformations")
    return {
        **{key: panel[key] for key in kept if panel.get(key) is not None},
        "title": panel.get("title", ""),
        "answers": [one for answer in await asyncio.gather(*answers) for one in answer],
    }


async def _answer(
    target: Mapping[str, Any], prometheus: Prometheus, names: Mapping[str, str], times: Times
) -> list[dict[str, Any]]:
    query = replaced(target["expr"], {**names, **times.variables})
    asked = [prometheus.at_the_end(query, times)] if target.get("instant") else []
    if target.get("range") or not asked:
        asked.append(prometheus.over(query, times))
    common = {
        "refId": target.get("refId", "A"),
        "legend": target.get("legendFormat", ""),
        "table": target.get("format") == "table",
        "step": times.step,
    }
    found = [{**common, "series": series, "exemplars": []} for series in await asyncio.gather(*asked)]
    if target.get("exemplar"):
        found[-1]["exemplars"] = await prometheus.exemplars(query, times)
    return found


def empty(dashboard: Mapping[str, Any]) -> list[str]:
    """The titles of panels for which Prometheus had nothing."""
    return [
        panel["title"]
        for panel in dashboard["panels"]
        if panel["type"] not in {"row", "text"} and not any(answer["series"] for answer in panel["answers"])
    ]
