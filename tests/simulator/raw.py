"""A client that writes the bytes it is told to and reads what comes: shares nothing with the gateway's client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.simulator import Simulator

ADAPTER = "/service-cloud/rest/webadapter/v1/webadapterfacade/"
CREATE = ADAPTER + "createClickToCall"
CHECK = ADAPTER + "checkClickToCallSupport"
EVENTS = ADAPTER + "getClickToCallEvents"
DROP = ADAPTER + "dropClickToCall"
TYPE = {"Content-Type": "application/json; charset=UTF-8"}
VOICE = b'{"mediaAbility": "0"}'


@dataclass
class Reply:
    """An answer; `headers` in order and as sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content

    def fields(self, name: str) -> list[str]:
        """All values of a header field."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Raw:
    """One TLS connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """Send a request with these header fields, and read the answer."""
        self.send(method, target, headers, body)
        return await self.reply()

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        """Send a request; the bytes that were sent."""
        lines = [f"{method} {target} HTTP/1.1", "Host: nslb.example"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode() + body
        self.writer.write(data)
        return data

    async def reply(self) -> Reply:
        """Read one answer with a Content-Length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1")[:-4].split("\r\n")
        headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
        reply = Reply(int(first.split(" ")[1]), headers, b"")
        reply.body = await self.reader.readexactly(int((reply.fields("content-length") or ["0"])[0]))
        return reply

    async def rest(self) -> bytes:
        """Everything until the end of the connection; a reset is told by the word `RESET` at the end."""
        seen = b""
        try:
            while data := await self.reader.read(65536):
                seen += data
        except ConnectionResetError:
            seen += b"RESET"
        return seen

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(simulator: Simulator, url: str | None = None, **options: Any) -> AsyncIterator[Raw]:
    """A connection to NSLB (or that URL) with the simulator's CA; `options` for the TLS context: `maximum`, `pair`."""
    context = ssl.create_default_context(cafile=str(simulator.ca))
    if "maximum" in options:
        context.maximum_version = options["maximum"]
    if "pair" in options:
        context.load_cert_chain(options["pair"].certificate, options["pair"].key)
    name = simulator.fabric_name if url == simulator.fabric_url else simulator.server_name
    port = int((url or simulator.endpoints[0]).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name, limit=2**22)
    raw = Raw(reader, writer)
    try:
        yield raw
    finally:
        await raw.close()


def cookie(token: str, session: str | None = None) -> dict[str, str]:
    """The header fields of a good request."""
    return TYPE | {"Cookie": f"ccmessaging-token={token}" + (f"; JSESSIONID={session}" if session else "")}


def session_of(reply: Reply) -> str:
    """The session that an answer opened."""
    (value,) = [field for field in reply.fields("set-cookie") if field.startswith("JSESSIONID=")]
    return value.removeprefix("JSESSIONID=").partition(";")[0]


async def once(simulator: Simulator, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Reply:
    """One request on a connection of its own."""
    async with connected(simulator) as raw:
        return await raw.ask(method, target, headers, body)
