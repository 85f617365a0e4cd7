"""Calls that are followed at once: what a stream of events costs in memory, and whether any of them is starved.

The contact centre is the simulator, in the process that measures; each call has an account of its own, because an
account has one call at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from gateway.simulator import Simulator
from tests.benchmark.contenders import await_listener
from tests.benchmark.load import CannotMeasure
from tests.benchmark.machine import CONTENDER_CORE, LOCAL, Process, free_port

_KEY: Final = "dgw_" + "b" * 43
_ROOT: Final = Path(__file__).resolve().parents[2]
_AT_ONCE: Final = 50
_READING_SECONDS: Final = 30.0
_EVENTS: Final = ("Call in queue", "Call connected")


@dataclass(frozen=True, slots=True)
class Followed:
    """What following so many calls took: MiB before and with all streams, seconds until each reader had an event."""

    before: float
    after: float
    delays: list[float]


def follow(scratch: Path, count: int) -> Followed:
    """Follow so many calls at once. Raises `CannotMeasure` if a reader does not get each of its events."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_follow(scratch, count))


async def _follow(scratch: Path, count: int) -> Followed:
    async with Simulator(
        scratch / "nslb", poll_seconds=60.0, keep=count, queue_seconds=None, connect_seconds=None, talk_seconds=None
    ) as simulator:
        address = f"{LOCAL}:{free_port()}"
        configuration = _configured(scratch, simulator, address, count)
        command: list[str | Path] = [sys.executable, "-m", "gateway", "serve", "--config", configuration]
        with Process(command, CONTENDER_CORE, scratch / "gateway.log", directory=_ROOT) as process:
            await asyncio.to_thread(await_listener, "the gateway", address, process)
            return await _measured(simulator, process, address, count)


async def _measured(simulator: Simulator, process: Process, address: str, count: int) -> Followed:
    room = asyncio.Semaphore(_AT_ONCE)
    identifiers = await asyncio.gather(*(_dialled(address, number, room) for number in range(count)))
    before = process.resident()
    readers = await asyncio.gather(*(_opened(address, identifier, room) for identifier in identifiers))
    await simulator.until(lambda: simulator.polls == count, timeout=_READING_SECONDS)
    after = process.resident()
    delays: list[float] = []
    for number, description in enumerate(_EVENTS, 1):
        began = time.monotonic()
        for user in range(count):
            simulator.push(description, user=f"user-{user}")
        delays += await asyncio.gather(*(_delayed(reader, number, began) for reader, _ in readers))
    for _, writer in readers:
        writer.close()
    return Followed(before, after, delays)


async def _dialled(address: str, number: int, room: asyncio.Semaphore) -> str:
    body = json.dumps({"media": "voice", "account": f"account-{number}"})
    head = f"POST /dial HTTP/1.1\r\nHost: x\r\nX-API-Key: {_KEY}\r\nContent-Type: application/json\r\n"
    async with room:
        reader, writer = await _connected(address)
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        answer = await asyncio.wait_for(reader.read(), _READING_SECONDS)
        writer.close()
    try:
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])
    except (ValueError, KeyError):
        raise CannotMeasure(f"a dial was answered with {answer[:300]!r}") from None


async def _opened(
    address: str, identifier: str, room: asyncio.Semaphore
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with room:
        reader, writer = await _connected(address)
        target = f"GET /dial/{identifier}/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {_KEY}\r\n"
        writer.write(f"{target}Accept: text/event-stream\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _READING_SECONDS)
    if not head.startswith(b"HTTP/1.1 200 "):
        raise CannotMeasure(f"a stream was answered with {head[:300]!r}")
    return reader, writer


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _delayed(reader: asyncio.StreamReader, number: int, began: float) -> float:
    """Seconds until the event of that number has come."""
    try:
        async with asyncio.timeout(_READING_SECONDS):
            while (await reader.readline()).strip() != b"id: %d" % number:
                if reader.at_eof():
                    raise CannotMeasure(f"a stream ended before event {number}")
    except TimeoutError:
        raise CannotMeasure(f"event {number} did not come to each reader") from None
    return time.monotonic() - began


def _configured(scratch: Path, simulator: Simulator, address: str, count: int) -> Path:
    tokens = scratch / "tokens"
    tokens.mkdir()
    accounts = {}
    for number in range(count):
        file = tokens / str(number)
        file.write_text(simulator.issue_token(f"user-{number}"))
        accounts[f"account-{number}"] = {"token": {"file": str(file)}}
    configuration = {
        "listen": {"address": address},
        "admin": {"address": f"{LOCAL}:{free_port()}"},
        "upstream": {
            "endpoints": simulator.endpoints,
            "tls": {"ca": str(simulator.ca), "server_name": simulator.server_name},
        },
        "accounts": accounts,
        "services": {
            "benchmark": {
                "accounts": list(accounts),
                "credentials": [{"api_key": f"sha256:{hashlib.sha256(_KEY.encode()).hexdigest()}"}],
            }
        },
        "log": {"level": "warning"},
    }
    path = scratch / "gateway.yaml"
    path.write_text(json.dumps(configuration))  # which is YAML as well
    return path


def slowest(followed: Followed) -> float:
    """How much longer the last reader waited than the one in the middle."""
    return max(followed.delays) / statistics.median(followed.delays)
