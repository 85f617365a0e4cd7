"""Gateways that are killed, and the stores that outlive them.

Owns how a test holds a real store up, looks which keys it has, and runs several real gateways with one configuration.
Refuses to reach into a gateway: a process is held where it is by what it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml
from cryptography.fernet import Fernet

from gateway.simulator import Simulator
from tests.harness import KEY, Answered, Farm, merge, settings
from tests.redis_server import RedisProcess, redis_server
from tests.running import Process

_LONG_MILLISECONDS = 600_000


class Lasting(Protocol):
    """A store that outlives the gateways."""

    @property
    def url(self) -> str: ...

    async def keys(self) -> int:
        """Of how many keys it has a record."""
        ...

    def held_up(self) -> AbstractAsyncContextManager[None]:
        """While inside, whoever writes waits, and whoever reads does not."""
        ...


class SqliteFile:
    """A file that gateways share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite://{path}"

    async def keys(self) -> int:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            select = "SELECT count(*) FROM records WHERE key LIKE 'key:%' AND sealed IS NOT NULL"
            return int(connection.execute(select).fetchone()[0])

    @contextlib.asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


class RedisOfKeys:
    """A Redis server that gateways share."""

    def __init__(self, server: RedisProcess) -> None:
        self.server = server
        self.url = server.url

    async def keys(self) -> int:
        content = await self.server.content()
        return sum(key.startswith(b"dial-gateway:record:key:") and b"s" in page for key, page in content.items())

    @contextlib.asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        async with self.server.client() as client:
            await client.client_pause(_LONG_MILLISECONDS, all=False)
            try:
                yield
            finally:
                await client.client_unpause()


@contextlib.asynccontextmanager
async def lasting(kind: str, directory: Path, port: int) -> AsyncIterator[Lasting]:
    """A store of that kind."""
    if kind == "sqlite":
        yield SqliteFile(directory / "state.db")
        return
    async with redis_server(directory / "redis", port, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield RedisOfKeys(server)


class Gateways:
    """Real gateways on one store, with one configuration, before that simulator."""

    def __init__(self, farm: Farm, simulator: Simulator, url: str, *changes: Mapping[str, Any]) -> None:
        self.simulator = simulator
        self.running: list[Process] = []
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        key, token = farm.directory / "key", farm.directory / "token"
        key.write_bytes(Fernet.generate_key())
        token.write_text(simulator.issue_token())
        configured = settings(simulator, token)
        for change in ({"store": {"url": url, "encryption_keys": [{"file": str(key)}]}}, *changes):
            merge(configured, change)
        self.path = farm.directory / "gateway.yaml"
        self.path.write_text(yaml.safe_dump(configured))

    async def start(self, count: int = 1) -> list[Process]:
        """So many more, all at once."""
        started = await asyncio.gather(*(Process.serve(self.path) for _ in range(count)))
        self.running += started
        return list(started)

    async def kill(self, process: Process) -> None:
        """End one as `kill -9` does."""
        assert await process.ended(signal.SIGKILL) == -signal.SIGKILL
        self.running.remove(process)

    async def restart(self) -> Process:
        """Kill the only one, and start another."""
        (former,) = self.running
        await self.kill(former)
        return (await self.start())[0]

    async def request(
        self, process: Process, method: str, target: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Answered:
        """Any request of the service."""
        sent = {"Authorization": f"Bearer {KEY}"} | dict(headers or {})
        async with self.session.request(method, process.base + target, headers=sent, **more) as answer:
            return Answered(answer.status, answer.headers, await answer.read())

    async def dial(self, process: Process, key: str | None, request_id: str = "") -> Answered:
        """`POST /dial`, with a key or without."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        if request_id:
            headers["X-Request-ID"] = request_id
        return await self.request(process, "POST", "/dial", headers, json={"media": "voice"})

    async def status(self, process: Process) -> dict[str, Any]:
        """What the operators are shown of a gateway."""
        async with self.session.get(f"{process.admin}/status") as answer:
            document = await answer.json()
        assert isinstance(document, dict)
        return document

    async def metrics(self, process: Process) -> dict[str, float]:
        """All samples, by name and labels as they are written."""
        async with self.session.get(f"{process.admin}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    async def close(self) -> None:
        await self.session.close()
        await asyncio.gather(*(process.ended(signal.SIGKILL) for process in self.running))


@contextlib.asynccontextmanager
async def gateways(
    farm: Farm, simulator: Simulator, url: str, count: int, *changes: Mapping[str, Any]
) -> AsyncIterator[Gateways]:
    """So many running gateways; those that are left are killed at the end."""
    made = Gateways(farm, simulator, url, *changes)
    try:
        await made.start(count)
        yield made
    finally:
        await made.close()


async def until_sampled(made: Gateways, process: Process, sample: str, least: float = 1.0) -> None:
    """Wait until a metric of a gateway is that great."""
    for _ in range(2000):
        if (await made.metrics(process)).get(sample, 0.0) >= least:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{sample} did not come to be {least}")


async def lost(caller: asyncio.Task[Answered], or_refused: str = "") -> None:
    """A caller whose gateway was killed has no answer, or was refused before."""
    try:
        answer = await caller
    except aiohttp.ClientError:
        return
    assert (answer.json["outcome"], answer.json["code"]) == ("not_sent", or_refused)
