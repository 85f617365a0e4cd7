"""A gateway that does what a test wrote down, over real sockets; and a time that only passes when somebody sleeps.

Owns how the tests of the client see what it sent. Refuses to be clever: an answer for each request, in order, the
last one again for all that come after.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Self

from aiohttp import web

from gateway.client import DialClient

P = ParamSpec("P")

KEY = "dgw_" + "k" * 43
CALL: dict[str, Any] = {
    "id": "AAAAAAAAAAAAAAAAAAAAAA",
    "status": "accepted",
    "media": "voice",
    "account": "sales",
    "outcome": "accepted",
    "result_code": "0",
    "result_description": "connect successfully.",
}
Step = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def answer(status: int = 201, body: object = None, headers: Mapping[str, str] | None = None) -> Step:
    """A JSON answer, or whatever bytes are given."""
    content = body if isinstance(body, bytes) else json.dumps(CALL if body is None else body).encode()

    async def step(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            status=status, body=content, headers={"Content-Type": "application/json"} | dict(headers or {})
        )

    return step


def problem(
    status: int, code: str, outcome: str = "not_sent", *, retry_after: int | None = None, **more: object
) -> Step:
    """A problem document, as the gateway makes them."""
    fields = {"Content-Type": "application/problem+json", "X-Request-ID": "r-1"}
    if retry_after is not None:
        fields["Retry-After"] = str(retry_after)
    return answer(status, {"code": code, "outcome": outcome, "detail": "So it is.", **more}, fields)


async def lose(request: web.BaseRequest) -> web.StreamResponse:
    """Take the request, and close the connection."""
    await request.read()
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def silence(_request: web.BaseRequest) -> web.StreamResponse:
    """Take the request, and never answer."""
    await asyncio.Event().wait()
    raise AssertionError


def outlast(seconds: float) -> Step:
    """Take the request, and let so much time pass without an answer; in a test that is `in_a_hurry`."""

    async def step(_request: web.BaseRequest) -> web.StreamResponse:
        pass_by(seconds)
        await asyncio.Event().wait()
        raise AssertionError

    return step


def stream(*pieces: bytes, cut: bool = False, stay: bool = False) -> Step:
    """A stream of events: each piece is written by itself; then it ends, is cut off, or stays open."""

    async def step(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if stay:
            await asyncio.Event().wait()
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return step


def event(number: int | None, status: str, **more: object) -> bytes:
    """An event as the gateway writes it."""
    data = {"id": CALL["id"], "status": status, "event_id": 168101, "description": "It is.", "content": {}} | more
    numbered = b"" if number is None else b"id: %d\n" % number
    return b"event: %b\n%bdata: %b\n\n" % (status.encode(), numbered, json.dumps(data).encode())


class _Hurry(asyncio.SelectorEventLoop):
    """Its time goes on by itself, and by as much as a test wants."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def in_a_hurry(scene: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run a test on a loop whose time it can let pass: how long the machine takes for the rest is all the same."""

    @wraps(scene)
    def test(*args: P.args, **arguments: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=_Hurry) as runner:
            runner.run(scene(*args, **arguments))

    return test


def pass_by(seconds: float) -> None:
    """Whatever waits for so long is due."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Hurry)
    loop.ahead += seconds


@dataclass
class Received:
    """A request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Time:
    """Passes when somebody sleeps, and not otherwise."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class ScriptedGateway:
    """Listens on loopback, or on a socket file, and answers as written."""

    def __init__(self, *steps: Step, path: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.steps = list(steps)
        self.received: list[Received] = []
        self.base = ""
        self.time = Time()
        self._path = path
        self._tls = tls

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.01)
        await self._runner.setup()
        if self._path is not None:
            await web.UnixSite(self._runner, str(self._path)).start()
            self.base = f"unix:{self._path}"
        else:
            await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
            scheme = "http" if self._tls is None else "https"
            self.base = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def client(self, **arguments: Any) -> DialClient:
        """A client for it, that waits in no time, and always as long as it may; its store is one that lasts."""
        time = {"clock": self.time.clock, "sleep": self.time.sleep, "random": lambda: 1.0}
        arguments = time | {"lasting_store": True} | arguments
        return DialClient(self.base, arguments.pop("key", KEY), **arguments)

    def keys(self) -> list[str | None]:
        """The `Idempotency-Key` of each request."""
        return [request.headers.get("Idempotency-Key") for request in self.received]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.received.append(Received(request.method, request.raw_path, request.headers, await request.read()))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return await step(request)


async def free_port() -> int:
    """A port at which nobody listens."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
