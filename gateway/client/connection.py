"""The way to one gateway: connections, and requests of which it is known whether they may have been sent.

Owns the one place that uses `aiohttp`. Refuses everything a general client does by itself: redirects, cookies, proxies
and passwords from the environment, sending again, decompressing. Lets none of `aiohttp`'s errors out: they hold the
header fields of the request, and the credential is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final, Self

import aiohttp
from yarl import URL

from gateway.client.answers import MOST_SECONDS, Answer

_MOST_BODY: Final = 64 * 1024
_VISIBLE: Final = re.compile(r"[!-~]+")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What the gateway takes as a `Request-Timeout`.
_MOST_TOLD: Final = 999_999_999
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_UNTRUSTED: Final = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)


class NoAnswer(Exception):  # noqa: N818 - an attempt without an answer; the service sees a `DialError`
    """The attempt is over, and there is no answer. `sent`: the gateway may have got the request, or part of it."""

    def __init__(self, detail: str, *, sent: bool, untrusted: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.sent = sent
        self.untrusted = untrusted


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the gateway. `reading`: it changes nothing."""

    method: str
    target: str
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    reading: bool = False


class _Attempt:
    """How far a request got. From the moment it has a connection it counts as sent.

    Only then does it get its `Request-Timeout`, of what is `left`: the gateway counts from when it has the request,
    and must not send what we have given up long ago because a connection took its time.
    """

    def __init__(self, left: Callable[[], float] | None = None) -> None:
        self.connected = False
        self._left = left
        self._fields: MutableMapping[str, str] = {}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Keep `aiohttp` from sending a request again by itself, as it does with `DELETE` when a connection is lost."""
        self._fields = request.headers
        try:
            return await handler(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
            raise _failure(exc, sent=not isinstance(exc, aiohttp.ClientConnectorError)) from None

    def connect(self) -> None:
        """It has a connection, and is about to be sent."""
        self.connected = True
        if self._left is not None:
            self._fields["Request-Timeout"] = request_timeout(self._left())


class Address:
    """Where the gateway is: `http://host:port`, `https://host:port` or `unix:/path`. Raises `ValueError`."""

    def __init__(self, base_url: str) -> None:
        scheme, _, path = base_url.partition(":")
        self.socket = path if scheme == "unix" else None
        if self.socket is not None:
            if not self.socket.startswith("/"):
                raise ValueError("unix: needs an absolute path")
            self.origin = "http://localhost"
            return
        url = URL(base_url)
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("the address must be http://host:port, https://host:port or unix:/path")
        if url.user is not None or url.password is not None or url.path != "/" or url.query_string or url.fragment:
            raise ValueError("the address has a host and a port, and nothing else")
        self.origin = str(url.origin())

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else self.origin


class Line:
    """Connections to one gateway, kept for the next request."""

    def __init__(
        self,
        address: Address,
        credential: Callable[[], str],
        tls: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self._address = address
        self._credential = credential
        self._tls = tls
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Be ready to send. Needs a running loop."""
        if self._session is not None:
            raise RuntimeError("the client is open already")
        phases = aiohttp.TraceConfig()
        phases.on_connection_create_end.append(_connected)
        phases.on_connection_reuseconn.append(_connected)
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=_NO_TIMEOUT,
            trace_configs=[phases],
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def answer(self, request: Request, seconds: float) -> Answer:
        """The whole answer to a request, which is told how long it is waited for. Raises `NoAnswer`."""
        until = self._clock() + seconds
        attempt, authorization = _Attempt(lambda: until - self._clock()), self._authorization()
        with _failures(attempt):
            async with asyncio.timeout(seconds):
                response = await self._send(request, authorization, attempt)
                with contextlib.closing(response):
                    return await _whole(response)

    async def stream(self, request: Request, seconds: float) -> Stream:
        """An answer that comes bit by bit; to be closed. `seconds` are for its head. Raises `NoAnswer`."""
        attempt, authorization = _Attempt(), self._authorization()
        with _failures(attempt):
            async with asyncio.timeout(seconds):
                return Stream(await self._send(request, authorization, attempt))

    def _connector(self) -> aiohttp.BaseConnector:
        # No limit: each call that is followed holds a connection, and must not keep a dial waiting.
        if self._address.socket is not None:
            return aiohttp.UnixConnector(self._address.socket, limit=0)
        return aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True, limit=0)

    async def _send(self, request: Request, authorization: str, attempt: _Attempt) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the client is not open: use it in `async with`")
        return await self._session.request(
            request.method,
            URL(self._address.origin + request.target, encoded=True),
            data=request.body,
            headers={
                "Accept-Encoding": "identity",
                "User-Agent": "dial-gateway-client",
                **request.fields,
                "Authorization": authorization,
            },
            allow_redirects=False,
            trace_request_ctx=attempt,
            middlewares=(attempt,),
        )

    def _authorization(self) -> str:
        credential = self._credential()
        if not _VISIBLE.fullmatch(credential):
            # Before `aiohttp` says so, and shows it.
            raise ValueError("the key is empty, or has characters that can't stand in a header field")
        return f"Bearer {credential}"


class Stream:
    """An answer whose body is read as it comes. A context manager that closes it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.media_type = _media_type(response)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._response.close()

    async def piece(self, seconds: float) -> bytes:
        """What came next; empty at the end. Raises `NoAnswer`, also when nothing comes for that long."""
        with _failures():
            async with asyncio.timeout(seconds):
                return await self._response.content.readany()

    async def answer(self, seconds: float) -> Answer:
        """All of it, as an answer. Raises `NoAnswer`."""
        with _failures():
            async with asyncio.timeout(seconds):
                return await _whole(self._response)


async def _connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: object) -> None:
    if isinstance(attempt := context.trace_request_ctx, _Attempt):
        attempt.connect()


@contextlib.contextmanager
def _failures(attempt: _Attempt | None = None) -> Iterator[None]:
    """Turn whatever ends an attempt into `NoAnswer`; without one it has a connection already."""
    try:
        yield
    except NoAnswer:
        raise
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise _failure(exc, sent=attempt is None or attempt.connected) from None


def _failure(exc: Exception, *, sent: bool) -> NoAnswer:
    # Their own texts quote requests and answers; the system's words for a number don't.
    reason = f" ({exc.strerror})" if isinstance(exc, OSError) and exc.strerror else ""
    return NoAnswer(f"{type(exc).__name__}{reason}", sent=sent, untrusted=isinstance(exc, _UNTRUSTED))


async def _whole(response: aiohttp.ClientResponse) -> Answer:
    body = b""
    while len(body) <= _MOST_BODY and (piece := await response.content.readany()):
        body += piece
    request_id = response.headers.get("X-Request-ID", "")
    retry_after = response.headers.get("Retry-After", "")
    return Answer(
        status=response.status,
        media_type=_media_type(response),
        # An answer that long is none, and what is cut off in the middle can't be read as one.
        body=body if len(body) <= _MOST_BODY else b"",
        request_id=request_id if _REQUEST_ID.fullmatch(request_id) else None,
        retry_after=min(float(retry_after), MOST_SECONDS)
        if retry_after.isascii() and retry_after.isdecimal()
        else None,
        replayed=response.headers.get("Idempotency-Replayed", "").lower() == "true",
    )


def request_timeout(seconds: float) -> str:
    """A time as the gateway takes it: never longer than it is, but never nothing."""
    milliseconds = max(1, math.floor(min(seconds, _MOST_TOLD) * 1000))
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
