"""Answers to callers, as bytes that are written at once.

Owns the header section of every answer. Refuses fields from elsewhere: nothing of an upstream's answer has a way
into it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from gateway import problems
from gateway.problems import Problem

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.http.listener import CallerConnection

# Without it a cache may keep even a 404 (RFC 9110, 15.1), and `X-API-Key` does not tell it that it is one service's.
_UNCACHED: Final = "Cache-Control: no-store\r\n"
REPLAYED: Final = "Idempotency-Replayed: true\r\n"
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class Answer:
    """One answer, whole. Takes the place of an `aiohttp.web.Response`, whose making costs more than a dial.

    `aiohttp` asks it to `prepare` and to `write_eof`, and then whether to keep the connection.
    """

    __slots__ = ("_data", "keep_alive", "status")

    def __init__(self, status: int, data: bytes, *, keep_alive: bool) -> None:
        self.status = status
        self._data = data
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it, and take care that one caller doesn't crowd out the others.

        Raises `ConnectionResetError` if the caller has gone.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        connection = cast("CallerConnection", request.protocol)
        connection.put(self._data, at_once=not self.keep_alive)
        if connection.pressed:
            await connection.ease()

    async def write_eof(self) -> None:
        """Nothing is left to write."""


class Answers:
    """Makes answers; `wall` is the clock of the `Date` field (RFC 9110, 6.6.1), in epoch seconds."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._second = -1
        self._date = ""

    def json(  # noqa: PLR0913 - each is a part of an answer
        self,
        status: int,
        body: bytes,
        request_id: str,
        *,
        media_type: str = "application/json",
        fields: str = "",
        keep_alive: bool = True,
        bodiless: bool = False,
    ) -> Answer:
        """An answer with that body; `fields` are whole lines, each with its CRLF; `bodiless` answers a `HEAD`."""
        close = "" if keep_alive else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
            f"{_UNCACHED}Date: {self._now()}\r\nX-Request-ID: {request_id}\r\n{fields}{close}\r\n"
        )
        data = head.encode("ascii")
        return Answer(status, data if bodiless else data + body, keep_alive=keep_alive)

    def nothing(self, request_id: str, *, keep_alive: bool) -> Answer:
        """An answer without content (RFC 9110, 15.3.5)."""
        close = "" if keep_alive else "Connection: close\r\n"
        head = f"HTTP/1.1 204 No Content\r\n{_UNCACHED}Date: {self._now()}\r\nX-Request-ID: {request_id}\r\n{close}\r\n"
        return Answer(204, head.encode("ascii"), keep_alive=keep_alive)

    def stream_head(self, request_id: str, *, chunked: bool, keep_alive: bool) -> bytes:
        """The header section of a stream of events."""
        framing = "Transfer-Encoding: chunked\r\n" if chunked else ""
        close = "" if keep_alive else "Connection: close\r\n"
        return (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{_UNCACHED}{framing}"
            f"Date: {self._now()}\r\nX-Request-ID: {request_id}\r\n{close}\r\n"
        ).encode("ascii")

    def _now(self) -> str:
        now = int(self._wall())
        if now != self._second:
            self._second = now
            self._date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
        return self._date

    def problem(self, problem: Problem, request_id: str, *, keep_alive: bool = True, bodiless: bool = False) -> Answer:
        """The answer that a problem is."""
        kind = problem.type
        fields = ""
        if problem.retry_after is not None:
            fields += f"Retry-After: {problem.retry_after}\r\n"
        if kind is problems.UNAUTHENTICATED:
            fields += 'WWW-Authenticate: Bearer realm="dial-gateway"\r\n'
        if problem.replayed:
            fields += REPLAYED
        if problem.allow is not None:
            fields += f"Allow: {problem.allow}\r\n"
        return self.json(
            kind.status,
            problem.document(request_id),
            request_id,
            media_type=problems.MEDIA_TYPE,
            fields=fields,
            keep_alive=keep_alive and not problem.closing,
            bodiless=bodiless,
        )
