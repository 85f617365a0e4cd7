"""Owns the simulated contact centre as a whole: its listeners, its state, and what tests and operators may do to it.

Refuses to be part of the gateway: nothing is shared with the client that it is there to examine.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.simulator.calls import Call, Calls, Stages
from gateway.simulator.certificates import NSLB_NAME, Certificates, Pair, write_private
from gateway.simulator.control import Control
from gateway.simulator.fabric import Fabric
from gateway.simulator.faults import Fault, Faults
from gateway.simulator.nslb import Adapter, Nslb
from gateway.simulator.server import HOST, Listener, Records
from gateway.simulator.tokens import CHANNEL, TENANT, Holder, Tokens
from gateway.simulator.wire import Received

APP_KEY, APP_SECRET = "simulated-app", "simulated-secret"
FABRIC_NAME = "fabric.example"
USER = "gateway-sales"


class Simulator:
    """NSLB and the API Fabric over TLS, with a control port, all on 127.0.0.1; an async context manager.

    `directory` receives `ca.pem` and the certificates, unless `certificates` are given. Ports: 0 is any. Times are in
    seconds; see `Stages` for those of a call (None: only when pushed), `Calls` for `agents` and `second_create`,
    `Nslb` for `accept_header` and `renew_in_band`. `clock` gives seconds since the epoch and decides when tokens
    expire. With `client_ca` NSLB asks for a client's certificate. `apps` are the API Fabric's secrets by app key.
    `keep` is how many received requests are remembered at least (None: all).

    `received` holds every request whose head arrived at NSLB, in order; `fabric_received` those at the API Fabric.
    `connections` and `fabric_connections` count the TCP connections accepted so far.
    """

    def __init__(  # noqa: PLR0913  each is a property of the upstream that some test changes alone
        self,
        directory: Path,
        *,
        certificates: Certificates | None = None,
        nslb_ports: Sequence[int] = (0,),
        fabric_port: int = 0,
        control_port: int = 0,
        token_lifetime: float = 3600.0,
        queue_seconds: float | None = 0.5,
        connect_seconds: float | None = 0.5,
        talk_seconds: float | None = 30.0,
        poll_seconds: float = 25.0,
        agents: int | None = None,
        second_create: str = "accept",
        accept_header: bool = False,
        renew_in_band: str = "off",
        apps: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        server_pair: Pair | None = None,
        minimum_version: ssl.TLSVersion | None = None,
        maximum_version: ssl.TLSVersion | None = None,
        client_ca: Path | None = None,
        keep: int | None = None,
    ) -> None:
        self.certificates = certificates or Certificates(directory)
        self.server_name = NSLB_NAME
        self.fabric_name = FABRIC_NAME
        self.received: list[Received] = []
        self.fabric_received: list[Received] = []
        self.faults = Faults()
        self.tokens = Tokens(token_lifetime, clock)
        self.calls = Calls(
            Stages(queue_seconds, connect_seconds, talk_seconds),
            agents=agents,
            second_create=second_create,
            changed=self._changed,
        )
        self.adapter = Adapter(self.tokens, self.calls, poll_seconds)
        self.nslb = Nslb(self.adapter, accept_header=accept_header, renew_in_band=renew_in_band)
        self.fabric = Fabric(self.adapter, apps={APP_KEY: APP_SECRET} if apps is None else apps, clock=clock)
        self.token_files: dict[str, Path] = {}
        self._keep = keep
        self._change = asyncio.Event()
        self._ports = (*nslb_ports, fabric_port)
        pair = server_pair or self.certificates.issue("nslb")
        context = server_context(pair, minimum_version, maximum_version, client_ca)
        records = Records(partial(self._record, self.received), self._changed, clock)
        self._nslb_listeners = [
            Listener(self.nslb, context, self.faults, records, index=index) for index, _ in enumerate(nslb_ports)
        ]
        pair = self.certificates.issue("fabric", hosts=(FABRIC_NAME, "localhost", HOST))
        self._fabric_listener = Listener(
            self.fabric,
            server_context(pair),
            self.faults,
            Records(partial(self._record, self.fabric_received), self._changed, clock),
        )
        self._control = Control(self, control_port)

    async def start(self) -> None:
        """Open every port. `OSError` if one is taken; nothing stays open then."""
        try:
            for listener, port in zip(self._listeners, self._ports, strict=True):
                listener.open(port)
            await self._control.start()
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close every port and connection; calls and polls end. May be called twice."""
        self.calls.stop()
        await self._control.stop()
        await asyncio.gather(*(listener.stop() for listener in self._listeners))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _listeners(self) -> list[Listener]:
        return [*self._nslb_listeners, self._fabric_listener]

    @property
    def ca(self) -> Path:
        """The authority that signed the servers' certificates (PEM)."""
        return self.certificates.ca

    @property
    def endpoints(self) -> list[str]:
        """The addresses of NSLB: `https://127.0.0.1:<port>`, one for each of its ports."""
        return [f"https://{HOST}:{listener.port}" for listener in self._nslb_listeners]

    @property
    def fabric_url(self) -> str:
        """The address of the API Fabric: `https://127.0.0.1:<port>`."""
        return f"https://{HOST}:{self._fabric_listener.port}"

    @property
    def control_url(self) -> str:
        """The address of the control port: `http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self._control.port}"

    @property
    def connections(self) -> int:
        """TCP connections accepted at NSLB so far."""
        return sum(listener.accepted for listener in self._nslb_listeners)

    @property
    def fabric_connections(self) -> int:
        """TCP connections accepted at the API Fabric so far."""
        return self._fabric_listener.accepted

    @property
    def session_mixups(self) -> int:
        """How many requests brought the session of another user than the token's."""
        return self.nslb.session_mixups

    @property
    def rings(self) -> int:
        """How many phones rang: the creates that were carried out, by NSLB or the API Fabric, answered or not."""
        return len(self.calls.all)

    @property
    def polls(self) -> int:
        """How many long polls wait now."""
        return self.calls.polls()

    def creates(self) -> list[Received]:
        """The requests for a call that NSLB received, in order, whatever became of them."""
        return [request for request in self.received if request.operation == "create"]

    def issue_token(self, user: str = USER, tenant: str = TENANT, channel: str = CHANNEL) -> str:
        """Apply for a token for that user, which supersedes the one before; its file, if it has one, follows."""
        token = self.tokens.issue(Holder(tenant, channel, user))
        if user in self.token_files:
            write_private(self.token_files[user], token.encode("ascii"))
        return token

    def expire(self, user: str | None = None) -> None:
        """Every current token, or that user's, has expired now."""
        self.tokens.expire(user)

    def fault(self, fault: Fault) -> None:
        """Order a fault; those ordered first are met first."""
        self.faults.add(fault)

    def clear_faults(self) -> None:
        """Forget every fault that was not met yet."""
        self.faults.clear()

    def script(self, *outcomes: str) -> None:
        """What becomes of the next calls: `connect`, `timeout` or `fail`. `ValueError` for another word."""
        self.calls.script(*outcomes)

    def push(
        self,
        description: str,
        user: str = USER,
        *,
        content: dict[str, object] | None = None,
        event_id: int | str | None = None,
    ) -> Call:
        """Make an event of the user's live call due now. `LookupError` if there is no such call."""
        return self.calls.push(user, description, content, event_id)

    async def refuse(self, endpoint: int = 0) -> None:
        """New connections to that NSLB address are refused from now on; those that stand go on."""
        await self._nslb_listeners[endpoint].shut()

    def admit(self, endpoint: int = 0) -> None:
        """Listen at that NSLB address again, on the port that it had."""
        self._nslb_listeners[endpoint].open()

    def reset_idle(self) -> int:
        """RST on every NSLB connection without a request under way, now; how many that were."""
        idle = [connection for listener in self._nslb_listeners for connection in listener.idle()]
        for connection in idle:
            connection.reset()
        return len(idle)

    def close_idle(self) -> int:
        """The same, but closed as TLS has it."""
        idle = [connection for listener in self._nslb_listeners for connection in listener.idle()]
        for connection in idle:
            connection.close()
        return len(idle)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until the condition holds, which is asked again whenever something happens here. `TimeoutError`."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._change.clear()
                await self._change.wait()

    def _record(self, kept: list[Received], received: Received) -> None:
        kept.append(received)
        if self._keep is not None and len(kept) > 2 * self._keep:
            del kept[: -self._keep]
        self._changed()

    def _changed(self) -> None:
        self._change.set()


def server_context(
    pair: Pair,
    minimum: ssl.TLSVersion | None = None,
    maximum: ssl.TLSVersion | None = None,
    client_ca: Path | None = None,
) -> ssl.SSLContext:
    """A server's TLS: HTTP/1.1 only; with `client_ca`, a client's certificate is required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["http/1.1"])
    if minimum is not None:
        context.minimum_version = minimum
    if maximum is not None:
        context.maximum_version = maximum
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
