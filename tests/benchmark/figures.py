"""Figures, what they are to reach, and how both are shown: a table for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_HEADINGS: Final = ("figure", "measured", "to reach", "stretch", "reached")


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach, and what would be better still; `least` if more is better."""

    reach: float
    stretch: float | None = None
    least: bool = False

    def met(self, value: float) -> str:
        """`no`, `yes` or `stretch`."""

        def holds(limit: float) -> bool:
            return value >= limit if self.least else value <= limit

        if self.stretch is not None and holds(self.stretch):
            return "stretch"
        return "yes" if holds(self.reach) else "no"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str
    target: Target | None = None

    def cells(self) -> tuple[str, str, str, str, str]:
        """Its row in a table."""
        if self.target is None:
            return self.name, self._shown(self.value), "", "", ""
        sign = "≥" if self.target.least else "≤"
        return (
            self.name,
            self._shown(self.value),
            f"{sign} {self._shown(self.target.reach)}",
            f"{sign} {self._shown(self.target.stretch)}" if self.target.stretch is not None else "",
            self.target.met(self.value),
        )

    def document(self) -> dict[str, object]:
        """Its JSON object."""
        document: dict[str, object] = {"name": self.name, "value": self.value, "unit": self.unit}
        if self.target is not None:
            document |= {
                "reach": self.target.reach,
                "stretch": self.target.stretch,
                "least": self.target.least,
                "reached": self.target.met(self.value),
            }
        return document

    def _shown(self, value: float) -> str:
        digits = 0 if value >= 1000 else 1 if value >= 10 else 2
        return f"{value:,.{digits}f} {self.unit}"


def table(title: str, figures: Iterable[Figure]) -> str:
    """The figures of a section, as Markdown."""
    rows = [_HEADINGS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"## {title}", "", line(rows[0]), ruler, *map(line, rows[1:]), ""])
