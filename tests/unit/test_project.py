"""What the project's files say of each other: README, Makefile, lock, version, change log."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

import gateway
from tests.attack.mutants import MUTANTS

ROOT: Final = Path(__file__).resolve().parents[2]
MAKEFILE: Final = (ROOT / "Makefile").read_text()
LOCK: Final = (ROOT / "requirements.lock").read_text()
PARTS: Final = ("deploy/bill.lock", "deploy/image.lock")
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What Markdown shows as code: a block between fences, and a span within a line.
SHOWN_CODE: Final = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


def targets() -> set[str]:
    """What the Makefile can make that is no file."""
    return {target for line in re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE) for target in line.split()}


def locked(lock: str = LOCK) -> dict[str, str]:
    """Each requirement of the lock, and everything that is said of it."""
    entries = re.findall(r"^([a-z][a-z0-9.-]*)(==(?:.*\\\n)*.*\n)", lock, re.MULTILINE)
    return dict(entries)


def name_of(requirement: str) -> str:
    """The normal form of the name that a requirement begins with."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def lock_is_current(folder: Path) -> bool:
    """What the check says in this folder, which has a copy of the project's files."""
    finished = subprocess.run([sys.executable, folder / ".ci" / "lock.py", "--check"], check=False, timeout=30)
    return finished.returncode == 0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for directory in (".ci", "deploy"):
        (tmp_path / directory).mkdir()
    for name in (".ci/lock.py", "pyproject.toml", "requirements.lock", *PARTS):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def test_the_commands_of_the_readme_are_in_the_makefile() -> None:
    shown = SHOWN_CODE.findall((ROOT / "README.md").read_text())
    named = {target for code in shown for target in re.findall(r"\bmake ([a-z][a-z-]*)", code)}

    assert {"demo", "test"} <= named
    assert named <= targets()


def test_every_target_is_in_the_help_and_the_help_is_the_default() -> None:
    run = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)

    assert {line.split()[0] for line in run.stdout.splitlines()} == targets()
    assert all(len(line.split()) > 1 for line in run.stdout.splitlines())


def test_every_target_is_declared() -> None:
    written = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))

    assert written == targets()


def test_the_hook_before_a_commit_runs_what_the_check_runs() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()

    assert re.findall(r"entry: (.*)", hooks) == ["make check"]
    assert set(re.findall(r"repo: (.*)", hooks)) == {"local"}


def test_every_locked_requirement_has_one_version_and_hashes() -> None:
    assert len(locked()) == len(re.findall(r"^[^#\s]", LOCK, re.MULTILINE))
    for name, entry in locked().items():
        assert re.match(r"==[0-9][\w.+!]*( ;.*)? \\\n", entry), name
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), name


def test_everything_that_the_project_names_is_locked() -> None:
    named = [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *PROJECT["dependency-groups"]["dev"],
    ]

    assert {name_of(requirement) for requirement in named} <= locked().keys()


@pytest.mark.parametrize("part", PARTS)
def test_what_is_locked_for_the_image_is_locked_alike_for_all(part: str) -> None:
    found = {name: re.sub(" ;[^\\\\]*", " ", entry) for name, entry in locked((ROOT / part).read_text()).items()}
    whole = {name: re.sub(" ;[^\\\\]*", " ", entry) for name, entry in locked().items()}

    assert found.items() <= whole.items()
    # Of the development's there is nothing.
    assert not {"pytest", "mypy", "ruff", "uv", "hypothesis", "checkov"} & found.keys()
    wanted = ["cyclonedx-bom"]
    if part == "deploy/image.lock":
        extras = PROJECT["project"]["optional-dependencies"].values()
        wanted = [
            *PROJECT["build-system"]["requires"],
            *PROJECT["project"]["dependencies"],
            *(name for extra in extras for name in extra),
        ]
    assert {name_of(requirement) for requirement in wanted} <= found.keys()


def test_the_lock_was_made_from_this_project(copy: Path) -> None:
    assert lock_is_current(copy)


def test_a_changed_lock_makes_its_parts_out_of_date(copy: Path) -> None:
    (copy / "requirements.lock").write_text(LOCK.replace("aiohttp==3.", "aiohttp==4."))

    assert not lock_is_current(copy)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_another_lock_is_out_of_date(part: str, copy: Path) -> None:
    (copy / part).write_text((copy / part).read_text().replace("sha256:", "sha256:0", 1))

    assert not lock_is_current(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('    "orjson>=3.11",\n', ""),
        ("orjson>=3.11", "orjson>=3.12"),
        ('    "hypothesis",\n', '    "hypothesis",\n    "requests",\n'),
        ('requires-python = ">=3.11"', 'requires-python = ">=3.12"'),
        ('requires = ["hatchling"]', 'requires = ["hatchling>=1.30"]'),
    ],
)
def test_a_changed_requirement_makes_the_lock_out_of_date(copy: Path, old: str, new: str) -> None:
    text = (copy / "pyproject.toml").read_text()
    assert text.count(old) == 1
    (copy / "pyproject.toml").write_text(text.replace(old, new))

    assert not lock_is_current(copy)


def test_the_version_has_one_source() -> None:
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", gateway.__version__)
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "gateway/__init__.py"}


def test_the_change_log_knows_this_version() -> None:
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert {"Unreleased", gateway.__version__} & set(headings)


def test_every_ignored_lint_rule_and_every_uncovered_line_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:ignore|exclude_also|\"[^\"]*\") = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in lists for line in block.splitlines()]

    assert lines
    assert [line for line in lines if not re.search(r"\",\s+# \w", line)] == []


def test_every_check_that_is_deleted_on_trial_is_where_the_list_says() -> None:
    lost = [
        mutant.check for mutant in MUTANTS if (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) != 1
    ]
    assert MUTANTS
    assert lost == []
    assert len({mutant.check for mutant in MUTANTS}) == len(MUTANTS)
