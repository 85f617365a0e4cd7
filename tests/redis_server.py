"""A real Redis server for tests: started, stopped, paused, flushed.

Owns one process on loopback and its directory. Refuses to outlive the test.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from tests.conftest import need


class RedisProcess:
    """`redis-server` on a port of loopback. What it is told to remember it keeps in `directory`."""

    def __init__(self, directory: Path, port: int, arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = port
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """A client of its own, for the test to look with."""
        return Redis(host="127.0.0.1", port=self.port)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [need("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--daemonize", "no"]
        command += ["--dir", str(self.directory), "--save", "", *self._arguments]
        log = (self.directory / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
        raise AssertionError("the server did not come up")

    def stop(self) -> None:
        """End it by its pid; what it was not told to keep is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None

    def pause(self) -> None:
        """It accepts connections, as far as the system does that for it, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def flush(self) -> None:
        """It loses everything."""
        async with self.client() as client:
            await client.flushall()

    async def content(self) -> dict[bytes, Any]:
        """Everything in it, hashes as dictionaries."""
        found: dict[bytes, Any] = {}
        async with self.client() as client:
            for key in await client.keys("*"):
                assert isinstance(key, bytes)
                kind = await client.type(key)
                found[key] = await client.hgetall(key) if kind == b"hash" else await client.get(key)
        return found


@asynccontextmanager
async def redis_server(directory: Path, port: int, *arguments: str) -> AsyncIterator[RedisProcess]:
    """A running server, stopped at the end whatever state it is in."""
    directory.mkdir(exist_ok=True)
    process = RedisProcess(directory, port, arguments)
    await process.start()
    try:
        yield process
    finally:
        process.stop()
