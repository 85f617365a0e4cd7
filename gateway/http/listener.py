"""The connections of callers: `aiohttp`'s low-level server, with our answers and our limits in time.

Owns what `aiohttp` would otherwise answer, log or wait for by itself. Refuses slow callers: a head, an answer that
is not fetched, or a silence that lasts too long closes the connection, so that nobody holds one for nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gateway import problems
from gateway.problems import Problem

if TYPE_CHECKING:
    from gateway.http.api import CallersApi

MOST_TARGET_BYTES: Final = 8 * 1024
MOST_HEAD_BYTES: Final = 16 * 1024
_MOST_FIELDS: Final = 128
_MOST_BEHIND: Final = 16  # requests behind one that waits for an event
_LINGERING_SECONDS: Final = 2.0  # closing on unread bytes would reset the answer away


@dataclass(frozen=True, slots=True)
class Limits:
    """Times of a caller's connection in seconds: for a request's head, for its body, and for being idle."""

    head: float
    body: float
    idle: float


class CallersServer(web.Server):
    """Makes a `CallerConnection` for each connection that is accepted, and hands its requests to the API."""

    def __init__(self, api: CallersApi, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(self._handle)
        self.api = api
        self.limits = limits
        self._event_loop = loop

    def __call__(self) -> CallerConnection:
        """A protocol for a new connection."""
        return CallerConnection(self, loop=self._event_loop)

    def sweep(self) -> None:
        """Close the connections whose head takes too long, or the fetching of their answers.

        To be called about once a second.
        """
        now = self._event_loop.time()
        for connection in self.connections:
            if isinstance(connection, CallerConnection):
                connection.close_if_slow(now, self.limits.head)

    def _handle(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        refusal = None
        connection = request.protocol
        # Only a request that took this many bytes to arrive can have such a head.
        if isinstance(connection, CallerConnection) and connection.taken > MOST_HEAD_BYTES:
            head = sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
            if head > MOST_HEAD_BYTES:
                refusal = _headers_too_large()
        return cast("Awaitable[web.StreamResponse]", self.api(request, refusal))


class _InPlace:
    """An event loop that runs a connection's requests in the connection's own task.

    `aiohttp` gives each request a task, so that context variables don't leak from one into the next. We have none,
    and a task costs a tenth of a dial. From Python 3.12 on it starts them eagerly, which is nearly as good.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.create_future = loop.create_future
        self.time = loop.time
        self.call_at = loop.call_at
        self.call_soon = loop.call_soon

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def create_task(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """A task for the connection itself, and for a request the coroutine as it is, to be awaited."""
        if getattr(coroutine, "__name__", "") == "_handle_request":
            return coroutine
        return self._loop.create_task(coroutine)


class CallerConnection(web.RequestHandler):
    """One connection of a caller. `taken` counts the bytes since it was last idle."""

    __slots__ = ("_api", "_gone", "_head_began", "_unfetched_since", "_unwritten", "_wire", "taken")

    def __init__(self, server: CallersServer, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=server.limits.idle,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to have none
            max_line_size=MOST_TARGET_BYTES,
            max_field_size=MOST_HEAD_BYTES,
            max_headers=_MOST_FIELDS,
            lingering_time=_LINGERING_SECONDS,
            auto_decompress=False,
        )
        self._api = server.api
        if sys.version_info < (3, 12):
            self._loop = cast("asyncio.AbstractEventLoop", _InPlace(loop))
        self._head_began: float | None = None
        self._unfetched_since: float | None = None
        self._wire: asyncio.Transport | None = None
        self._unwritten: list[bytes] = []
        self._gone: Callable[[], None] | None = None
        self.taken = 0

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Have `gone` called once the caller sends no more, which who waits for an event understands as leaving.

        Whoever sends many requests behind one that waits is cut off: while they are not taken in, it could leave
        unseen.
        """
        self._gone = gone
        self._look_behind()

    def _look_behind(self) -> None:
        if self._gone is not None and len(self._messages) > _MOST_BEHIND:
            self.force_close()
            self._gone()

    @property
    def left(self) -> bool:
        """Whether the caller has gone."""
        return self._close or self._wire is None or self._wire.is_closing()

    def put(self, data: bytes, *, at_once: bool) -> None:
        """Write to the caller, behind all that was put before: at once, or at the end of the event loop's turn.

        The answers of a turn leave one behind the other, so that a caller on this machine is not woken for each.
        What the connection is closed after must be put at once.
        """
        self._unwritten.append(data)
        if at_once or self._close or self._force_close:
            self._write()
        elif len(self._unwritten) == 1:
            self._loop.call_soon(self._write)

    @property
    def pressed(self) -> bool:
        """Whether to `ease` before the next request: others are waiting on this connection, or answers are."""
        return bool(self._messages) or self._paused

    async def ease(self) -> None:
        """Let other connections have their turn, and wait until the caller has fetched enough of its answers.

        Whoever sends many requests without reading an answer would otherwise hold the event loop, and the memory.
        """
        self._write()
        await asyncio.sleep(0)
        if self._paused:
            await self._drain_helper()

    def _write(self) -> None:
        if self._unwritten and self.transport is not None:
            self.transport.write(b"".join(self._unwritten))
        self._unwritten.clear()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and note since when a head is incomplete."""
        # The first bytes may come before `aiohttp` has begun to wait for them.
        waiting = not self._request_count or (self._waiter is not None and not self._waiter.done())
        if waiting and self._head_began is None:
            self.taken = 0
        self.taken += len(data)
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._head_began = None
        elif waiting and self._head_began is None:
            self._head_began = self._loop.time()
        self._look_behind()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; `aiohttp` lets go of a transport that is closing, and who reads nothing could hold it for ever."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The caller has gone."""
        super().connection_lost(exc)
        self._close = True
        if self._gone is not None:
            self._gone()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never asks for what asyncio offers here
        """The caller sends no more. Whoever has sent a whole request may still be waiting for its answer."""
        if self._gone is not None:
            self._close = True
            self._gone()
            return False
        request = self._current_request
        waiting = request is not None and request.content.is_eof()
        waiting = waiting or bool(self._messages and self._messages[-1][1].is_eof())
        if not waiting or self._wire is None or self._wire.get_extra_info("ssl_object") is not None:
            return False  # TLS has no half of a connection
        self._close = True
        return True

    def close_if_slow(self, now: float, seconds: float) -> None:
        """Close the connection if a head has been arriving, or answers have been waiting, for that many seconds.

        `now` is in seconds of the event loop's clock.
        """
        if self._head_began is not None and now - self._head_began >= seconds:
            self.force_close()
        wire = self._wire
        if wire is None or not wire.get_write_buffer_size():
            self._unfetched_since = None
        elif self._unfetched_since is None:
            self._unfetched_since = now
        elif now - self._unfetched_since >= seconds:
            self._force_close = True
            wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the bytes that could not be parsed
    ) -> web.StreamResponse:
        """Answer what could not be parsed, in our form; `aiohttp`'s would quote the offending bytes."""
        if request.writer.output_size > 0 or self.transport is None:
            raise ConnectionResetError
        if status >= 500:  # noqa: PLR2004 - a fault of ours that the API did not catch
            problem = Problem(problems.INTERNAL_AFTER_SENDING, "The gateway failed.", closing=True)
        elif isinstance(exc, LineTooLong) and exc.args[1] == MOST_TARGET_BYTES:
            detail = f"The request target may have {MOST_TARGET_BYTES} bytes at most."
            problem = Problem(problems.URI_TOO_LONG, detail, closing=True)
        elif isinstance(exc, LineTooLong) or "Too many headers" in str(exc):
            problem = _headers_too_large()
        else:
            problem = Problem(problems.MALFORMED_REQUEST, "The request is not valid HTTP/1.1.", closing=True)
        peer = self.peername
        address = peer[0] if isinstance(peer, tuple) else None
        return cast("web.StreamResponse", self._api.refuse_unparsed(problem, address))


def _headers_too_large() -> Problem:
    detail = f"The header section may have {MOST_HEAD_BYTES} bytes and {_MOST_FIELDS} fields at most."
    return Problem(problems.HEADERS_TOO_LARGE, detail, closing=True)
