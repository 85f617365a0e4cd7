"""The simulator is a stranger to the gateway: a misreading can't hide in both."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gateway.simulator

ROOM = Path(gateway.simulator.__file__).parent


def imported() -> Iterator[str]:
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level
                yield f"{node.module}"


def test_it_imports_nothing_else_of_the_gateway() -> None:
    ours = {name for name in imported() if name.split(".")[0] == "gateway"}
    assert ours
    assert all(name.startswith("gateway.simulator") for name in ours)


def test_it_does_not_use_the_parser_of_the_gateways_client() -> None:
    assert not [name for name in imported() if name.split(".")[0] == "httptools"]
