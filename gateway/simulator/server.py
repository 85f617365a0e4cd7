"""Owns the listeners: accepting, keep-alive, and the phase in which a connection is broken.

Accepting and the TLS handshake are two steps, so that a connection can be reset before, in and after the handshake.
Refuses to listen anywhere but on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.simulator.connection import BROKEN, Connection, reset_on_close
from gateway.simulator.delivery import deliver, instead
from gateway.simulator.faults import Fault, Faults
from gateway.simulator.wire import (
    HEAD_LIMIT,
    Answer,
    MalformedError,
    Received,
    json_answer,
    parse_head,
    read_body,
)

HOST = "127.0.0.1"


class Service(Protocol):
    """Who answers behind a listener; `place` is what the faults of its connections are ordered for."""

    place: str

    def operation(self, received: Received) -> str | None:
        """The operation that the path names, if any."""

    def expire(self, received: Received) -> None:
        """End the token that this request brings."""

    async def answer(self, received: Received, gone: asyncio.Future[None]) -> Answer:
        """The answer; `gone` is done once the client has hung up."""


@dataclass(frozen=True, slots=True)
class Records:
    """Where a listener notes what happens: `received` at the end of each head, `changed` whenever anything did."""

    received: Callable[[Received], None]
    changed: Callable[[], None]
    clock: Callable[[], float]


class Listener:
    """One address; `index` tells the listeners of one service apart.

    `port` is 0 until it was opened, `accepted` the number of TCP connections so far.
    """

    def __init__(
        self,
        service: Service,
        tls: ssl.SSLContext,
        faults: Faults,
        records: Records,
        index: int = 0,
    ) -> None:
        self.port = 0
        self.accepted = 0
        self._service = service
        self._tls = tls
        self._faults = faults
        self._records = records
        self._index = index
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: dict[asyncio.Task[None], Connection | None] = {}

    def open(self, port: int = 0) -> None:
        """Listen. Port 0 is the one it had before, or any. `OSError` if the port is taken."""
        if self._socket is not None:
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.settimeout(0)
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
        """Listen no more: new connections are refused, those that stand go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def stop(self) -> None:
        """Listen no more, and end every connection."""
        await self.shut()
        serving = dict(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.gather(*(connection.lost for connection in serving.values() if connection and connection.stands))
        # A handshake that was cut off leaves its transport to the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)

    def idle(self) -> list[Connection]:
        """The connections that stand and on which no request is under way."""
        return [
            connection for connection in self._serving.values() if connection and connection.stands and connection.idle
        ]

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
        self._records.changed()
        if not task.cancelled() and (problem := task.exception()) is not None:
            context = {"message": "a connection of the simulator failed", "exception": problem}
            task.get_loop().call_exception_handler(context)

    async def _serve(self, raw: socket.socket) -> None:
        fault = self._faults.for_connection(self._service.place, self._index)
        if fault is not None and fault.kind != "reset-idle":
            with raw:
                if fault.kind == "reset-handshake":
                    with contextlib.suppress(ConnectionError):
                        await asyncio.get_running_loop().sock_recv(raw, 1)
                reset_on_close(raw)
            return
        connection = Connection(raw, HEAD_LIMIT)
        task = asyncio.current_task()
        if task is not None:
            self._serving[task] = connection
        try:
            await connection.secure(self._tls)
        except BROKEN:
            return
        self._records.changed()
        try:
            await self._converse(connection, fault)
            # Whatever ended the conversation, `stop` has to find the connection until its transport is closed.
            await asyncio.shield(connection.lost)
        finally:
            connection.reset()

    async def _converse(self, connection: Connection, fault: Fault | None) -> None:
        if fault is not None:
            await asyncio.wait([connection.gone], timeout=float(fault.args.get("after", 0)))
            connection.reset()
            return
        with contextlib.suppress(*BROKEN):
            while await self._exchange(connection):
                connection.idle = True
                self._records.changed()
        connection.close()

    async def _exchange(self, connection: Connection) -> bool:
        received = Received(endpoint=self._index)
        try:
            received.raw = await connection.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return await deliver(connection, json_answer(431, {}), None, last=True)
        connection.idle = False
        received.at = self._records.clock()
        try:
            self._read_head(received)
            if "100-continue" in received.fields("expect"):
                await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_body(connection.reader, received)
        except MalformedError as problem:
            received.refusal = str(problem)
            answer = json_answer(400, {"errorCode": "400", "exceptionInfo": str(problem)})
            received.status = answer.status
            return await deliver(connection, answer, None, last=True)
        options = ",".join(received.fields("connection")).lower().replace(" ", "").split(",")
        return await self._answer(connection, received, last="close" in options)

    def _read_head(self, received: Received) -> None:
        try:
            parse_head(received)
            received.operation = self._service.operation(received)
        finally:
            self._records.received(received)

    async def _answer(self, connection: Connection, received: Received, *, last: bool) -> bool:
        fault = self._faults.for_request(received.operation, self._index)
        if fault is not None and fault.stands_in:
            if fault.performs(received.operation):
                await self._service.answer(received, connection.gone)
            answer = instead(fault)
        else:
            if fault is not None and fault.kind == "expire-now":
                self._service.expire(received)
            answer = await self._service.answer(received, connection.gone)
        if fault is not None and fault.delay > 0:
            await asyncio.wait([connection.gone], timeout=fault.delay)
        if fault is None or fault.answers:
            received.status = answer.status
        return await deliver(connection, answer, fault, last=last)
