"""HTML in the making: elements, and text that is escaped unless it is an element.

Owns the escaping. Refuses markup from text: what is not `Html` is shown as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Final

_VOID: Final = frozenset({"meta", "link", "hr", "br"})
_MARKS: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")


class Html(str):
    """Markup that was made here."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | bool) -> Html:
    """An element; of an attribute's name `_` stands for `-`, and one at its end is dropped."""
    parts = [name]
    for attribute, value in attributes.items():
        shown = attribute.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(shown)
        elif value is not False:
            parts.append(f'{shown}="{escape(value, quote=True)}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: str | None) -> Html:
    """One after the other."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def prose(text: str) -> Html:
    """A sentence with `code` and **bold** in it."""
    parts: list[str] = []
    end = 0
    for mark in _MARKS.finditer(text):
        parts += [text[end : mark.start()], element("code", mark[1]) if mark[1] else element("strong", prose(mark[2]))]
        end = mark.end()
    return join(*parts, text[end:])


def paragraphs(text: str) -> Html:
    """Paragraphs of prose, with an empty line between them."""
    return join(*(element("p", prose(part)) for part in text.split("\n\n")))


def table(heading: tuple[str, ...], rows: Sequence[Sequence[str]]) -> Html:
    """A table whose cells know their column's title, to be shown beside them where a row has no room."""
    head = element("tr", *(element("th", title, scope="col") for title in heading))
    body = (
        element("tr", *(element("td", cell, data_title=title) for title, cell in zip(heading, row, strict=True)))
        for row in rows
    )
    return element(
        "div",
        element("table", element("thead", head), element("tbody", *body)),
        class_="table",
    )
