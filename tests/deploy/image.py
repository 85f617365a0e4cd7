"""The steps of the Dockerfile, carried out here: no container engine is needed to see that they work.

Owns the reading of the few instructions that the Dockerfile has, and a sandbox in which they find the paths that they
name. Refuses an instruction that it does not know.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import string
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.conftest import need

ROOT: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
_PASSIVE: Final = frozenset({"ARG", "LABEL", "STOPSIGNAL"})
_WRITTEN: Final = frozenset({"/source", "/locked", "/compiled", "/opt"})
# As the base has its library: nothing compiled, no tests; and what is not of it here.
_NOT_IN_BASE: Final = shutil.ignore_patterns("__pycache__", "test", "tests", "idle_test", "site-packages", "config-*")


@dataclass
class Stage:
    """A stage: its instructions, and what the image of it is run with."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The argument of the last instruction of a kind."""
        return [argument for name, argument in self.steps if name == instruction][-1]

    def labels(self, told: Mapping[str, str]) -> dict[str, str]:
        """The labels of an image, of a build that is told these arguments."""
        arguments: dict[str, str] = {}
        found: dict[str, str] = {}
        for name, text in self.steps:
            if name == "ARG":
                argument, _, default = text.partition("=")
                arguments[argument] = told.get(argument, default.strip('"'))
            elif name == "LABEL":
                found |= dict(word.split("=", 1) for word in shlex.split(string.Template(text).substitute(arguments)))
        return found

    def command(self, instruction: str) -> list[str]:
        """An `ENTRYPOINT` or a `CMD`, which must be in the form that needs no shell."""
        words = json.loads(self.last(instruction))
        assert isinstance(words, list)
        return words


def stages() -> dict[str, Stage]:
    """The stages by name; the last one's is empty."""
    found: dict[str, Stage] = {}
    text = "".join(
        line for line in DOCKERFILE.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#")
    )
    stage = Stage("")
    for line in text.replace("\\\n", " ").splitlines():
        instruction, _, argument = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = argument.partition(" AS ")
            stage = found[name] = Stage(base)
        elif instruction:
            stage.steps.append((instruction, argument))
    return found


class Machine:
    """What a build has on its disk: directories that stand for some of the image's, this machine's for the others."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written = {name: directory / name.strip("/").replace("/", "-") for name in _WRITTEN}
        for path in (*self._written.values(), directory / "out", directory / "programs"):
            path.mkdir()
        # That of the stages, which write into it, and the base's as it is.
        self._library = directory / "library"
        self.base = directory / "base"
        for path in (self._library, self.base):
            shutil.copytree(LIBRARY, path, ignore=_NOT_IN_BASE, symlinks=True)
        # The image's own are of the same names.
        self._program("python", f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}")
        self._program("pip", f"{sys.executable} -m pip")

    def path(self, name: str) -> Path:
        """Where a path of the image is here."""
        first, _, rest = name.strip("/").partition("/")
        return self._written.get(f"/{first}", self._directory / "out" / first) / rest

    def installed(self) -> Path:
        """The library of the image: the base's, and what the last stage copies over it."""
        library = self._directory / "installed"
        if not library.exists():
            shutil.copytree(self.base, library, symlinks=True)
            shutil.copytree(self.path("/compiled") / LIBRARY.relative_to("/"), library, dirs_exist_ok=True)
        return library

    def build(self, stage: Stage) -> None:
        """Carry out the steps of a stage."""
        for instruction, argument in stage.steps:
            if instruction == "COPY":
                *sources, target = argument.split()
                for source in sources:
                    self._copy(ROOT / source, self.path("/source") / target)
            elif instruction == "RUN":
                # What it writes at the top stands in `out`.
                command = argument.replace(" /sbom.json", " /out/sbom.json")
                self.run("sh", "-ec", command, writable=True)
            else:
                assert instruction in {"WORKDIR", *_PASSIVE}, instruction

    def run(self, *command: str, writable: bool = False) -> str:
        """What a command prints, in the sandbox."""
        done = subprocess.run(
            [*self.sandbox(writable=writable), *command], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def sandbox(self, *options: str, writable: bool = False, library: Path | None = None) -> list[str]:
        """The command that runs another one where the image's paths are; `writable` for a step of the build."""
        bind = "--bind" if writable else "--ro-bind"
        words = [need("bwrap"), "--die-with-parent"]
        for entry in sorted(Path("/").iterdir()):
            if entry.is_symlink():
                words += ["--symlink", str(entry.readlink()), str(entry)]
            elif entry.is_dir() and entry.name not in {"proc", "dev", "opt", "source", "locked", "compiled", "out"}:
                words += ["--ro-bind", str(entry), str(entry)]
        for entry in Path("/opt").iterdir():
            words += ["--ro-bind", str(entry), str(entry)]
        words += [bind, str(self._library if writable else library or self.installed()), str(LIBRARY)]
        words += ["--proc", "/proc", "--dev", "/dev"]
        if writable:
            words += ["--tmpfs", "/scratch", "--setenv", "HOME", "/scratch", "--setenv", "TMPDIR", "/scratch"]
            for name in _WRITTEN - {"/opt"}:
                words += [bind, str(self._written[name]), name]
            words += [bind, str(self._directory / "out"), "/out", "--chdir", "/source"]
            words += ["--ro-bind", str(self._directory / "programs"), "/programs"]
            words += ["--setenv", "PATH", f"/programs:{os.environ['PATH']}"]
        for name in ("gateway", "bill"):
            (self._written["/opt"] / name).mkdir(exist_ok=True)
            words += [bind, str(self._written["/opt"] / name), f"/opt/{name}"]
        return [*words, *options] if writable else [*words, *options, "--remount-ro", "/"]

    def _program(self, name: str, command: str) -> None:
        path = self._directory / "programs" / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(source, target / source.name if target.is_dir() else target)
