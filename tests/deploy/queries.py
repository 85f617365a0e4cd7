"""PromQL as its parser sees it: which metrics an expression asks for, with which labels.

Owns the shipped rules and what is known of every metric. Refuses to guess: what does not parse is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml

from tests.unit.test_documentation import families

ROOT: Final = Path(__file__).resolve().parents[2] / "deploy"
RULES: Final = tuple(sorted((ROOT / "prometheus").glob("*.yaml")))
_TARGET: Final = frozenset({"job", "instance"})  # what Prometheus adds to all that it scrapes
_OTHERS: Final = {"up": _TARGET}  # metrics that Prometheus makes itself


@dataclass(frozen=True, slots=True)
class Selector:
    """A vector of an expression: its metric, the labels it is chosen by, whether it is a range, and of another time."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    ranged: bool
    earlier: bool

    @property
    def labels(self) -> set[str]:
        """The labels that it is chosen by."""
        return {name for name, _, _ in self.matchers}


@dataclass(frozen=True, slots=True)
class Query:
    """What an expression asks for; `labels` are those that it groups, joins or aggregates by."""

    text: str
    selectors: tuple[Selector, ...]
    labels: frozenset[str]


def parsed(text: str) -> Query:
    """An expression taken apart. Raises `ValueError` if it is no PromQL."""
    nodes = list(_walk(promql_parser.parse(text), ranged=False))
    return Query(
        text,
        tuple(node for node in nodes if isinstance(node, Selector)),
        frozenset(node for node in nodes if isinstance(node, str)),
    )


def _walk(node: Any, *, ranged: bool) -> Iterator[Selector | str]:
    kind = type(node).__name__
    if kind == "VectorSelector":
        matchers = tuple((matcher.name, str(matcher.op), matcher.value) for matcher in node.matchers.matchers)
        yield Selector(node.name or "", matchers, ranged, node.offset is not None)
    elif kind == "AggregateExpr" and node.modifier is not None:
        yield from node.modifier.labels
    elif kind == "BinaryExpr" and node.modifier is not None and node.modifier.matching is not None:
        yield from node.modifier.matching.labels
    for child in _children(kind, node):
        yield from _walk(child, ranged=kind == "MatrixSelector")


def _children(kind: str, node: Any) -> list[Any]:
    match kind:
        case "MatrixSelector":
            return [node.vector_selector]
        case "BinaryExpr":
            return [node.lhs, node.rhs]
        case "Call":
            return list(node.args)
        case "AggregateExpr" | "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
            return [node.expr]
        case "VectorSelector" | "NumberLiteral" | "StringLiteral":
            return []
        case other:
            raise ValueError(f"{other} is not known here")


@cache
def groups() -> list[dict[str, Any]]:
    """The groups of the shipped rules."""
    return [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The shipped rules that `record` or `alert`, by name."""
    return {rule[kind]: rule for group in groups() for rule in group["rules"] if kind in rule}


@cache
def series() -> dict[str, frozenset[str]]:
    """Every series that there is, with its labels: the gateway's, those that are recorded, Prometheus' own."""
    found: dict[str, frozenset[str]] = dict(_OTHERS)
    for name, (kind, labels) in families().items():
        if kind == "histogram":
            found |= {f"{name}_bucket": labels | _TARGET | {"le"}}
            found |= {f"{name}_{ending}": labels | _TARGET for ending in ("sum", "count")}
        else:
            found[name] = labels | _TARGET
    for name in rules("record"):
        found[name] = frozenset(name.partition(":")[0].split("_"))
    return found


def unknown(query: Query) -> Iterator[str]:
    """What an expression asks for that no series has."""
    known = series()
    for selector in query.selectors:
        if selector.metric not in known:
            yield selector.metric
        else:
            yield from (f"{selector.metric}: {label}" for label in selector.labels - known[selector.metric])
    has = frozenset[str]().union(*(known.get(selector.metric, frozenset()) for selector in query.selectors))
    yield from (f"{query.text}: {label}" for label in query.labels - has)
