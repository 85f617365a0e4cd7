"""Links to the log: what Grafana makes of their addresses, and their queries as Loki carries them out.

Owns the few forms of variables and of LogQL that links have. Refuses what it does not know, so that no link is taken
for one that works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

Lines = list[dict[str, Any]]
Chosen = Mapping[str, Sequence[str]]  # the values of variables; one that is not there has all of its values

_VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{([\w.]+)(?::(\w+))?\})")
_SAFE: Final = ";,/?:@&=+$-_.~#"  # what encodeURI leaves as it is, but for what Grafana encodes all the same
_QUERY: Final = re.compile(r'\{job=~"([^"]+)"\} \| json((?: \| .+)*)')
_FORMAT: Final = re.compile(r'label_format ([a-z_]+)=`\{\{or \.\1 "([^"]*)"\}\}`')
_TEXT: Final = re.compile(r'([a-z_]+)(=|=~)"([^"]*)"')
_NUMBER: Final = re.compile(r"([a-z_]+) > (\d+)")


@dataclass(frozen=True, slots=True)
class Links:
    """What leads from a panel to lines of the log: for most of its series, and for some by their names."""

    usual: str
    named: Mapping[str, str]
    every: Mapping[str, str]  # what stands for all values of a variable

    def query(self, labels: Mapping[str, str], chosen: Chosen, name: str = "") -> str:
        """What Explore asks Loki for after a click on a series of this name and these labels."""
        address = urlsplit(interpolated(self.named.get(name, self.usual), labels, chosen, self.every))
        assert address.path == "/explore"
        document = json.loads(parse_qs(address.query, strict_parsing=True)["left"][0])
        assert document["datasource"] == "loki"
        (query,) = document["queries"]
        return str(query["expr"])


def interpolated(url: str, labels: Mapping[str, str], chosen: Chosen, every: Mapping[str, str]) -> str:
    """The address as Grafana makes it of a link: values for a URI, unless a variable says otherwise."""

    def value(found: re.Match[str]) -> str:
        name, form = found[1] or found[2], found[3] or "uriencode"
        if name in ("__from", "__to"):
            return "1"
        if name == "logs":
            return "loki"
        if name.startswith("__field.labels."):
            return _encoded(labels[name.removeprefix("__field.labels.")])
        if name not in chosen:
            return every[name]  # as it is, whatever the form
        match form:
            case "uriencode":
                return _encoded("{" + ",".join(chosen[name]) + "}")
            case "pipe":
                return "|".join(chosen[name])
            case other:
                raise ValueError(f"{other} is not known here")

    return _VARIABLE.sub(value, url)


def _encoded(text: str) -> str:
    return quote(text, safe=_SAFE)


def links(page: Mapping[str, Any], panel: Mapping[str, Any]) -> Links | None:
    """Those of a panel, if it has any."""
    usual = panel["fieldConfig"]["defaults"].get("links") or []
    named = {
        override["matcher"]["options"]: str(one["value"][0]["url"])
        for override in panel["fieldConfig"].get("overrides") or ()
        for one in override["properties"]
        if one["id"] == "links"
    }
    every = {one["name"]: one["allValue"] for one in page["templating"]["list"] if one["type"] == "query"}
    return Links(str(usual[0]["url"]), named, every) if usual else None


def matching(query: str, streams: Mapping[str, Lines]) -> Lines:
    """The lines, of streams by their jobs, that pass all stages of a query."""
    job, *stages = _stages(query)
    if re.fullmatch(job, "") is not None:
        raise ValueError(f"Loki refuses {query}, which chooses nothing")
    found = [(line, _labels(line)) for of, lines in streams.items() if re.fullmatch(job, of) for line in lines]
    for stage in stages:
        if (formatted := _FORMAT.fullmatch(stage)) is not None:
            found = [
                (line, labels | {formatted[1]: labels.get(formatted[1]) or formatted[2]}) for line, labels in found
            ]
        else:
            found = [(line, labels) for line, labels in found if _passes(stage, labels)]
    return [line for line, _ in found]


def _stages(query: str) -> list[str]:
    whole = _QUERY.fullmatch(query)
    if whole is None:
        raise ValueError(f"{query} is not known here")
    return [whole[1], *whole[2].split(" | ")[1:]]


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
    for stage in _stages(query)[1:]:
        yield stage.removeprefix("label_format ").partition(" ")[0].partition("=")[0]
