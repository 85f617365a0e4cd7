"""Writes requirements.lock from pyproject.toml; with `--check`, says whether it is still up to date.

The first line of the lock carries a digest of what it was made from, so that the check needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "requirements.lock"
OUTPUT = [
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--no-annotate",
    "--output-file",
    LOCK.name,
]
COMPILE = [
    "pip",
    "compile",
    PROJECT.name,
    "--group=dev",
    "--all-extras",
    "--universal",
    "--python-version=3.11",
    "--quiet",
    *OUTPUT,
]


def header(project: str) -> str:
    """The first line of a lock that was made from this text of pyproject.toml."""
    content = tomllib.loads(project)
    inputs = [
        content["build-system"]["requires"],
        content["project"]["requires-python"],
        content["project"]["dependencies"],
        content["project"].get("optional-dependencies", {}),
        content["dependency-groups"],
    ]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"# Made by `make lock`; the requirements in pyproject.toml had sha256:{digest}\n"


def is_current(project: str, lock: str) -> bool:
    """Whether the lock was made from this text of pyproject.toml."""
    return lock.startswith(header(project))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the lock is out of date")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those locked before")
    arguments = parser.parse_args()
    project = PROJECT.read_text()
    if arguments.check:
        if is_current(project, LOCK.read_text()):
            return 0
        print(
            "requirements.lock is older than the requirements in pyproject.toml; run: make lock",
            file=sys.stderr,
        )
        return 1
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, *COMPILE, *(["--upgrade"] if arguments.upgrade else [])], cwd=ROOT, check=True)
    LOCK.write_text(header(project) + LOCK.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
