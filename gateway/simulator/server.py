"""Owns the listeners: accepting, the TLS handshake, keep-alive, and the phase in which a connection is broken.

TCP and TLS are two steps here, so that a connection can be reset before, in and after the handshake. Works on asyncio's
own loop and on uvloop. Refuses to listen anywhere but on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.simulator.delivery import Hangup, deliver, instead
from gateway.simulator.faults import Fault, Faults
from gateway.simulator.wire import (
    HEAD_LIMIT,
    Answer,
    Malformed,
    Received,
    json_answer,
    parse_head,
    read_body,
)

HOST = "127.0.0.1"
_BROKEN = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)


class Service(Protocol):
    """Who answers behind a listener."""

    def operation(self, received: Received) -> str | None:
        """The operation that the path names, if any."""

    def expire(self, received: Received) -> None:
        """Ends the token that this request brings."""

    async def answer(self, received: Received, gone: asyncio.Future[None]) -> Answer:
        """The answer; `gone` is done once the client has hung up."""


class Connection(asyncio.StreamReaderProtocol):
    """One accepted connection. `gone`: the client has hung up; `lost`: the transport is closed."""

    def __init__(self, raw: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._raw = raw
        self.reader = asyncio.StreamReader(limit=HEAD_LIMIT, loop=loop)
        self.gone: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.idle = True
        self._transport_in_use: asyncio.Transport | None = None
        super().__init__(self.reader, loop=loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a promise of the loop, for the type checker
        self._transport_in_use = transport

    def eof_received(self) -> bool | None:
        """The client closed its half; with TLS that ends the connection."""
        _resolve(self.gone)
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing can be read or written any more."""
        super().connection_lost(exc)
        _resolve(self.gone)
        _resolve(self.lost)

    async def send(self, data: bytes) -> None:
        """Writes, and waits while the client reads too slowly. `ConnectionError` if it hung up."""
        if self._transport_in_use is None or self._transport_in_use.is_closing():
            raise ConnectionResetError
        self._transport_in_use.write(data)
        await self._drain_helper()  # type: ignore[attr-defined]  # what StreamWriter.drain awaits

    async def sent(self) -> None:
        """Waits until the client's kernel has what was written: a reset throws away what is still on the way."""
        for _ in range(400):
            await asyncio.sleep(0.005)
            if self.lost.done() or not _unsent(self._raw):
                return

    def reset(self) -> None:
        """Ends the connection with RST."""
        if not self.lost.done():
            with contextlib.suppress(OSError):
                _linger_not(self._raw)
            if self._transport_in_use is not None:
                self._transport_in_use.abort()

    def close(self) -> None:
        """Ends the connection as TLS has it: close_notify, then FIN."""
        if self._transport_in_use is not None:
            self._transport_in_use.close()


@dataclass(slots=True)
class Records:
    """Where a listener notes what happens: `received` at the end of each head, `changed` whenever anything did."""

    received: Callable[[Received], None]
    changed: Callable[[], None]
    clock: Callable[[], float]


class Listener:
    """One address. `place` is `*` for NSLB or `fabric`; `index` tells the listeners of one place apart."""

    def __init__(
        self, service: Service, tls: ssl.SSLContext, faults: Faults, records: Records, *, place: str, index: int = 0
    ) -> None:
        self._service = service
        self._tls = tls
        self._faults = faults
        self._records = records
        self._place = place
        self._index = index
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: dict[asyncio.Task[None], Connection | None] = {}
        self.port = 0
        self.accepted = 0

    async def open(self, port: int = 0) -> None:
        """Listens; port 0 is any, or the one it had before."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port or self.port))
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._socket = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def shut(self) -> None:
        """Listens no more: new connections are refused, those that stand go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def stop(self) -> None:
        """Listens no more and ends every connection."""
        await self.shut()
        serving = dict(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.gather(
            *(connection.lost for connection in serving.values() if connection and connection.established)
        )

    def connections(self, *, idle: bool = False) -> list[Connection]:
        """Those that stand; with `idle` only those on which no request is under way."""
        standing = [connection for connection in self._serving.values() if connection and connection.established]
        return [connection for connection in standing if connection.idle or not idle]

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            raw, _ = await loop.sock_accept(listener)
            self.accepted += 1
            task = asyncio.create_task(self._serve(raw))
            self._serving[task] = None
            task.add_done_callback(self._ended)
            self._records.changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._serving[task]
        if not task.cancelled() and (problem := task.exception()) is not None:
            context = {"message": "a connection of the simulator failed", "exception": problem}
            task.get_loop().call_exception_handler(context)

    async def _serve(self, raw: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        fault = self._faults.for_connection(self._place, self._index)
        if fault is not None and fault.kind in ("reset-accept", "reset-handshake"):
            with raw:
                if fault.kind == "reset-handshake":
                    with contextlib.suppress(ConnectionError):
                        await loop.sock_recv(raw, 1)
                _linger_not(raw)
            return
        connection = Connection(raw)
        task = asyncio.current_task()
        if task is not None:
            self._serving[task] = connection
        try:
            await loop.connect_accepted_socket(
                lambda: connection, raw, ssl=self._tls, ssl_handshake_timeout=10, ssl_shutdown_timeout=1
            )
        except _BROKEN:
            return
        try:
            await self._converse(connection, fault)
        except _BROKEN:
            connection.close()
        except BaseException:
            connection.reset()
            raise
        # The transport needs its protocol until it is closed, and `stop` has to be able to find it.
        await _outlive(connection)

    async def _converse(self, connection: Connection, fault: Fault | None) -> None:
        if fault is not None:
            await asyncio.wait([connection.gone], timeout=float(fault.args.get("after", 0)))
            connection.reset()
            return
        while await self._exchange(connection):
            connection.idle = True
        if not connection.lost.done():
            connection.close()

    async def _exchange(self, connection: Connection) -> bool:
        """One request and its answer; whether another may follow."""
        received = Received(endpoint=self._index)
        try:
            received.raw = await connection.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await deliver(connection, json_answer(431, {}), None)
            return False
        connection.idle = False
        received.at = self._records.clock()
        try:
            parse_head(received)
        except Malformed as problem:
            self._records.received(received)
            return await self._refuse(connection, received, problem)
        received.operation = self._service.operation(received)
        self._records.received(received)
        try:
            if "100-continue" in received.fields("expect"):
                await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_body(connection.reader, received)
        except Malformed as problem:
            return await self._refuse(connection, received, problem)
        try:
            await self._answer(connection, received)
        except Hangup:
            return False
        finally:
            self._records.changed()
        options = ",".join(received.fields("connection")).lower().replace(" ", "").split(",")
        return "close" not in options

    async def _refuse(self, connection: Connection, received: Received, problem: Malformed) -> bool:
        received.refusal = str(problem)
        received.status = 400
        await deliver(connection, json_answer(400, {"errorCode": "400", "exceptionInfo": str(problem)}), None)
        self._records.changed()
        return False

    async def _answer(self, connection: Connection, received: Received) -> None:
        fault = self._faults.for_request(received.operation, self._index)
        if fault is not None and fault.in_place_of_answer:
            if fault.performs(received.operation):
                await self._service.answer(received, connection.gone)
            self._records.changed()
            await _pause(fault, connection)
            answer = instead(fault)
        else:
            if fault is not None and fault.kind == "expire-now":
                self._service.expire(received)
            answer = await self._service.answer(received, connection.gone)
            if fault is not None:
                self._records.changed()
                await _pause(fault, connection)
        if fault is None or fault.answers:
            received.status = answer.status
        await deliver(connection, answer, fault)


async def _pause(fault: Fault, connection: Connection) -> None:
    if fault.delay > 0:
        await asyncio.wait([connection.gone], timeout=fault.delay)


async def _outlive(connection: Connection) -> None:
    try:
        await asyncio.shield(connection.lost)
    except asyncio.CancelledError:
        connection.reset()
        raise


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _linger_not(raw: socket.socket) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _unsent(raw: socket.socket) -> int:
    """Bytes that the other side's kernel has not acknowledged."""
    try:
        return int(struct.unpack("i", _ioctl(raw.fileno()))[0])
    except (OSError, ValueError):
        return 0
