"""YAML to plain data, and where in the file each part of it stands.

Owns the syntax of the configuration file. Refuses what would be read differently by two readers or not at all:
repeated keys, merge keys, more than one document, aliases that contain themselves or grow without end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

MOST_BYTES: Final = 1024 * 1024
_MOST_NODES: Final = 200_000
_PLAIN_TAGS: Final = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
# YAML can write half a character ("\ud800"), which no file name and no message can hold.
_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")
_ONE_QUOTED: Final = 3  # a single character between quotes

Path = tuple[str | int, ...]
Position = tuple[int, int]


@dataclass(slots=True)
class Document:
    """The data of a file, and line and column (from 1) of each key and each value in it."""

    data: Any = None
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    faults: list[tuple[Position, Path, str]] = field(default_factory=list)


def read(content: bytes) -> Document:
    """Read the content of a file; what is wrong with its syntax is in `faults`."""
    document = Document()
    if len(content) > MOST_BYTES:
        document.faults.append(((1, 1), (), f"the file is over {MOST_BYTES} bytes"))
        return document
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        document.faults.append(((line, 1), (), "the file is not UTF-8"))
        return document
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        position = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        document.faults.append((position, (), f"not valid YAML: {_problem(exc.problem)}"))
        return document
    except (yaml.YAMLError, RecursionError, ValueError):
        document.faults.append(((1, 1), (), "not valid YAML: a character or a depth that can't be read"))
        return document
    if node is None:
        document.faults.append(((1, 1), (), "the file is empty"))
        return document
    document.data = _Reader(document).value(node, ())
    return document


def _problem(problem: str | None) -> str:
    """PyYAML's words without what it quotes of the file, which may be a secret."""
    return re.sub(
        r"'[^']*'", lambda quoted: quoted[0] if len(quoted[0]) <= _ONE_QUOTED else "…", problem or "unreadable"
    )


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._constructor = yaml.SafeLoader("")
        self._open: list[yaml.Node] = []
        self._nodes = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        document = self._document
        position = _position(node)
        document.values[path] = position
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            if self._nodes == _MOST_NODES + 1:
                document.faults.append((position, path, "aliases make the file grow without end"))
            return None
        if any(node is parent for parent in self._open):
            document.faults.append((position, path, "an alias contains itself"))
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in _PLAIN_TAGS:
            document.faults.append((position, path, "a tag (!) is not supported here"))
        self._open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        document = self._document
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            position = _position(key_node)
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag == "tag:yaml.org,2002:merge":
                document.faults.append((position, path, "merge keys (<<) are not supported"))
            elif isinstance(key, str) and _HALF_CHARACTER.search(key):
                document.faults.append((position, path, "the key has a character that can't be read"))
            elif not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                document.faults.append((position, path, 'a key must be text; write a number in quotes, as in "13"'))
            elif key in mapping:
                document.faults.append((position, (*path, key), "the key stands here twice"))
            else:
                document.keys[*path, key] = position
                mapping[key] = self.value(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            value = None
        else:
            if not isinstance(value, str) or not _HALF_CHARACTER.search(value):
                return value
        self._document.faults.append((_position(node), path, "the value can't be read"))
        return None


def _position(node: yaml.Node) -> Position:
    return node.start_mark.line + 1, node.start_mark.column + 1
