"""The rules of the tree: which room may import which, and what a module may be.

`python -m tests.unit.test_imports` looks at this tree without pytest.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]

# From the top of the house to its ground. A room may import itself and every floor below it; rooms on one
# floor are strangers to each other. The empty name is the package `gateway` itself, which holds the version.
FLOORS: Final[tuple[tuple[str, ...], ...]] = (
    ("__main__",),
    ("cli",),
    ("demo", "doctor"),
    ("server",),
    ("listening",),
    ("app",),
    ("roster",),
    ("http",),
    ("calls",),
    ("auth", "tokens", "idempotency", "limits"),
    ("upstream",),
    ("store",),
    ("telemetry",),
    ("config", "openapi"),
    ("problems",),
    ("model",),
    ("",),
)
FLOOR_OF: Final = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# They stand outside of the house, each at another end of the wire: code that one of them shared with the gateway would
# hide a misreading in both. Each has those who may use it.
SIMULATOR: Final = "simulator"
CLIENT: Final = "client"
USERS_OF_STRANGERS: Final = {SIMULATOR: {"cli", "demo"}, CLIENT: {"demo"}}

MOST_LINES: Final = 350
# Each of these says that nobody knew where something belongs.
NAMES_OF_NOTHING: Final = {"utils", "helpers", "common"}

NOT_SOURCE: Final = {".git", ".venv", "build", "dist", "node_modules", "__pycache__"} | {
    f".{tool}" for tool in ("hypothesis", "mypy_cache", "pytest_cache", "ruff_cache")
}
# In pieces, so that this file does not hold what it forbids.
BANNED: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Paths that exist on one machine only.
        *(rf"(?<![\w.])/{folder}/" for folder in ("work", "root", "home")),
        # Registries: each installation has its own, and configures it outside the project.
        *(
            rf"\b{re.escape('.'.join(labels))}\b"
            for labels in (
                ("pypi", "org"),
                ("pythonhosted", "org"),
                ("debian", "org"),
                ("npmjs", "org"),
                ("docker", "io"),
            )
        ),
    )
)

# Each module in a process of its own, forked from one that has loaded others' packages and nothing of ours.
IMPORT_EACH_ALONE: Final = """
import importlib, os, sys

root, *arguments = sys.argv[1:]
others, ours = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
sys.path.insert(0, root)
for name in others:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for name in ours:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    try:
        importlib.import_module(name)
    except BaseException as exc:
        print(f"{name} can't be imported alone: {type(exc).__name__}: {exc}", flush=True)
    os._exit(0)
"""


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """The dotted name and the file of every module under `gateway`."""
    for path in sorted(root.glob("gateway/**/*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of everything that a module imports, wherever in it that is written."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                (node.lineno, argument.value)
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def room_of(dotted: str, rooms: set[str]) -> str:
    """The room that a dotted name of ours is in; a name that is no room belongs to the package itself."""
    name = [*dotted.split("."), ""][1]
    return name if name in rooms else ""


def crossings(root: Path) -> Iterator[tuple[str, str, str]]:
    """Where, from which room and to which room something is imported within `gateway`."""
    found = list(modules(root))
    rooms = {*FLOOR_OF, *USERS_OF_STRANGERS, *((*name.split("."), "")[1] for name, _ in found)}
    for name, path in found:
        for line, target in imported(name, path):
            if target.split(".")[0] == "gateway":
                yield f"{path.relative_to(root)}:{line}", room_of(name, rooms), room_of(target, rooms)


def imports_go_one_way(root: Path) -> list[str]:
    """Rooms import their own, and floors below."""
    return [
        f"{where}: {importer or 'gateway'} may not import {target or 'gateway'}"
        for where, importer, target in crossings(root)
        if not {importer, target} & {*USERS_OF_STRANGERS}
        and importer != target
        and FLOOR_OF.get(importer, len(FLOORS)) >= FLOOR_OF.get(target, -1)
    ]


def strangers_share_nothing(root: Path, stranger: str) -> list[str]:
    """A stranger imports its own; only its users import it."""
    return [
        f"{where}: {importer or 'gateway'} may not import {target or 'gateway'}"
        for where, importer, target in crossings(root)
        if (importer == stranger) != (target == stranger) and importer not in USERS_OF_STRANGERS[stranger]
    ]


def the_simulator_is_a_stranger(root: Path) -> list[str]:
    """The simulator stands for somebody else's server."""
    return strangers_share_nothing(root, SIMULATOR)


def the_client_is_a_stranger(root: Path) -> list[str]:
    """The client is what a service installs."""
    return strangers_share_nothing(root, CLIENT)


def every_room_has_a_floor(root: Path) -> list[str]:
    """A new room is put on a floor before it is moved into."""
    rooms = {(*name.split("."), "")[1] for name, _ in modules(root)}
    return [f"{room} is on no floor" for room in sorted(rooms - {*FLOOR_OF, *USERS_OF_STRANGERS})]


def modules_are_short(root: Path) -> list[str]:
    """A module holds one thing, and one thing is not that long."""
    return [
        f"{path.relative_to(root)} has {length} lines"
        for _, path in modules(root)
        if (length := len(path.read_text().splitlines())) > MOST_LINES
    ]


def modules_are_named_for_a_thing(root: Path) -> list[str]:
    """The file can be found from the name."""
    return [
        f"{path.relative_to(root)} is named for nothing"
        for name, path in modules(root)
        if NAMES_OF_NOTHING & {*name.split(".")}
    ]


def modules_say_what_they_are(root: Path) -> list[str]:
    """Each begins with a docstring."""
    return [
        f"{path.relative_to(root)} has no docstring"
        for _, path in modules(root)
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]


def modules_can_be_imported_alone(root: Path) -> list[str]:
    """None needs another to have been imported first."""
    found = list(modules(root))
    ours = [name for name, _ in found]
    others = {
        target.rpartition(".")[0] or target
        for name, path in found
        for _, target in imported(name, path)
        if target.split(".")[0] not in {"gateway", "__future__"}
    }
    # Measuring it would say that a process without `gateway` in it ran nothing of `gateway`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH_ALONE, str(root), *sorted(others), "--", *ours],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    return finished.stdout.splitlines()


def text_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every text file that is part of the project, and what is in it."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - NOT_SOURCE)
        for name in sorted(names):
            path = Path(folder, name)
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, FileNotFoundError):  # binary; gone since; a dangling link
                continue
            if "\0" not in text:
                yield path, text


def no_machine_is_in_the_tree(root: Path) -> list[str]:
    """What is written holds on every machine."""
    return [
        f"{path.relative_to(root)}:{number}: {match[0]}"
        for path, text in text_files(root)
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in BANNED
        if (match := pattern.search(line))
    ]


RULES: Final[dict[str, Callable[[Path], list[str]]]] = {
    rule.__name__: rule
    for rule in (
        imports_go_one_way,
        the_simulator_is_a_stranger,
        the_client_is_a_stranger,
        every_room_has_a_floor,
        modules_are_short,
        modules_are_named_for_a_thing,
        modules_say_what_they_are,
        modules_can_be_imported_alone,
        no_machine_is_in_the_tree,
    )
}

# What each rule must find: a file, what is in it, and the words of the complaint.
BAD: Final[list[tuple[str, str, str, str]]] = [
    ("imports_go_one_way", "http/api.py", "import gateway.server", "http may not import server"),
    ("imports_go_one_way", "http/api.py", "from gateway import app", "http may not import app"),
    ("imports_go_one_way", "config/watch.py", "from gateway.http.api import x", "config may not import http"),
    ("imports_go_one_way", "auth/jwt.py", "from gateway.tokens import x", "auth may not import tokens"),
    ("imports_go_one_way", "auth/jwt.py", "from ..limits import x", "auth may not import limits"),
    ("imports_go_one_way", "upstream/pool.py", "from ..tokens import x", "upstream may not import tokens"),
    ("imports_go_one_way", "auth/__init__.py", "from .. import app", "auth may not import app"),
    (
        "imports_go_one_way",
        "model.py",
        "def f():\n    import gateway.problems",
        "model may not import problems",
    ),
    (
        "imports_go_one_way",
        "model.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway.app import App",
        "model.py:3: model may not import app",
    ),
    (
        "imports_go_one_way",
        "store.py",
        "import importlib\nimportlib.import_module('gateway.http')",
        "store may not import http",
    ),
    ("imports_go_one_way", "__init__.py", "from gateway.model import x", "gateway may not import model"),
    ("imports_go_one_way", "attic.py", "from gateway.model import x", "attic may not import model"),
    (
        "the_simulator_is_a_stranger",
        "http/api.py",
        "from gateway import simulator",
        "http may not import sim",
    ),
    ("the_simulator_is_a_stranger", "simulator/nslb.py", "from gateway.model import x", "not import model"),
    (
        "the_simulator_is_a_stranger",
        "simulator/nslb.py",
        "from gateway import __version__",
        "not import gateway",
    ),
    ("the_client_is_a_stranger", "client/dialling.py", "from gateway.model import x", "client may not import model"),
    ("the_client_is_a_stranger", "client/dialling.py", "from gateway import __version__", "may not import gateway"),
    ("the_client_is_a_stranger", "client/dialling.py", "from .. import simulator", "may not import simulator"),
    ("the_client_is_a_stranger", "cli.py", "from gateway.client import x", "cli may not import client"),
    ("the_client_is_a_stranger", "http/api.py", "from gateway import client", "http may not import client"),
    ("every_room_has_a_floor", "attic.py", "", "attic is on no floor"),
    ("modules_are_short", "model.py", "\n" * (MOST_LINES + 1), f"has {MOST_LINES + 1} lines"),
    *(
        ("modules_are_named_for_a_thing", f"http/{name}.py", "", "is named for nothing")
        for name in sorted(NAMES_OF_NOTHING)
    ),
    ("modules_are_named_for_a_thing", "http/common/x.py", "", "is named for nothing"),
    ("modules_say_what_they_are", "model.py", "x = 1", "has no docstring"),
    ("modules_can_be_imported_alone", "model.py", "from gateway.model import x", "ImportError"),
    ("modules_can_be_imported_alone", "model.py", "raise SystemExit(3)", "SystemExit: 3"),
    *(
        ("no_machine_is_in_the_tree", "notes.txt", f"in /{folder}/it", f"notes.txt:1: /{folder}/")
        for folder in ("work", "root", "home")
    ),
    *(
        ("no_machine_is_in_the_tree", "notes.txt", f"index: https://files.{'.'.join(host)}/x", ".".join(host))
        for host in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("debian", "org"),
            ("npmjs", "org"),
            ("docker", "io"),
        )
    ),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_keeps_the_rule(rule: str) -> None:
    assert RULES[rule](ROOT) == []


@pytest.mark.parametrize(("rule", "file", "content", "complaint"), BAD)
def test_the_rule_finds_what_breaks_it(tmp_path: Path, rule: str, file: str, content: str, complaint: str) -> None:
    path = tmp_path / "gateway" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "gateway" / "__init__.py").write_text("'The package.'")
    path.write_text(content)

    (found,) = RULES[rule](tmp_path)

    assert complaint in found


def test_each_rule_has_something_that_breaks_it() -> None:
    assert {rule for rule, *_ in BAD} == {*RULES}


def test_what_is_allowed_is_not_complained_of(tmp_path: Path) -> None:
    for file, content in {
        "__init__.py": "'''Version.'''\n__version__ = '1'",
        "cli.py": "'''A.'''\nfrom gateway import __version__, simulator\nfrom gateway.model import x",
        "model.py": "'''B.'''\nimport json\nfrom gateway import __version__\nx = 1",
        "auth/__init__.py": "'''C.'''\nfrom .key import y",
        "auth/key.py": "'''D.'''\nfrom gateway.model import x\nfrom ..model import x as y",
        "simulator/__init__.py": "'''E.'''\nfrom gateway.simulator.nslb import z",
        "client/__init__.py": "'''G.'''\nfrom gateway.client.sse import z",
        "client/sse.py": "'''H.'''\nz = 1",
        "demo.py": "'''I.'''\nfrom gateway import client, simulator",
        "simulator/nslb.py": "'''F.'''\nz = 'a/work/b and framework/ and my.root/'",
    }.items():
        path = tmp_path / "gateway" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    assert [found for rule in RULES.values() for found in rule(tmp_path)] == []


def test_files_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\xff\xfe" + b"/ro" + b"ot/")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("/ro" + "ot/")

    assert no_machine_is_in_the_tree(tmp_path) == []


if __name__ == "__main__":
    complaints = [found for rule in RULES.values() for found in rule(ROOT)]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    raise SystemExit(bool(complaints))
