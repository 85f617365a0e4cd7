"""Fixtures of all tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from gateway.simulator import Certificates
from tests.harness import Farm

_BOTH_LOOPS = {"unit", "functional", "client"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What depends on a loop's transports and TLS is shown on uvloop's and on asyncio's own; both are shipped."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.parent.name in _BOTH_LOOPS:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


def _children() -> set[int]:
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update(map(int, listed.read_text().split()))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """What a test that failed left running is ended: an event loop does not close before its processes have ended."""
    before = _children()
    try:
        yield
    finally:
        for pid in _children() - before:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One throw-away certificate authority for all tests."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def farm(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Farm]:
    """Gateways and simulators for one test."""
    async with Farm(tmp_path, certificates) as made:
        yield made


def need(program: str) -> str:
    """The path of a real server that a test needs; skips without it, and fails where it is required."""
    # What is locked lies beside the interpreter, what Debian has for its administrator where not everybody looks.
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is not None:
        return found
    reason = f"{program} is not installed"
    if os.environ.get("DIAL_GATEWAY_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
