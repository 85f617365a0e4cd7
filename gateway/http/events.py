"""`GET /dial/{id}/events`: the next event, or a stream of them to the end of the call.

Owns the form of events for callers and the writing of a stream. Refuses to wait for a caller that has gone, and to
hold a stream while the gateway drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway import problems
from gateway.calls import Bell, Call, Following, Happening
from gateway.http import fields
from gateway.http.answers import Answer
from gateway.http.dial import no_query
from gateway.http.exchange import Exchange
from gateway.model import Outcome
from gateway.problems import Problem

if TYPE_CHECKING:
    from aiohttp import web

_HEARTBEAT_SECONDS: Final = 15.0
_RETRY_MILLISECONDS: Final = 1000
_STREAM: Final = "text/event-stream"
_LEAST_VERSION_FOR_CHUNKS: Final = 1


async def events(exchange: Exchange) -> Answer:
    """`GET /dial/{id}/events`."""
    no_query(exchange)
    after = fields.last_event_id(exchange.request.headers)
    call = await exchange.runtime.calls.find(exchange.identifier, exchange.principal.service)
    if after is not None and after > call.last:
        # A replica that was alone may have told it more than is known here; it would miss the end.
        after = call.last - 1 if call.over else call.last
    record = exchange.record
    record.account, record.media = call.account, call.medium
    record.outcome = Outcome.ACCEPTED
    if _wants_stream(exchange.request):
        if call.over and call.after(after or 0) is None:
            # To a reader that comes back this says not to come again (HTML, 9.2.3, as for an `EventSource`).
            return exchange.common.answers.nothing(record.request_id, keep_alive=exchange.keep_alive)
        return await _stream(exchange, call, after or 0)
    return await _next(exchange, call, after)


# --- one event


async def _next(exchange: Exchange, call: Call, after: int | None) -> Answer:
    """The event behind `after`; the next one that nobody was told, if the caller does not count."""
    number = call.told if after is None else after
    happening = call.after(number)
    if happening is None and not call.over:
        with _reading(exchange, call) as (following, bell):
            happening = await _wait(exchange, following, bell, number)
    if happening is None and call.over and after is None and call.happenings:
        happening = call.happenings[-1]  # whoever asks again has not understood that it is over
    exchange.keep_alive = exchange.keep_alive and not exchange.common.draining
    if happening is None or exchange.connection.left:
        return exchange.common.answers.nothing(exchange.record.request_id, keep_alive=exchange.keep_alive)
    if after is None and happening.number > call.told:
        told = happening.number
        # Whoever gives up while the store is slow would miss what it had been written to be told of.
        if not await exchange.runtime.desk.errands.brief(_note(exchange, call, told), exchange.until):
            _tell(call, told)
    return exchange.done(_document(call, happening), fields=f"Last-Event-ID: {happening.number}\r\n")


async def _note(exchange: Exchange, call: Call, number: int) -> None:
    await exchange.runtime.calls.change(call, lambda known: _tell(known, number))


def _tell(call: Call, number: int) -> None:
    call.told = max(call.told, number)


async def _wait(exchange: Exchange, following: Following, bell: Bell, number: int) -> Happening | None:
    call, ended = following.call, following.ended
    while True:
        happening = call.after(number)
        if happening is not None or call.over:
            return happening
        if following.superseded:
            raise _superseded()
        if following.ended != ended:
            if following.failure is not None:
                raise following.failure
            return None
        if exchange.connection.left or exchange.common.draining or bell.late:
            return None
        following.poll()
        await bell.wait()


@contextmanager
def _reading(exchange: Exchange, call: Call) -> Iterator[tuple[Following, Bell]]:
    """Follow a call; the bell rings for whatever the caller's request may have to end for."""
    runtime, record = exchange.runtime, exchange.record
    account = runtime.desk.accounts.of(call)
    bell = Bell()
    timer = None
    exchange.common.bells.add(bell)
    exchange.connection.watch(bell.ring)
    if exchange.until < float("inf"):
        timer = asyncio.get_running_loop().call_at(exchange.until, bell.ring_for_time)
    try:
        with runtime.followings.follow(call, account, bell) as following:
            polls = following.polling.count
            try:
                yield following, bell
            finally:
                if (polled := following.polling.record) is not None:
                    record.sent = True
                    record.polls = following.polling.count - polls
                    record.server_address, record.server_port = polled.server_address, polled.server_port
    finally:
        exchange.connection.watch(None)
        exchange.common.bells.discard(bell)
        if timer is not None:
            timer.cancel()


# --- a stream


async def _stream(exchange: Exchange, call: Call, after: int) -> Answer:
    request, record = exchange.request, exchange.record
    chunked = request.version.minor >= _LEAST_VERSION_FOR_CHUNKS
    exchange.keep_alive = exchange.keep_alive and chunked
    stream = _Writer(exchange, chunked=chunked)
    loop = asyncio.get_running_loop()
    with _reading(exchange, call) as (following, bell):
        if await _taken_place_of(exchange, call, after, bell):
            raise _superseded()
        record.status = 200
        stream.begin()
        number = after
        beat = loop.time() + _HEARTBEAT_SECONDS
        while True:
            while (happening := call.after(number)) is not None:
                number = happening.number
                await stream.write(_server_sent(call, happening))
                beat = loop.time() + _HEARTBEAT_SECONDS
            if call.over or stream.left:
                break
            if exchange.common.draining:
                await stream.write(_farewell("the gateway stops here, and the call goes on"))
                break
            if bell.late:
                await stream.write(_farewell("the caller's time is over, and the call goes on"))
                break
            if following.superseded:
                await stream.write(_farewell("a later call on the same account has taken this one's place"))
                break
            following.poll()
            try:
                # The bell rings for each poll that ends as well, and these may be shorter.
                async with asyncio.timeout_at(beat):
                    await bell.wait()
            except TimeoutError:
                await stream.write(b": heartbeat\n\n")
                beat = loop.time() + _HEARTBEAT_SECONDS
    return stream.end()


async def _taken_place_of(exchange: Exchange, call: Call, after: int, bell: Bell) -> bool:
    """Whether another call has taken the place of one that has nothing to tell, unless there is no time to know."""
    looking = asyncio.create_task(exchange.runtime.followings.lines.current(call.line))
    try:
        while not (call.over or call.after(after) or exchange.connection.left or exchange.common.draining or bell.late):
            hearing = asyncio.create_task(bell.wait())
            try:
                await asyncio.wait({looking, hearing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hearing.cancel()
            if looking.done():
                current = looking.result()
                return current is not None and current != call.id and not call.over
    finally:
        looking.cancel()
    return False


class _Writer:
    """Writes a stream to its caller, no faster than that one reads."""

    def __init__(self, exchange: Exchange, *, chunked: bool) -> None:
        self._exchange = exchange
        self._chunked = chunked
        self._connection = exchange.connection

    @property
    def left(self) -> bool:
        return self._connection.left

    def begin(self) -> None:
        exchange = self._exchange
        head = exchange.common.answers.stream_head(
            exchange.record.request_id, chunked=self._chunked, keep_alive=exchange.keep_alive
        )
        self._connection.put(head, at_once=True)

    async def write(self, data: bytes) -> None:
        if self.left:
            return
        self._connection.put(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data, at_once=True)
        if self._connection.pressed:
            with suppress(ConnectionError):  # then it has left
                await self._connection.ease()

    def end(self) -> Answer:
        keep_alive = self._exchange.keep_alive and not self._exchange.common.draining and not self.left
        return Answer(200, b"0\r\n\r\n" if self._chunked else b"", keep_alive=keep_alive)


def _wants_stream(request: web.BaseRequest) -> bool:
    return any(
        part.partition(";")[0].strip().lower() == _STREAM
        for accept in request.headers.getall("Accept", ())
        for part in accept.split(",")
    )


def _document(call: Call, happening: Happening) -> dict[str, Any]:
    event = happening.event
    return {
        "id": call.id,
        "status": happening.status,
        "event_id": event.event_id,
        "description": event.description,
        "content": event.content,
    }


def _server_sent(call: Call, happening: Happening) -> bytes:
    data = orjson.dumps(_document(call, happening))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (happening.number, happening.status.encode(), data)


def _farewell(reason: str) -> bytes:
    return f": {reason}\nretry: {_RETRY_MILLISECONDS}\n\n".encode()


def _superseded() -> Problem:
    return Problem(problems.CALL_SUPERSEDED, "A later call on the same account has taken this one's place.")
