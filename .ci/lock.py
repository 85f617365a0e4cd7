"""Writes the locks from pyproject.toml; with `--check`, says whether they are still up to date.

requirements.lock is everything. The two of the image are parts of it, in the same versions: what the gateway is made of
and built by, and what tells the image's bill of materials. The first line of a lock carries a digest of what it was
made from, so that the check needs no network.
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
IMAGE = ROOT / "deploy" / "image.lock"
BILL = ROOT / "deploy" / "bill.lock"
COMPILE = [
    "pip",
    "compile",
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--no-annotate",
    "--quiet",
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


def part_header(lock: str) -> str:
    """The first line of a lock that is a part of this text of requirements.lock."""
    return f"# Made by `make lock`; requirements.lock had sha256:{hashlib.sha256(lock.encode()).hexdigest()}\n"


def outdated(project: str) -> list[str]:
    """The locks that were not made from this text of pyproject.toml, or of those that were."""
    lock = LOCK.read_text()
    wanted = {LOCK: header(project), IMAGE: part_header(lock), BILL: part_header(lock)}
    return [str(path.relative_to(ROOT)) for path, line in wanted.items() if not path.read_text().startswith(line)]


def write(path: Path, line: str, *arguments: str, requirements: list[str]) -> None:
    """Lock requirements, and whatever the arguments name; what the file has before is kept where it can be."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), *COMPILE, *arguments, "--output-file", str(path.relative_to(ROOT)), "-"]
    subprocess.run(command, cwd=ROOT, input="\n".join(requirements), text=True, check=True)
    path.write_text(line + path.read_text())


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the lock is out of date")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those locked before")
    arguments = parser.parse_args()
    project = PROJECT.read_text()
    if arguments.check:
        found = outdated(project)
        if found:
            print(f"{', '.join(found)}: older than what it is made from; run: make lock", file=sys.stderr)
        return 1 if found else 0
    upgrade = ["--upgrade"] if arguments.upgrade else []
    write(LOCK, header(project), PROJECT.name, "--group=dev", "--all-extras", *upgrade, requirements=[])
    line = part_header(LOCK.read_text())
    for path in (IMAGE, BILL):
        path.unlink(missing_ok=True)  # of its versions none is kept but those of requirements.lock
    build = tomllib.loads(project)["build-system"]["requires"]
    of_the_whole = f"--constraint={LOCK.name}"
    write(IMAGE, line, PROJECT.name, "--all-extras", of_the_whole, requirements=build)
    write(BILL, line, of_the_whole, requirements=["cyclonedx-bom"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
