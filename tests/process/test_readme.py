"""Every block of the README that can be run is run here, in its order and in one shell, as a reader would."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.fernet import Fernet

from gateway.config import load
from gateway.simulator import Certificates
from tests.conftest import need
from tests.harness import merge

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
WAIT_SECONDS: Final = 30.0
MAKE_DEMO: Final = 'make demo ARGS="--directory build/demo"'
ANYTHING: Final = "…"
# How a text between two commands is told from what they print.
END: Final = "-- end of block "


@dataclass(frozen=True)
class Block:
    """A block between fences: what it says that it is, what stands in it, and the line where it begins."""

    kind: str
    text: str
    line: int


def blocks() -> list[Block]:
    found = re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", README, re.MULTILINE)
    return [Block(match[1], match[2], README.count("\n", 0, match.start()) + 1) for match in found]


def as_pattern(text: str) -> re.Pattern[str]:
    """A text in which `…` stands for anything that fits on a line."""
    return re.compile(".*".join(map(re.escape, text.strip().split(ANYTHING))))


class Terminal:
    """A process whose output is read as it comes."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._come = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._come:
                self.lines.append(line.removesuffix("\n"))
                self._come.notify()

    def wait_for(self, pattern: re.Pattern[str], start: int = 0) -> int:
        """The number of the first line from `start` on that fits; fails when none comes."""
        give_up = time.monotonic() + WAIT_SECONDS
        with self._come:
            while True:
                for number in range(start, len(self.lines)):
                    if pattern.fullmatch(self.lines[number]):
                        return number
                start = len(self.lines)
                if not self._come.wait(give_up - time.monotonic()):
                    shown = "\n".join(self.lines)
                    pytest.fail(f"nothing like {pattern.pattern!r} in:\n{shown}")

    def run(self, commands: str) -> list[str]:
        """What these commands print."""
        start = len(self.lines)
        end = f"{END}{start}"
        assert self.process.stdin is not None
        self.process.stdin.write(f"{commands}\necho '{end}'\n")
        self.process.stdin.flush()
        return self.lines[start : self.wait_for(re.compile(re.escape(end)), start)]

    def end(self) -> int:
        """End it as Ctrl-C would, with everything that it started."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(timeout=WAIT_SECONDS)
        self._reader.join(timeout=WAIT_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(autouse=True)
def _programs() -> None:
    for program in ("curl", "openssl"):
        need(program)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This tree under another name, so that what the README makes is made there."""
    for entry in ROOT.iterdir():
        if entry.name != "build":
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.fixture
def first(checkout: Path) -> Iterator[Terminal]:
    """The first terminal, in which the demonstration runs."""
    terminal = Terminal(["sh", "-c", MAKE_DEMO], checkout)
    yield terminal
    terminal.end()


@pytest.fixture
def second(checkout: Path) -> Iterator[Terminal]:
    terminal = Terminal(["sh"], checkout)
    yield terminal
    terminal.end()


def told(block: Block) -> str:
    return f"README.md:{block.line}"


@pytest.mark.timeout(120)
def test_the_commands_print_what_the_readme_says(first: Terminal, second: Terminal) -> None:
    two_commands, demo, *shown = [block for block in blocks() if block.kind in {"sh", "text", "text log"}]
    assert [line.split("#")[0].strip() for line in two_commands.text.splitlines()] == ["make demo", "make test"]
    assert demo.text.strip() == MAKE_DEMO
    first.wait_for(as_pattern("What to try in another terminal.…"))

    printed: list[str] = []
    logged = 0
    for block in shown:
        if block.kind == "sh":
            assert printed == [], f"{told(block)}: what was printed before it is not shown"
            printed = second.run(block.text)
        elif block.kind == "text":
            expected = block.text.splitlines()
            assert len(printed) == len(expected), f"{told(block)}: {printed}"
            for line, like in zip(printed, expected, strict=True):
                assert as_pattern(like).fullmatch(line), f"{told(block)}: {line}"
            printed = []
        else:
            logged = first.wait_for(as_pattern(block.text), logged) + 1
    assert printed == []


def test_what_the_demonstration_prints_works_as_it_stands(first: Terminal, second: Terminal) -> None:
    start = first.wait_for(as_pattern("What to try in another terminal.…"))
    end = first.wait_for(as_pattern("curl -s …/metrics | grep ^gateway_"), start)

    printed = second.run(
        "\n".join(line + "; echo" * line.startswith("curl") for line in first.lines[start + 2 : end + 1])
    )

    statuses = [line.split()[1] for line in printed if line.startswith("HTTP/1.1 ")]
    assert statuses == ["201", "201", "201", "401", "400", "201", "201"]
    assert [
        word for word in ("queued", "connected", "ended") if any(f'"status":"{word}"' in line for line in printed)
    ] == [
        "queued",
        "connected",
        "ended",
    ]
    assert '{"expired": 1}' in printed
    assert 'gateway_requests_total{code="ok",operation="create",service="demo"} 7.0' in printed
    assert not any("rror" in line for line in printed if not line.startswith("{"))


def test_the_demonstration_ends_with_ctrl_c(first: Terminal) -> None:
    first.wait_for(as_pattern("What to try in another terminal.…"))

    first.end()

    assert any('"event":"gateway.stopped"' in line for line in first.lines), first.lines[-3:]
    assert not any("Traceback" in line for line in first.lines)


def test_a_sidecar_is_called_over_its_socket(first: Terminal, second: Terminal, checkout: Path) -> None:
    """The block that needs a mounted volume, on a socket elsewhere."""
    (block,) = (block for block in blocks() if block.kind == "sh sidecar")
    first.wait_for(as_pattern("What to try in another terminal.…"))
    sidecar = yaml.safe_load((checkout / "config" / "sidecar.yaml").read_text())
    socket = sidecar["listen"]["address"].removeprefix("unix:")
    demonstration = yaml.safe_load((checkout / "build" / "demo" / "gateway.yaml").read_text())
    here = checkout / "s"
    configuration = demonstration | {"listen": {"address": f"unix:{here}"}, "admin": {"address": "127.0.0.1:0"}}
    (checkout / "sidecar.yaml").write_text(yaml.safe_dump(configuration))
    gateway = Terminal([".venv/bin/dial-gateway", "serve", "--config", "sidecar.yaml"], checkout)
    try:
        gateway.wait_for(as_pattern('{…"event":"gateway.started"…'))
        assert socket in block.text
        second.run(". build/demo/env")
        (answer,) = second.run(block.text.replace(socket, str(here)) + "\necho")
    finally:
        assert gateway.end() == 0

    assert json.loads(answer)["outcome"] == "accepted"


@pytest.mark.parametrize("block", [block for block in blocks() if block.kind == "yaml"], ids=told)
def test_its_configuration_is_valid(block: Block, tmp_path: Path, certificates: Certificates) -> None:
    """A part of a configuration is one when the smallest whole one is around it."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "config" / "minimal.yaml").read_text())
    merge(settings, yaml.safe_load(block.text))
    merge(settings, {"accounts": {"sales": {"token": {"file": "token"}}}})
    settings["upstream"].pop("tls", None)
    (tmp_path / "token").write_text("token")
    (tmp_path / "encryption-key").write_bytes(Fernet.generate_key())
    (tmp_path / "redis-password").write_text("password")
    shutil.copy(certificates.ca, tmp_path / "redis-ca.pem")
    text = yaml.safe_dump(settings)
    for mount in ("/var/run/secrets/gateway/", "/etc/gateway/"):
        text = text.replace(mount, "")
    (tmp_path / "gateway.yaml").write_text(text)

    load(tmp_path / "gateway.yaml")


def test_no_block_is_left_out() -> None:
    kinds = {block.kind for block in blocks()}

    assert kinds == {"mermaid", "sh", "sh kubernetes", "sh sidecar", "text", "text log", "yaml", "yaml kubernetes"}


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#][^)]*)\)", README))
def test_its_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("anchor", re.findall(r"\]\(#([^)]*)\)", README))
def test_its_anchors_are_headings(anchor: str) -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)

    assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
