"""Owns one accepted connection: TLS over a socket of ours, and the ways to end it.

The socket is kept at hand beside the loop's transport, because a reset is a matter of the socket (SO_LINGER 0).
Works on asyncio's own loop and on uvloop. Refuses to know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import ssl
import struct
import termios

BROKEN = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)


class Connection(asyncio.StreamReaderProtocol):
    """One accepted connection, which stands once `secure` has returned.

    `gone` is done when the client has hung up, `lost` when the transport is closed; `idle` while no request is under
    way. `limit`, in bytes, is the longest run that `reader` gives in one piece.
    """

    def __init__(self, raw: socket.socket, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=limit, loop=loop)
        self.gone: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.idle = True
        self._raw = raw
        self._writer: asyncio.StreamWriter | None = None
        super().__init__(self.reader, loop=loop)

    @property
    def stands(self) -> bool:
        """TLS is established, and the transport not yet closed."""
        return self._writer is not None and not self.lost.done()

    async def secure(self, context: ssl.SSLContext) -> None:
        """The TLS handshake, 10 s at most. Raises one of `BROKEN` when it fails; the socket is closed then."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(
            lambda: self, self._raw, ssl=context, ssl_handshake_timeout=10, ssl_shutdown_timeout=1
        )
        self._writer = asyncio.StreamWriter(transport, self, self.reader, loop)

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
        """Write, and wait while the client reads too slowly. `ConnectionError` if it hung up."""
        if self._writer is None or self._writer.is_closing():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def sent(self) -> None:
        """Wait, 2 s at most, until the client's kernel has it all: a reset throws away what is still on the way."""
        for _ in range(400):
            await asyncio.sleep(0.005)
            if self.lost.done() or not _unsent(self._raw):
                return

    def reset(self) -> None:
        """End the connection with RST."""
        if self._writer is not None and not self.lost.done():
            reset_on_close(self._raw)
            self._writer.transport.abort()

    def close(self) -> None:
        """End the connection as TLS has it: close_notify, then FIN."""
        if self._writer is not None:
            self._writer.close()


def reset_on_close(raw: socket.socket) -> None:
    """Have a socket end with RST when it is closed."""
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _unsent(raw: socket.socket) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4)), "little")
    except (OSError, ValueError):
        return 0
