"""The filters of a log link as Loki carries them out.

Owns the few forms of LogQL that links have. Refuses what it does not know, so that no link is taken for one that works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

_QUERY: Final = re.compile(r'\{job=~"\$job"\} \| json((?: \| [^|"]+(?:"[^"]*")?)+)')
_TEXT: Final = re.compile(r'([a-z_]+)(=|=~)"([^"]*)"')
_NUMBER: Final = re.compile(r"([a-z_]+) > (\d+)")


@dataclass(frozen=True, slots=True)
class Links:
    """What leads from a panel to lines of the log: for most of its series, and for some by their names."""

    usual: str
    named: Mapping[str, str]

    def of(self, name: str, labels: Mapping[str, str]) -> str:
        """The filters for a series of this name and these labels, as Grafana puts them in."""
        filters = self.named.get(name, self.usual)
        return re.sub(r"\$\{__field\.labels\.(\w+)\}", lambda found: labels[found[1]], filters)


def links(panel: Mapping[str, Any]) -> Links | None:
    """Those of a panel, if it has any."""
    usual = panel["fieldConfig"]["defaults"].get("links") or []
    named = {
        override["matcher"]["options"]: _filters(one["value"][0]["url"])
        for override in panel["fieldConfig"].get("overrides") or ()
        for one in override["properties"]
        if one["id"] == "links"
    }
    return Links(_filters(usual[0]["url"]), named) if usual else None


def _filters(url: str) -> str:
    path, _, left = unquote(url).partition("?left=")
    assert path == "/explore"
    document = json.loads(left)
    assert document["datasource"] == "${logs}"
    (query,) = document["queries"]
    return str(query["expr"])


def matching(query: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that pass all filters of a query."""
    whole = _QUERY.fullmatch(query)
    if whole is None:
        raise ValueError(f"{query} is not known here")
    filters = whole[1].removeprefix(" | ").split(" | ")
    return [line for line in lines if all(_passes(one, _labels(line)) for one in filters)]


def _labels(line: Mapping[str, Any]) -> dict[str, str]:
    # Loki makes labels of all fields, and text of all values; a label that is not there is empty.
    return {re.sub(r"\W", "_", name): str(value) for name, value in line.items()}


def _passes(one: str, labels: Mapping[str, str]) -> bool:
    if (text := _TEXT.fullmatch(one)) is not None:
        name, operator, value = text.groups()
        has = labels.get(name, "")
        return has == value if operator == "=" else re.fullmatch(value, has) is not None
    if (number := _NUMBER.fullmatch(one)) is not None:
        return float(labels.get(number[1], "nan")) > float(number[2])
    raise ValueError(f"{one} is not known here")


def asked(query: str) -> Iterator[str]:
    """The labels that a query filters by."""
    whole = _QUERY.fullmatch(query)
    assert whole is not None, query
    yield from re.findall(r"\| ([a-z_]+)", whole[1])
