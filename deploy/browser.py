"""A real browser, told what to do over its DevTools protocol.

Owns its process, a profile that is empty, and what a page asked for and complained of. Refuses names: whatever is not
on this machine is not found.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

_SECONDS = 30
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # as root in a container it has no other way; it shows our own pages alone
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)


@dataclass
class Page:
    """A page that was shown: every address that it asked for, and everything that it complained of."""

    socket: aiohttp.ClientWebSocketResponse
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _shown: bool = False

    async def show(self, url: str) -> None:
        """Show an address, and wait until all of it is there."""
        for domain in ("Network", "Log", "Runtime", "Page"):
            await self.command(f"{domain}.enable")
        self._shown = False
        await self.command("Page.navigate", url=url)
        while not self._shown:
            await self._hear()

    async def value(self, expression: str) -> Any:
        """The value of an expression of the page, after everything before it was done."""
        found = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something, and wait for its result."""
        number = next(self._numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._hear()
            if message.get("id") == number:
                result: dict[str, Any] = message["result"]
                return result

    async def _hear(self) -> dict[str, Any]:
        async with asyncio.timeout(_SECONDS):
            message: dict[str, Any] = await self.socket.receive_json()
        match message:
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                self.asked.append(url)
            case {"method": "Log.entryAdded", "params": {"entry": {"text": text}}}:
                self.complaints.append(text)
            case {"method": "Runtime.consoleAPICalled" | "Runtime.exceptionThrown", "params": parameters}:
                self.complaints.append(str(parameters))
            case {"method": "Page.loadEventFired"}:
                self._shown = True
            case _:
                pass  # what else it tells is not asked for
        return message


@asynccontextmanager
async def browser(program: str, profile: Path) -> AsyncIterator[Page]:
    """Run a browser with one empty page."""
    process = await asyncio.create_subprocess_exec(
        program,
        *_OPTIONS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        async with asyncio.timeout(_SECONDS):
            async for line in process.stderr:
                if line.startswith(b"DevTools listening on "):
                    break
        address = line.decode().removeprefix("DevTools listening on ").strip().split("/")[2]
        reading = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/json/list") as answer:
                (target,) = [found for found in await answer.json() if found["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
        process.terminate()
        await reading
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
