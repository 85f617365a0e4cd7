"""`make stack`: everything runs together, is watched, and is gone afterwards."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import need
from tests.harness import until

ROOT = Path(__file__).resolve().parents[2]


class Running:
    """A stack, and what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.text += line.decode()

    def addresses(self, name: str) -> list[str]:
        return re.findall(rf"^{name}: +(?:http://)?([0-9.:]+)", self.text, re.MULTILINE)

    def directory(self) -> Path:
        (found,) = re.findall(r"^Logs: +(.+)$", self.text, re.MULTILINE)
        return Path(found)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.fixture
async def stack() -> AsyncIterator[Running]:
    for program in ("redis-server", "prometheus"):
        need(program)
    running = Running(
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "deploy.local", cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
    )
    try:
        await until(lambda: "Ctrl-C ends it." in running.text or running.process.returncode is not None, turns=6000)
        yield running
    finally:
        if running.process.returncode is None:
            running.process.terminate()
            await running.process.wait()
        await running.reader


async def test_it_calls_is_watched_and_leaves_nothing_behind(stack: Running) -> None:
    prometheus, redis = *stack.addresses("Prometheus"), *stack.addresses("Redis")
    gateways = stack.addresses("Gateway [12]")
    assert len(gateways) == 2

    async def accepted() -> set[str]:
        """The gateways at which a call was accepted, as Prometheus knows them."""
        query = {"query": 'gateway_requests_total{operation="create",code="ok"} > 0'}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{prometheus}/api/v1/query", params=query) as answer,
        ):
            return {series["metric"]["instance"] for series in (await answer.json())["data"]["result"]}

    async with asyncio.timeout(30):
        while len(await accepted()) < 2:
            await asyncio.sleep(0.2)
    addresses = [prometheus, redis, *gateways]
    assert all(listens(address) for address in addresses)
    directory = stack.directory()
    assert directory.is_dir()

    stack.process.send_signal(signal.SIGINT)
    assert await stack.process.wait() == 0
    await stack.reader

    assert re.search(r"^Calls: .*ended [0-9]+", stack.text, re.MULTILINE)
    assert not any(listens(address) for address in addresses)
    assert not directory.exists()


async def test_it_ends_as_a_whole_when_a_part_of_it_does(stack: Running) -> None:
    (line,) = (stack.directory() / "gateway-1.log").read_text().splitlines()[:1]
    assert json.loads(line)["event"]
    redis = stack.addresses("Redis")[0]
    host, _, port = redis.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"SHUTDOWN NOSAVE\r\n")
    await writer.drain()

    assert await stack.process.wait() == 1
    await stack.reader

    assert "redis (0) ended" in stack.text
    assert not any(listens(address) for address in stack.addresses("Gateway [12]"))
    writer.close()
