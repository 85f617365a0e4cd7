"""Sockets to listen on: in the network or in the file system, with TLS or without.

Owns how an address becomes a listener. Refuses to take a socket from another process, and to delete what is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.config import Address, ServerTLS

_SOCKET_MODE: Final = 0o660
_BACKLOG: Final = 1024


async def listen(
    loop: asyncio.AbstractEventLoop,
    protocols: Callable[[], asyncio.BaseProtocol],
    address: Address,
    tls: ssl.SSLContext | None,
) -> asyncio.Server:
    """Listen on an address; each connection gets a protocol. Raises `OSError`."""
    if address.kind != "unix":
        return await loop.create_server(protocols, address.host, address.port, ssl=tls, backlog=_BACKLOG)
    make_room(address)
    listener = await loop.create_unix_server(protocols, address.path, ssl=tls, backlog=_BACKLOG)
    os.chmod(address.path, _SOCKET_MODE)  # noqa: PTH101 - of a loop's blocking calls none is shorter
    return listener


def make_room(address: Address) -> None:
    """Take away the socket that a former process left behind, which can't be bound again.

    Raises `OSError` if another process listens there, or if what is there is no socket.
    """
    path = Path(address.path)
    if address.kind != "unix":
        return
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, f"{path} is there and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, f"{path} is in use")
        path.unlink()


def callers_tls(tls: ServerTLS) -> ssl.SSLContext:
    """The context of the callers' listener. Raises `OSError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_chain(context, tls)
    return context


def load_chain(context: ssl.SSLContext, tls: ServerTLS) -> None:
    """Show this certificate from now on. Raises `OSError`."""
    context.load_cert_chain(tls.certificate, tls.key)


def bound(address: Address, names: list[object]) -> str:
    """Where a listener really is, which differs from what was asked for when that was port 0."""
    name = names[0] if names else None
    if address.kind == "tcp" and isinstance(name, tuple):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{name[1]}"
    return str(address)
