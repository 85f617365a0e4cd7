"""A dashboard as Grafana reads it: its panels in their places, and its queries with the variables in them replaced.

Owns what is known of Grafana's format. Refuses a variable that the dashboard does not have, for Grafana would send its
name to Prometheus as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# $name, ${name} or ${name:format}; [[name]] is no longer written.
_VARIABLE: Final = re.compile(r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::(?P<format>\w+))?\})")
_REGEX: Final = re.compile(r"[\\^$*+?.()|\[\]{}]")
_LABEL_VALUES: Final = re.compile(r"label_values\(\s*(?:(?P<selector>.+),)?\s*(?P<label>\w+)\s*\)", re.DOTALL)

_HIDDEN: Final = 2  # 1 hides the label alone


class Unreadable(Exception):  # noqa: N818 - of the dashboard: it is what can't be read
    """A dashboard has something in it that is not understood here; says what."""


@dataclass(frozen=True)
class Times:
    """When a panel looks, in seconds since the epoch, and at which distances."""

    start: float
    end: float
    step: int
    rate_interval: int

    @property
    def variables(self) -> dict[str, str]:
        """Those that Grafana has in every dashboard."""
        length = round(self.end - self.start)
        return {
            "__interval": f"{self.step}s",
            "__interval_ms": str(self.step * 1000),
            "__rate_interval": f"{self.rate_interval}s",
            "__rate_interval_ms": str(self.rate_interval * 1000),
            "__range": f"{length}s",
            "__range_s": str(length),
            "__range_ms": str(length * 1000),
            "__from": str(round(self.start * 1000)),
            "__to": str(round(self.end * 1000)),
        }


@dataclass(frozen=True)
class Variable:
    """One that the dashboard has, with what is chosen for it."""

    name: str
    label: str
    chosen: str  # as its name is replaced in a query
    shown: str
    hidden: bool = False


def replaced(text: str, values: Mapping[str, str]) -> str:
    """The text with every variable in it replaced. Raises `Unreadable`."""

    def value(match: re.Match[str]) -> str:
        name = match["bare"] or match["braced"]
        if name not in values:
            raise Unreadable(f"There is no variable {name}: {text}")
        return values[name]

    return _VARIABLE.sub(value, text)


async def variables(
    dashboard: Mapping[str, Any], label_values: Callable[[str, str], Awaitable[Sequence[str]]]
) -> list[Variable]:
    """The dashboard's variables, of each all values; `label_values` finds those of a label of a selector."""
    found: list[Variable] = []
    for one in dashboard.get("templating", {}).get("list", []):
        known = {variable.name: variable.chosen for variable in found}
        chosen, shown = await _choice(one, known, label_values)
        label, hidden = one.get("label") or one["name"], one.get("hide") == _HIDDEN
        found.append(Variable(one["name"], label, chosen, shown, hidden))
    return found


async def _choice(
    variable: Mapping[str, Any],
    known: Mapping[str, str],
    label_values: Callable[[str, str], Awaitable[Sequence[str]]],
) -> tuple[str, str]:
    """As it is replaced, and as it is shown."""
    name, kind, query = variable["name"], variable["type"], variable.get("query", "")
    text: str = query.get("query", "") if isinstance(query, dict) else query
    match kind:
        case "datasource":
            return text, text.capitalize()
        case "textbox" | "constant":
            return text, text
        case "custom" | "interval":
            values = [value.split(" : ")[-1].strip() for value in text.split(",")]
        case "query":
            asked = _LABEL_VALUES.fullmatch(text.strip())
            if asked is None:
                raise Unreadable(f"The variable {name} asks for {text}.")
            wanted = re.compile((variable.get("regex") or "").strip("/"))
            selector = replaced(asked["selector"] or "", known).strip()
            values = [value for value in await label_values(selector, asked["label"]) if wanted.search(value)]
        case _:
            raise Unreadable(f"The variable {name} is of type {kind}.")
    if not values:
        raise Unreadable(f"Nothing can be chosen for the variable {name}.")
    if variable.get("includeAll"):
        return variable.get("allValue") or _any_of(values), "All"
    current = (variable.get("current") or {}).get("value")
    value = current if current in values else values[0]
    return (_any_of([value]) if variable.get("multi") else value), value


def _any_of(values: Sequence[str]) -> str:
    # As Grafana's data source for Prometheus escapes: for a regular expression, within a string of PromQL.
    escaped = [_REGEX.sub(r"\\\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, from top to bottom; a row that is closed is opened, and what is below it moves down."""
    moved = 0
    for panel in sorted(dashboard["panels"], key=lambda one: (one["gridPos"]["y"], one["gridPos"]["x"])):
        inner = panel.get("panels") or []
        yield _moved(panel, moved)
        if not inner:
            continue
        top = min(one["gridPos"]["y"] for one in inner)
        below = panel["gridPos"]["y"] + panel["gridPos"]["h"]
        for one in inner:
            yield _moved(one, moved + below - top)
        moved += max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in inner) - top


def _moved(panel: Mapping[str, Any], by: int) -> dict[str, Any]:
    place = panel["gridPos"]
    return {**panel, "gridPos": {**place, "y": place["y"] + by}}


def step(panel: Mapping[str, Any], seconds: float, columns: int) -> int:
    """The distance of a panel's points: about one a pixel, and no less than the panel asks for."""
    least = panel.get("interval") or "1s"
    match = re.fullmatch(r">?(\d+)([smh])", least)
    if match is None:
        raise Unreadable(f"The panel {panel['title']!r} has the interval {least}.")
    return max(int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]], math.ceil(seconds / columns))
