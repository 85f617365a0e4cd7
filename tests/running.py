"""The real command, running as a process of its own.

Owns how tests start it and read its log. Refuses to end it by anything but its pid.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import until

COMMAND = [sys.executable, "-m", "gateway"]


@dataclass
class Process:
    """A running `dial-gateway serve` and the log lines that it has written."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    text: list[bytes] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.text.append(line)
            if not line.endswith(b"\n"):
                break  # it was killed in the middle of a line
            self.lines.append(json.loads(line))

    async def started(self) -> None:
        self.reader = asyncio.create_task(self.read())
        await until(lambda: self.of("gateway.started") or self.process.returncode is not None, turns=6000)
        assert self.process.returncode is None

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    @property
    def base(self) -> str:
        return f"http://{self.of('gateway.started')[0]['listen']}"

    @property
    def admin(self) -> str:
        return f"http://{self.of('gateway.started')[0]['admin']}"

    @classmethod
    async def serve(cls, path: Path) -> Process:
        """Start a gateway with this configuration, and wait until it listens."""
        process = cls(
            await asyncio.create_subprocess_exec(
                *COMMAND,
                "serve",
                "--config",
                str(path),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )
        await process.started()
        return process

    async def ended(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        if self.process.returncode is None and number is not None:
            self.process.send_signal(number)
        code = await self.process.wait()
        if self.reader is not None:
            await self.reader
        return code
