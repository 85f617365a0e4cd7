"""The store of many machines: Redis or Valkey.

Owns its keys, its scripts and its channel. Refuses to wait for a server that does not answer, and to try anything
again by itself: what a lost answer means is for those who asked to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError

from gateway.model import Secret
from gateway.store import redis_scripts as scripts
from gateway.store.ledger import Page
from gateway.store.protocol import new_owner
from gateway.store.shelf import Busy, Lease, Stored, StoreUnavailable

_MOST_CONNECTIONS: Final = 16
# One hash for each key, so that a script touches one key alone. An epoch tells a server that has lost everything.
_EPOCH: Final = scripts.PREFIX + "epoch"
_OWNER: Final = scripts.PREFIX + "owner:"
_ANSWER_SECONDS: Final = 1.0
_QUEUE_SECONDS: Final = 3.0
_CONNECT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5
_RETURN_SECONDS: Final = 5.0  # more than a try to listen takes, with the pause before the next


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Where the server is, and how it is to be recognised. `username` and `password` prove who we are to it."""

    host: str
    port: int
    database: int = 0
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password: Secret | None = field(default=None)


class _Credentials(CredentialProvider):
    """Asked at each new connection, so that a password that was set or changed is taken without a restart."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    async def get_credentials_async(
        self,
    ) -> Any:  # nothing where there is no password, which redis-py's type leaves out
        """The user, if it has a name, and the password."""
        if self.server.password is None:
            return ()
        revealed = self.server.password.reveal().decode()
        return (revealed,) if self.server.username is None else (self.server.username, revealed)


class RedisStore:
    """One Redis or Valkey server, version 5 or later.

    `return_seconds` is how long all who still run may take to listen again when the server has been away.
    """

    shared = True

    def __init__(self, server: RedisServer, *, return_seconds: float = _RETURN_SECONDS) -> None:
        self.owner = new_owner()
        self._return_seconds = return_seconds
        self._credentials = _Credentials(server)
        # One request takes one for a moment; the others wait for it, which the store must not be taken for gone for.
        self._pool = BlockingConnectionPool(
            max_connections=_MOST_CONNECTIONS,
            timeout=_QUEUE_SECONDS,
            connection_class=SSLConnection if server.tls else Connection,
            **_settings(server, self._credentials),
        )
        self._client = Redis(connection_pool=self._pool)
        self._doubtful_until = -math.inf
        self._listening = asyncio.Event()
        all_scripts = (scripts.LEASE, scripts.PUT, scripts.RESEAL, scripts.RELEASE, scripts.WRITE, scripts.ERASE)
        self._scripts = {script: self._client.register_script(script) for script in all_scripts}

    def authenticate(self, server: RedisServer) -> None:
        """Use the user and the password of this one for new connections."""
        self._credentials.server = server

    async def read(self, key: str) -> Stored | None:
        """See `Shelf.read`."""
        async with self._available():
            generation, sealed = await self._client.hmget(_token(key), ["g", "s"])
        return Stored(*_numbered(generation, sealed)) if generation is not None and sealed is not None else None

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        """See `Shelf.lease`."""
        # Who does not listen is not seen, and must not be taken for dead.
        own = self.owner if self._listening.is_set() else ""
        arguments = (_token(key), _milliseconds(seconds), own)
        given, number, working, failures, other = await self._script(scripts.LEASE, *arguments, "")
        if working and other and not given and not await self.alive(other.decode("utf-8", "replace")):
            given, number, working, failures, _ = await self._script(scripts.LEASE, *arguments, other)
        return Lease(int(number), failures) if given else Busy(int(number) / 1000, bool(working), failures)

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        """See `Shelf.put`."""
        lease = "" if fence is None else fence
        return bool(await self._script(scripts.PUT, _token(key), sealed, generation, after, lease, key))

    async def reseal(self, key: str, sealed: bytes, *, generation: int) -> bool:
        """See `Shelf.reseal`."""
        return bool(await self._script(scripts.RESEAL, _token(key), sealed, generation))

    async def release(self, key: str, *, fence: int, hold: float) -> None:
        """See `Shelf.release`."""
        await self._script(scripts.RELEASE, _token(key), fence, _milliseconds(hold))

    async def get(self, key: str) -> Page | None:
        """See `Ledger.get`."""
        async with self._available():
            version, sealed = await self._client.hmget(_record(key), ["v", "s"])
        return Page(*_numbered(version, sealed)) if version is not None and sealed is not None else None

    async def write(self, key: str, sealed: bytes, *, after: int, seconds: float) -> int:
        """See `Ledger.put`."""
        return int(await self._script(scripts.WRITE, _record(key), key, after, sealed, _milliseconds(seconds)))

    async def erase(self, key: str, *, after: int) -> bool:
        """See `Ledger.erase`."""
        return bool(int(await self._script(scripts.ERASE, _record(key), key, after)))

    async def alive(self, owner: str) -> bool:
        """See `Store.alive`. The server sees at once when a process ends; it knows of none that does not listen.

        When it has been away it knows of nobody at first, and who has no more than lost it with us is not dead.
        """
        if owner == self.owner:
            return True
        async with self._available():
            ((_, subscribers),) = await self._client.pubsub_numsub(_OWNER + owner)
        return bool(subscribers) or time.monotonic() < self._doubtful_until

    async def vouched(self) -> None:
        """See `Store.vouched`."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._listening.wait()
        except TimeoutError:
            raise StoreUnavailable("not listening") from None

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """See `Store.listen`. What a server forgets it does not tell; its epoch, which it forgets as well, does."""
        try:
            await self._listen(heard)
        except StoreUnavailable:
            self._doubtful_until = math.inf
            raise
        finally:
            self._listening.clear()

    async def close(self) -> None:
        """Close all connections."""
        async with self._available():
            await self._client.aclose()
            await self._pool.disconnect()

    async def _listen(self, heard: Callable[[str | None], None]) -> None:
        cancelled = _cancellations()  # before anything of redis-py has been awaited
        channels = (scripts.CHANNEL, _OWNER + self.owner)  # to the other one nothing is published: being there is all
        async with self._available(), self._client.pubsub() as subscription:
            await subscription.subscribe(*channels)
            await _confirmed(subscription, len(channels))
            self._doubtful_until = min(self._doubtful_until, time.monotonic() + self._return_seconds)
            epoch = await self._epoch()
            self._listening.set()
            heard(None)
            looked = time.monotonic()
            while True:
                cancelled()
                message = await subscription.get_message(timeout=_LOOK_SECONDS)
                if message is not None and message["type"] == "message":
                    heard(message["data"].decode("utf-8", "replace"))
                if time.monotonic() - looked >= _LOOK_SECONDS:
                    looked = time.monotonic()
                    if (present := await self._epoch()) != epoch:
                        epoch = present
                        heard(None)

    @contextlib.asynccontextmanager
    async def _available(self) -> AsyncIterator[None]:
        cancelled = _cancellations()
        try:
            yield
            cancelled()
        except (RedisError, OSError) as exc:
            # The idle connections are probably as dead, and the next to use one of them would be told so.
            with contextlib.suppress(RedisError, OSError):
                await self._pool.disconnect(inuse_connections=False)
            cancelled()
            raise StoreUnavailable(type(exc).__name__) from None

    async def _epoch(self) -> bytes | str | None:
        drawn = secrets.token_hex(8)
        await self._client.set(_EPOCH, drawn, nx=True)
        return await self._client.get(_EPOCH)

    async def _script(self, script: str, name: str, *arguments: str | bytes | int) -> Any:
        async with self._available():
            return await self._scripts[script](keys=[name], args=list(arguments))


def _cancellations() -> Callable[[], None]:
    """What raises `CancelledError` if the task was cancelled since.

    redis-py swallows a cancellation that comes when its own time is just over: whoever waits for the end of the task
    then waits for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0

    def check() -> None:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    return check


async def _confirmed(subscription: PubSub, channels: int) -> None:
    """Wait until the server has said of so many channels that we listen to them."""
    while channels:
        message = await subscription.get_message(timeout=_ANSWER_SECONDS)
        if message is None:
            raise TimeoutError
        channels -= message["type"] == "subscribe"


def _settings(server: RedisServer, credentials: _Credentials) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "db": server.database,
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "dial-gateway",
        "credential_provider": credentials,
        "protocol": 2,  # the other one begins with a command that Redis 5 does not know
    }
    if server.tls:
        settings |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": server.ca and str(server.ca),
            "ssl_certfile": server.certificate and str(server.certificate),
            "ssl_keyfile": server.key and str(server.key),
        }
    return settings


def _token(key: str) -> str:
    return f"{scripts.PREFIX}token:{key}"


def _record(key: str) -> str:
    return f"{scripts.PREFIX}record:{key}"


def _numbered(number: bytes | str, sealed: bytes | str) -> tuple[int, bytes]:
    """A generation or version, and what is sealed; 0, which none has, and nothing if somebody else wrote there."""
    if isinstance(sealed, bytes) and len(number) <= scripts.MOST_DIGITS and number.isdigit():
        return int(number), sealed
    return 0, b""


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
