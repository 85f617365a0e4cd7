"""One HTTP/1.1 connection to an endpoint that knows which phase it is in.

Owns the transport, the reading of one answer at a time, and the knowledge whether bytes of a request may have
left. Refuses whatever a general client would do on its own: no second try, no redirect, no cookie, no
decompression, no answer that nobody asked for, none over `MOST_ANSWER_BYTES`.

What is known in which phase (design, "The life of a `POST /dial`", 7):

    connecting            nothing was sent
    ready                 nothing was sent; the peer closing now only costs a connection
    queued                a request is to be written at the end of this turn of the event loop; nothing was sent
    sent, answering       it may have been carried out: a failure is `unknown`
    closed                of no more use
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

import httptools

from gateway import problems
from gateway.problems import ProblemType
from gateway.upstream.failures import NotSent, SentUnanswered, nothing_sent
from gateway.upstream.reply import BRINGING, FIELDS, Reply
from gateway.upstream.tls import refuses_our_certificate

MOST_ANSWER_BYTES: Final = 64 * 1024
# The fields of an answer that anybody reads; the others are dropped as they arrive.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_TRUSTED_SECONDS: Final = 1.0
_SWITCHING_PROTOCOLS: Final = 101
_FIRST_FINAL_STATUS: Final = 200


class Phase(Enum):
    """Where a connection stands; see the module."""

    CONNECTING = 0
    READY = 1
    QUEUED = 2
    SENT = 3
    ANSWERING = 4
    CLOSED = 5


class Connection(asyncio.Protocol):
    """One connection; made by `asyncio`, ready when `connection_made` was called.

    `unsolicited` says that it was closed for an answer, or a piece of one, that nobody had asked for.
    `closed` is called once, when the connection is of no more use. `certified` says whether a certificate of ours
    is shown to a server that asks for one.
    """

    __slots__ = (
        "_body",
        "_brought",
        "_certified",
        "_closed",
        "_complete",
        "_deadline",
        "_fields",
        "_framed",
        "_headed",
        "_keep",
        "_loop",
        "_parser",
        "_poll",
        "_size",
        "_status",
        "_timer",
        "_tls_version",
        "_transport",
        "_waiter",
        "answered",
        "idle_since",
        "opened",
        "peer_not_after",
        "phase",
        "unsolicited",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, closed: Callable[[Connection], None], *, certified: bool = False
    ) -> None:
        self._loop = loop
        self._closed = closed
        self._certified = certified
        self._tls_version: str | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._fields: list[tuple[bytes, bytes]] = []
        self._brought: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._status = 0
        self._framed = False
        self._headed = False
        self._complete = False
        self._keep = False
        self.answered = 0
        self.idle_since = 0.0
        self.opened = 0.0
        self.peer_not_after: float | None = None
        self.phase = Phase.CONNECTING
        self.unsolicited = False

    # --- what the pool asks of it

    def usable(self) -> bool:
        """Whether a request can be written now.

        The event loop may not have got round yet to reading that the peer has closed, so the socket itself is
        asked: on an idle connection anything to read is its end or an answer to nothing, and neither is a
        connection to trust with a call. Peers give up connections that are idle, so one that has just been used
        is not asked: that would be a tenth of a dial.
        """
        transport = self._transport
        if self.phase is not Phase.READY or transport is None or transport.is_closing():
            return False
        idle = self._loop.time() - self.idle_since
        if idle > _TRUSTED_SECONDS and self._poll is not None and self._poll.poll(0):
            self.close()
            return False
        return True

    def send(self, request: bytes, timeout: float) -> asyncio.Future[Reply]:
        """Take a whole request, and write it at the end of this turn of the event loop.

        The requests of one turn are written one behind the other: a peer that is woken for each costs more than
        all that is done with a request in between. The future gives the answer, or raises `SentUnanswered`, or
        `NotSent` if nothing was written or for a refused certificate (see above). `timeout` is in seconds, for the
        whole of the answer. Raises `NotSent` if the connection has gone.
        """
        transport = self._transport
        if self.phase is not Phase.READY or transport is None or transport.is_closing():
            raise nothing_sent()
        self._fields = []
        self._brought = []
        self._body = []
        self._size = 0
        self._framed = self._headed = self._complete = False
        waiter = self._waiter = self._loop.create_future()
        deadline = self._deadline = self._loop.time() + timeout
        if self._timer is None or self._timer.when() > deadline:
            self._arm(deadline)
        self.phase = Phase.QUEUED
        self._loop.call_soon(self._write, request)
        return waiter

    def retire(self) -> None:
        """Close an idle connection politely."""
        self._shut(abort=False)

    def close(self) -> None:
        """Close at once and for good; a request under way fails, as `NotSent` or `SentUnanswered`."""
        self._fail(problems.UPSTREAM_DISCONNECTED, "The connection was closed before the answer was whole.")

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done and the certificate verified."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._tls_version = tls.version()
            self.peer_not_after = ssl.cert_time_to_seconds(tls.getpeercert()["notAfter"])
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.phase = Phase.READY
        self.opened = self.idle_since = self._loop.time()

    def data_received(self, data: bytes) -> None:
        """Read a piece of an answer."""
        if self.phase is not Phase.SENT and self.phase is not Phase.ANSWERING:
            self.unsolicited = True
            self.close()
            return
        self.phase = Phase.ANSWERING
        self._size += len(data)
        if self._size > MOST_ANSWER_BYTES:
            self._invalid("The contact centre's answer is too large.")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._invalid("The contact centre's answer switches to another protocol.")
            return
        except httptools.HttpParserError:
            # The answer that was asked for is whole; what is wrong came behind it.
            if not self._complete:
                self._invalid("The contact centre's answer is not HTTP.")
                return
            self.unsolicited = True
            self._deliver(keep=False)
            return
        if self._complete:
            self._deliver(keep=self._keep)

    def eof_received(self) -> bool:
        """The peer sends no more. An answer without a length ends here (RFC 9112, 6.3).

        Were it cut short, its JSON would not be whole, and it would be refused for that.
        """
        if self.phase is Phase.ANSWERING and self._headed and not self._framed:
            self._deliver(keep=False)
        else:
            self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone."""
        if (
            isinstance(exc, ssl.SSLError)
            and refuses_our_certificate(exc.reason, self._tls_version, certified=self._certified)
            and self.phase is Phase.SENT
            and not self.answered
            and self._waiter is not None
            and not self._waiter.done()
        ):
            self._waiter.set_exception(
                NotSent(problems.UPSTREAM_UNREACHABLE, "The contact centre refused the gateway's certificate.")
            )
        self.close()

    # --- httptools

    def on_message_begin(self) -> None:
        """A second message on the heels of an answer answers nothing: no more of this connection."""
        if self._complete:
            msg = "unsolicited"
            raise ValueError(msg)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        lowered = name.lower()
        if lowered in _FRAMING:
            self._framed = True
        elif lowered in FIELDS:
            self._fields.append((lowered, value))
        elif lowered in BRINGING:
            self._brought.append((lowered, value))

    def on_headers_complete(self) -> None:
        """Note that the header section is whole."""
        self._headed = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Note the end, unless that was an interim answer (RFC 9110, 15.2), which is skipped."""
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL_STATUS and status != _SWITCHING_PROTOCOLS:
            self._fields = []
            self._brought = []
            self._framed = self._headed = False
        else:
            # Kept now: the parser forgets them as soon as anything follows.
            self._status = status
            self._keep = self._parser.should_keep_alive()
            self._complete = True

    # --- inside

    def _write(self, request: bytes) -> None:
        transport = self._transport
        if self.phase is not Phase.QUEUED or transport is None:
            return
        if transport.is_closing():
            self.close()
            return
        # From here on it may have left, whatever `write` says.
        self.phase = Phase.SENT
        try:
            transport.write(request)
        except BaseException:
            self.close()
            raise

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        # One timer serves many requests: it looks at the deadline of the present one when it goes off.
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._arm(self._deadline)
            return
        self._fail(problems.UPSTREAM_TIMEOUT, "The request was sent, and no answer came in time.")

    def _deliver(self, *, keep: bool) -> None:
        waiter, self._waiter = self._waiter, None
        status = self._status if self._complete else self._parser.get_status_code()
        reply = Reply(status, self._fields, b"".join(self._body), self._brought)
        self.answered += 1
        self.phase = Phase.READY
        if not keep:
            self._shut(abort=False)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def _invalid(self, detail: str) -> None:
        self._fail(problems.UPSTREAM_INVALID_RESPONSE, detail)

    def _fail(self, problem: ProblemType, detail: str) -> None:
        waiter, self._waiter = self._waiter, None
        failure = nothing_sent() if self.phase is Phase.QUEUED else SentUnanswered(problem, detail)
        self._shut(abort=True)
        if waiter is not None and not waiter.done():
            waiter.set_exception(failure)

    def _shut(self, *, abort: bool) -> None:
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport, self._transport = self._transport, None
        if transport is not None:
            if abort:
                transport.abort()
            else:
                transport.close()
        self._closed(self)
