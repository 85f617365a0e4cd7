"""The endpoints, their connections, and going to the next one when nothing was sent.

Owns which connection a request takes and how many there are. Refuses to try anything again that may have been
sent: only `NotSent` goes on to the next endpoint.
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway import problems
from gateway.model import Outcome
from gateway.telemetry import Attempt, Record
from gateway.upstream.connection import Connection, Phase
from gateway.upstream.failures import CredentialGone, NotSent, nothing_sent
from gateway.upstream.reply import Reply
from gateway.upstream.tls import PeerPolicy

_FIRST_BACKOFF: Final = 1.0
_MOST_BACKOFF: Final = 30.0
_SUSPECT_SECONDS: Final = 60.0
_CERTIFICATE_SECONDS: Final = 7_200.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Per endpoint: at most so many `connections`, `warm` ones kept ready; times in seconds.

    No connection is used for longer than `most_seconds`: the peer may have another certificate or address by now.
    """

    connect_timeout: float
    connections: int
    warm: int
    idle_seconds: float
    most_seconds: float = 3_600.0


@dataclass(slots=True)
class Endpoint:
    """One NSLB address and the connections to it."""

    host: str
    port: int
    name: str
    idle: list[Connection] = field(default_factory=list)
    open: set[Connection] = field(default_factory=set)
    connecting: int = 0
    retry_at: float = 0.0
    backoff: float = _FIRST_BACKOFF
    peer_not_after: float | None = None
    peer_seen: float = 0.0
    suspect_until: float = 0.0

    def certificate_expires(self, now: float) -> float | None:
        """When the peer's certificate expires, in epoch seconds; `None` if it was not seen lately.

        The peer may have a new one meanwhile: nobody is to be woken for the one before.
        """
        return self.peer_not_after if now - self.peer_seen < _CERTIFICATE_SECONDS else None

    @property
    def used(self) -> int:
        """How many of the allowed connections are taken."""
        return len(self.open) + self.connecting


class Pool:
    """Connections to all endpoints of one upstream. To be used from the loop that it is made in."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int, str]],
        policy: PeerPolicy,
        settings: PoolSettings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.endpoints = [Endpoint(host, port, name) for host, port, name in addresses]
        self._policy = policy
        self._settings = settings
        self._loop = loop
        self._turn = 0
        self._preferred = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._warming: set[asyncio.Task[None]] = set()
        self._closing = False

    # --- for a request

    async def exchange(
        self, written: Callable[[Endpoint], bytes | None], timeout: float, record: Record, until: float = math.inf
    ) -> tuple[Endpoint, Reply, float]:
        """Send a request to the first endpoint that takes it; the endpoint, its answer, and seconds from sending.

        What is `written` is asked for when a connection is there, because it may have waited for one; `None` is for
        what can't be sent any more. `timeout` is in seconds, for the answer; after `until` (in seconds of the event
        loop's clock), and for a record that is late, nothing is sent. Attempts without an answer are noted in the
        record. Raises `NotSent` when no endpoint took it, `CredentialGone` when there was nothing to send,
        `SentUnanswered` when an endpoint may have taken it.
        """
        give_up = min(self._loop.time() + self._settings.connect_timeout, until)
        failures: list[NotSent] = []
        candidates: list[Endpoint] | None = None
        while True:
            ready = self._idle()
            if ready is not None:
                endpoint, connection = ready
            elif candidates := self._order() if candidates is None else candidates:
                endpoint = candidates.pop(0)
                try:
                    connection = await self._open(endpoint, until)
                except NotSent as failure:
                    failures.append(failure)
                    if failure.problem is not problems.OVERLOADED:
                        _note(record, endpoint, Outcome.NOT_SENT, 0.0)
                    continue
            elif any(failure.problem is problems.OVERLOADED for failure in failures):
                await self._room(give_up)
                failures = []
                candidates = None
                continue
            else:
                raise _gravest(failures)
            try:
                request = self._in_time(written, endpoint, record, until)
            except (NotSent, CredentialGone):
                self._give_back(endpoint, connection)
                raise
            started = time.monotonic()
            before = record.sent
            try:
                answer = connection.send(request, timeout)
                record.sent = True
                reply = await answer
            except NotSent as failure:
                record.sent = before
                _note(record, endpoint, Outcome.NOT_SENT, 0.0)
                failures.append(failure)
                continue
            except BaseException:
                # Whatever it was, the request may have left.
                connection.close()
                _note(record, endpoint, Outcome.UNKNOWN, time.monotonic() - started)
                raise
            duration = time.monotonic() - started
            self._give_back(endpoint, connection)
            return endpoint, reply, duration

    # --- in the background

    def tend(self) -> None:
        """Close what was idle too long, and open what is to be kept warm. To be called about once a second."""
        now = self._loop.time()
        for endpoint in self.endpoints:
            fresh: list[Connection] = []
            for connection in endpoint.idle:
                if now - connection.idle_since >= self._settings.idle_seconds:
                    connection.retire()
                elif connection.usable():
                    fresh.append(connection)
            endpoint.idle = fresh
            missing = self._settings.warm - len(fresh) - endpoint.connecting
            if missing > 0 and now >= endpoint.retry_at and endpoint.used < self._settings.connections:
                task = self._loop.create_task(self._warm(endpoint))
                self._warming.add(task)
                task.add_done_callback(self._warming.discard)

    async def _warm(self, endpoint: Endpoint) -> None:
        try:
            connection = await self._open(endpoint)
        except NotSent:
            return
        self._give_back(endpoint, connection)

    async def close(self) -> None:
        """Close idle connections now and the others when their answers have come."""
        self._closing = True
        for task in list(self._warming):
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        for endpoint in self.endpoints:
            for connection in endpoint.idle[:]:
                connection.retire()
            endpoint.idle.clear()

    # --- inside

    def _in_time(
        self, written: Callable[[Endpoint], bytes | None], endpoint: Endpoint, record: Record, until: float
    ) -> bytes:
        """What is to be sent now. Raises `NotSent` and `CredentialGone`."""
        # A timer may fire a little before its time: a caller that was told so must be right, whatever the clock says.
        if record.late or (until < math.inf and self._loop.time() >= until):
            raise NotSent(problems.UPSTREAM_UNREACHABLE, "The caller's time was over before anything was sent.")
        request = written(endpoint)
        if request is None:
            raise CredentialGone
        return request

    def _idle(self) -> tuple[Endpoint, Connection] | None:
        """A connection that is ready now, endpoints taking turns; it is the caller's until given back."""
        endpoints = self.endpoints
        count = len(endpoints)
        self._turn = first = (self._turn + 1) % count
        for step in range(count):
            endpoint = endpoints[(first + step) % count]
            stack = endpoint.idle
            while stack:
                connection = stack.pop()
                if connection.usable():
                    return endpoint, connection
        return None

    def _order(self) -> list[Endpoint]:
        """In which order to open connections: the one that last worked first."""
        return self.endpoints[self._preferred :] + self.endpoints[: self._preferred]

    async def _open(self, endpoint: Endpoint, until: float = math.inf) -> Connection:
        """A new connection, verified.

        Raises `NotSent`: can't be reached (or not in time), not to be trusted, or no room for another one.
        """
        if endpoint.used >= self._settings.connections:
            raise NotSent(problems.OVERLOADED, "All connections to the contact centre are in use.")
        connection = Connection(self._loop, self._closed, certified=self._policy.certified)
        endpoint.connecting += 1
        try:
            async with asyncio.timeout_at(min(self._loop.time() + self._settings.connect_timeout, until)):
                await self._loop.create_connection(
                    lambda: connection,
                    endpoint.host,
                    endpoint.port,
                    ssl=self._policy.context,
                    server_hostname=self._policy.server_name or endpoint.host,
                )
            if connection.phase is not Phase.READY:
                raise nothing_sent()
        except BaseException as exc:
            connection.close()
            if isinstance(exc, Exception):
                self._put_off(endpoint)
                raise _not_sent(exc) from None
            raise
        finally:
            endpoint.connecting -= 1
        endpoint.open.add(connection)
        endpoint.peer_not_after, endpoint.peer_seen = connection.peer_not_after, connection.opened
        endpoint.backoff = _FIRST_BACKOFF
        endpoint.retry_at = 0.0
        self._preferred = self.endpoints.index(endpoint)
        return connection

    def _give_back(self, endpoint: Endpoint, connection: Connection) -> None:
        """Return a connection whose answer has been read."""
        now = self._loop.time()
        if self._closing or now < endpoint.suspect_until or now - connection.opened >= self._settings.most_seconds:
            connection.retire()
        elif connection.phase is Phase.READY:
            connection.idle_since = now
            endpoint.idle.append(connection)
            if self._waiting:
                self._wake()

    async def _room(self, until: float) -> None:
        """Wait for a connection to become free or closed; raises `NotSent` when none does in time."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(until):
                await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # it came with the end of the wait: somebody else may have it
            raise NotSent(problems.OVERLOADED, "All connections to the contact centre are in use.") from None
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _put_off(self, endpoint: Endpoint) -> None:
        endpoint.retry_at = self._loop.time() + endpoint.backoff * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        endpoint.backoff = min(endpoint.backoff * 2, _MOST_BACKOFF)

    def _closed(self, connection: Connection) -> None:
        for endpoint in self.endpoints:
            if connection in endpoint.open:
                endpoint.open.discard(connection)
                if connection.unsolicited:
                    self._suspect(endpoint)
                if connection in endpoint.idle:
                    endpoint.idle.remove(connection)
                self._wake()

    def _suspect(self, endpoint: Endpoint) -> None:
        """Use each connection to an endpoint for one request only, for a while.

        It answers what nobody asked. HTTP/1.1 can't tell such an answer, coming a moment later on a connection that
        is in use again, from the one to the next request.
        """
        endpoint.suspect_until = self._loop.time() + _SUSPECT_SECONDS
        for connection in endpoint.idle[:]:
            connection.retire()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


def _not_sent(exc: Exception) -> NotSent:
    """What a failure to connect means. In this phase nothing of a request has been written."""
    if isinstance(exc, NotSent):
        return exc
    if isinstance(exc, ssl.SSLCertVerificationError):
        return NotSent(
            problems.UPSTREAM_UNTRUSTED,
            "The contact centre's certificate failed verification; nothing was sent.",
        )
    if isinstance(exc, ssl.SSLError):
        return NotSent(problems.UPSTREAM_UNREACHABLE, "No TLS connection to the contact centre could be agreed.")
    if isinstance(exc, TimeoutError):
        return NotSent(problems.UPSTREAM_UNREACHABLE, "Connecting to the contact centre took too long.")
    return NotSent(problems.UPSTREAM_UNREACHABLE, "The contact centre can't be reached.")


def _gravest(failures: list[NotSent]) -> NotSent:
    """Of several endpoints' failures the one that an operator has to know of: a certificate that can't be trusted."""
    untrusted = [failure for failure in failures if failure.problem is problems.UPSTREAM_UNTRUSTED]
    return (untrusted or failures)[-1]


def _note(record: Record, endpoint: Endpoint, outcome: Outcome, duration: float) -> None:
    record.tried(Attempt(endpoint.name, outcome, None, duration), endpoint.host, endpoint.port)
