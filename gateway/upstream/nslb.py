"""The operations of NSLB's web adapter, as bytes.

Owns the wire form of a request (interface page, "Operations of the web adapter"). Refuses to send what the
documents do not show, and anything of a caller's request but its id, its trace and its address.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gateway.model import Credential, Medium, Operation
from gateway.telemetry import Attempt, Record
from gateway.upstream.pool import Endpoint, Pool
from gateway.upstream.reading import Reading, Verdict

_BASE: Final = "/service-cloud/rest/webadapter/v1/webadapterfacade/"
_REQUESTS: Final = {
    Operation.CREATE: ("POST", _BASE + "createClickToCall"),
    Operation.CHECK: ("GET", _BASE + "checkClickToCallSupport"),
    Operation.EVENTS: ("GET", _BASE + "getClickToCallEvents"),
    Operation.DROP: ("POST", _BASE + "dropClickToCall"),
}
_NO_BODY: Final = b"\r\n\r\n"
_EMPTY_BODY: Final = b"\r\nContent-Length: 0\r\n\r\n"  # RFC 9110, 8.6, for a POST


class Nslb:
    """The web adapter behind its endpoints.

    Requests go through `pool`; long polls, of which each holds a connection for as long as it lasts, through `polls`.
    `timeout` and `poll_timeout` are in seconds, for an answer; `token_header` also sends the token as a field of
    its own.
    """

    def __init__(  # noqa: PLR0913 - where to, for how long, and how it is read
        self,
        pool: Pool,
        polls: Pool,
        reading: Reading,
        *,
        timeout: float,
        poll_timeout: float,
        token_header: bool = False,
    ) -> None:
        self.reading = reading
        self._pool = pool
        self._polls = polls
        self._timeout = timeout
        self._poll_timeout = poll_timeout
        self._token_header = token_header
        self._heads = {
            operation: {endpoint.name: _head(method, path, endpoint) for endpoint in pool.endpoints}
            for operation, (method, path) in _REQUESTS.items()
        }
        self._bodies = {medium: _create_tail(medium) for medium in Medium}

    # The `credential` is asked for when a connection is there, since it may have changed until then. Of the caller's
    # request goes on what the record has of it: its id, its trace, and its own address, if it has one. Each notes its
    # attempts in the record, sends nothing after `until` (in seconds of the event loop's clock), and raises `NotSent`,
    # `CredentialGone` and `SentUnanswered`, like `Pool.exchange`.

    def create(
        self, medium: Medium, credential: Callable[[], Credential | None], record: Record, until: float = math.inf
    ) -> Coroutine[Any, Any, Verdict]:
        """Create a call (`POST createClickToCall`)."""
        return self._ask(Operation.CREATE, self._bodies[medium], credential, record, until)

    def check(
        self, credential: Callable[[], Credential | None], record: Record, until: float = math.inf
    ) -> Coroutine[Any, Any, Verdict]:
        """Ask what the channel supports (`GET checkClickToCallSupport`)."""
        return self._ask(Operation.CHECK, _NO_BODY, credential, record, until)

    def events(
        self, credential: Callable[[], Credential | None], record: Record, until: float = math.inf
    ) -> Coroutine[Any, Any, Verdict]:
        """Wait for the next event of the token's current call (`GET getClickToCallEvents`)."""
        return self._ask(Operation.EVENTS, _NO_BODY, credential, record, until)

    def drop(
        self, credential: Callable[[], Credential | None], record: Record, until: float = math.inf
    ) -> Coroutine[Any, Any, Verdict]:
        """Release the token's current call (`POST dropClickToCall`)."""
        return self._ask(Operation.DROP, _EMPTY_BODY, credential, record, until)

    async def _ask(
        self,
        operation: Operation,
        tail: bytes,
        credential: Callable[[], Credential | None],
        record: Record,
        until: float,
    ) -> Verdict:
        told = f"\r\nX-Request-ID: {record.request_id}"
        if record.client_address is not None:
            told += f"\r\nX-Forwarded-For: {record.client_address}"
        rest = told.encode("ascii")
        record.asked = _REQUESTS[operation]
        heads = self._heads[operation]
        sent: Credential | None = None

        def written(endpoint: Endpoint) -> bytes | None:
            nonlocal sent
            sent = credential()
            if sent is None:
                return None
            field = b"\r\nccmessaging-token: " + sent.secrets[0].reveal() if self._token_header else b""
            trace = b"\r\ntraceparent: " + record.traceparent().encode("ascii")
            return b"".join((heads[endpoint.name], sent.cookie, rest, trace, field, tail))

        waits = operation is Operation.EVENTS
        pool, timeout = (self._polls, self._poll_timeout) if waits else (self._pool, self._timeout)
        endpoint, reply, duration = await pool.exchange(written, timeout, record, until)
        assert sent is not None  # noqa: S101 - nothing is answered that was not written
        verdict = self.reading.read(operation, reply, sent.secrets)
        verdict.generation = sent.generation
        verdict.duration = duration
        record.tried(
            Attempt(endpoint.name, verdict.outcome, verdict.result_code, duration, reply.status),
            endpoint.host,
            endpoint.port,
        )
        return verdict


def _head(method: str, path: str, endpoint: Endpoint) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return (
        f"{method} {path} HTTP/1.1\r\n"
        f"Host: {host}:{endpoint.port}\r\n"
        "Content-Type: application/json; charset=UTF-8\r\n"
        "Accept: application/json\r\n"
        "Cookie: "
    ).encode("ascii")


def _create_tail(medium: Medium) -> bytes:
    body = b'{"mediaAbility": "0"}' if medium is Medium.VOICE else b'{"mediaAbility": "1"}'
    return b"\r\nContent-Length: " + str(len(body)).encode("ascii") + b"\r\n\r\n" + body
