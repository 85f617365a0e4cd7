"""The composition root: from a configuration to the parts that serve a request, put together.

Owns which part gets which setting, and what of the old configuration lives on in a new one (connections, tokens,
gauges). Refuses everything else: no rule of the gateway is made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from gateway import __version__, problems
from gateway.auth import ApiKey, ApiKeys
from gateway.calls import Accounts, Calls, Desk, Errands, Followings, Lines, Releases, Seat
from gateway.config import Configuration, Endpoint, Service, Upstream
from gateway.config.files import certificate_expiry
from gateway.http import CallersApi, Runtime, new_record
from gateway.idempotency import Keys
from gateway.model import Principal
from gateway.roster import Roster
from gateway.telemetry import Telemetry
from gateway.upstream import Nslb, PeerPolicy, Pool, PoolSettings, Reading, client_context, settings_digest

_LIMIT_MARGIN_SECONDS: Final = 30.0


class Gateway:
    """All parts of a running gateway but its listeners.

    Raises `OSError` or `ssl.SSLError` when a file of the configuration has changed since it was checked.
    """

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._wall = wall
        self._started = wall()
        self._loaded = self._started
        self._expiries: Mapping[str, float] = {}
        self._telemetry = telemetry
        self.configuration = configuration
        self._identity = _identity(configuration.upstream)
        self._pools = _pools(configuration.upstream, loop)
        self.roster = Roster(configuration, telemetry, wall)
        vault = self.roster.vault
        self._calls = Calls(vault)
        self._lines = Lines(vault, wall)
        upstream = configuration.upstream
        self._followings = Followings(
            self._calls,
            self._lines,
            vault,
            telemetry,
            lambda: new_record(telemetry),
            _nslb(upstream, *self._pools),
            upstream.timeouts.events,
        )
        self._releases = Releases(self._followings)
        self._errands = Errands()
        self._keys = Keys(vault, telemetry.metrics.idempotency, keep=0.0, limit=0.0, wall=wall)
        self._catching_up: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        runtime = self._runtime(configuration, self._followings.nslb)
        self.api = CallersApi(runtime, telemetry, body_timeout=configuration.listen.timeouts.body, wall=wall)
        self._settle(configuration, _expiries(configuration))

    async def prepare(self) -> None:
        """Begin to obtain tokens, and learn of those that other replicas have."""
        await self.roster.prepare()

    async def replace(self, configuration: Configuration) -> None:
        """Serve by this configuration from the next request on. Nothing has changed if it raises."""
        before = self._pools
        upstream = configuration.upstream
        identity = _identity(upstream)
        kept = identity == self._identity
        pools = before if kept else _pools(upstream, self._loop)
        expiries = _expiries(configuration)
        replace_accounts = self.roster.replacement(configuration)
        # Nothing fails from here on.
        replace_accounts()
        self._identity = identity
        self._pools = pools
        self._followings.nslb = _nslb(upstream, *pools)
        self._followings.poll_timeout = upstream.timeouts.events
        self.api.runtime = self._runtime(configuration, self._followings.nslb)
        self.api.common.body_timeout = configuration.listen.timeouts.body
        self.configuration = configuration
        self._loaded = self._wall()
        self._settle(configuration, expiries)
        if not kept:
            await asyncio.gather(*(pool.close() for pool in before))

    def tend(self) -> None:
        """Look after connections, and after what the store could not take. To be called about once a second."""
        for pool in self._pools:
            pool.tend()
        vault = self.roster.vault
        if not vault.available and (self._looking is None or self._looking.done()):
            self._looking = self._loop.create_task(vault.look())
        behind = self._followings.behind or self._lines.records.behind or self._keys.behind
        if behind and (self._catching_up is None or self._catching_up.done()):
            self._catching_up = self._loop.create_task(self._catch_up())

    async def close(self) -> None:
        """Close the connections to NSLB, and end what is done for calls and tokens."""
        await self._followings.close()
        await self._errands.finish()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._catching_up is not None:
            await asyncio.gather(self._catching_up, return_exceptions=True)
        await self._catch_up()
        await asyncio.gather(*(pool.close() for pool in self._pools))
        await self.roster.close()

    async def _catch_up(self) -> None:
        """Write what the store could not take when it happened, as far as it takes it now."""
        await self._keys.catch_up()
        await self._lines.records.settle()
        await self._followings.catch_up()

    def status(self) -> dict[str, Any]:
        """The document of `/status`: names, numbers and times; it also sets the gauges that it knows of."""
        metrics = self._telemetry.metrics
        metrics.forget_connections()
        endpoints = []
        now = self._loop.time()
        expiries = dict(self._expiries)
        if (expiry := self.roster.certificate_expires()) is not None:
            expiries["fabric"] = expiry
        for same in zip(*(pool.endpoints for pool in self._pools), strict=True):
            idle = sum(len(endpoint.idle) for endpoint in same)
            busy = sum(len(endpoint.open) for endpoint in same) - idle
            name, expires = same[0].name, max(same, key=attrgetter("peer_seen")).certificate_expires(now)
            metrics.connections(name, idle, busy)
            if expires is not None:
                expiries["upstream"] = min(expires, expiries.get("upstream", expires))
            endpoints.append(
                {
                    "endpoint": name,
                    "connections": {
                        "idle": idle,
                        "busy": busy,
                        "connecting": sum(endpoint.connecting for endpoint in same),
                    },
                    "certificate_expires": _rfc3339(expires),
                    "suspect": any(endpoint.suspect_until > now for endpoint in same),
                }
            )
        metrics.certificates_expire(expiries)
        return {
            "version": __version__,
            "started": _rfc3339(self._started),
            "configuration_loaded": _rfc3339(self._loaded),
            "draining": self.api.common.draining,
            "requests_under_way": self.api.under_way,
            "endpoints": endpoints,
            "accounts": [_readable(account.status()) for account in self.roster.accounts.values()],
            "store": self.roster.status(),
            "services": sorted(self.configuration.services),
        }

    def _runtime(self, configuration: Configuration, nslb: Nslb) -> Runtime:
        keys = ApiKeys(
            ApiKey.until(credential.digest, credential.not_after, _principal(name, service))
            for name, service in configuration.services.items()
            for credential in service.credentials
        )
        settings = configuration.accounts
        accounts = Accounts(
            {
                name: Seat(account, settings[name].exclusive, settings[name].max_call_seconds)
                for name, account in self.roster.accounts.items()
            }
        )
        self._keys.keep = configuration.idempotency.keep_seconds
        self._keys.limit = self._lines.limit = self._longest(configuration)
        self._lines.records.longest = max(settings[name].max_call_seconds for name in self.roster.accounts)
        desk = Desk(accounts, nslb, self._calls, self._lines, self._errands)
        return Runtime(keys, desk, self._followings, self._releases, self._keys)

    def _longest(self, configuration: Configuration) -> float:
        """How long a dial can take, from its record to its end: two tries, and the tokens for them. Seconds.

        Each try waits for a connection to become free, or goes from one endpoint to the next.
        """
        timeouts = configuration.upstream.timeouts
        connecting = timeouts.connect * (1 + len(configuration.upstream.endpoints))
        patience = max(account.source.patience for account in self.roster.accounts.values())
        return 2 * (connecting + timeouts.response + patience) + _LIMIT_MARGIN_SECONDS

    def _settle(self, configuration: Configuration, expiries: Mapping[str, float]) -> None:
        metrics = self._telemetry.metrics
        self._telemetry.log.set_level(configuration.log.level)
        metrics.config_success.set(self._loaded)
        endpoints = [endpoint.name for endpoint in self._pools[0].endpoints]
        metrics.expect(configuration.services, configuration.accounts, endpoints)
        self._expiries = expiries


def _expiries(configuration: Configuration) -> dict[str, float]:
    """When our own certificates expire, in epoch seconds, by their role."""
    certificates = {
        "client": configuration.upstream.tls.certificate,
        "listener": configuration.listen.tls.certificate if configuration.listen.tls is not None else None,
    }
    return {role: certificate_expiry(path) for role, path in certificates.items() if path is not None}


def _identity(upstream: Upstream) -> tuple[Upstream, bytes]:
    """What connections depend on: the settings, and what is in the files that they name."""
    return upstream, settings_digest(upstream.tls)


def _nslb(upstream: Upstream, pool: Pool, polls: Pool) -> Nslb:
    codes = {
        operation: {code: problems.rejection(mapping.code, mapping.status) for code, mapping in mappings.items()}
        for operation, mappings in upstream.result_codes.items()
    }
    timeouts = upstream.timeouts
    return Nslb(
        pool,
        polls,
        Reading(codes),
        timeout=timeouts.response,
        poll_timeout=timeouts.events,
        token_header=upstream.token_header,
    )


def _pools(upstream: Upstream, loop: asyncio.AbstractEventLoop) -> tuple[Pool, Pool]:
    """Connections for requests, and others for long polls, which would leave none for requests."""
    polling = upstream.model_copy(update={"connections": upstream.event_connections, "warm": 0})
    return endpoint_pool(upstream, upstream.endpoints, loop), endpoint_pool(polling, upstream.endpoints, loop)


def endpoint_pool(upstream: Upstream, endpoints: Sequence[Endpoint], loop: asyncio.AbstractEventLoop) -> Pool:
    """Connections to some of the endpoints, as configured. Raises `OSError` and `ssl.SSLError`."""
    tls = upstream.tls
    policy = PeerPolicy(client_context(tls), tls.server_name, certified=tls.certificate is not None)
    settings = PoolSettings(
        connect_timeout=upstream.timeouts.connect,
        connections=upstream.connections,
        warm=upstream.warm,
        idle_seconds=upstream.idle_seconds,
    )
    addresses = [(endpoint.host, endpoint.port, str(endpoint)) for endpoint in endpoints]
    return Pool(addresses, policy, settings, loop)


def _principal(name: str, service: Service) -> Principal:
    media, operations = frozenset(service.allow.media), frozenset(service.allow.operations)
    return Principal(name, tuple(service.accounts), media, operations, service.require_idempotency_key)


def _readable(status: dict[str, Any]) -> dict[str, Any]:
    """The status of an account, its times as RFC 3339 has them."""
    last = status["last_refresh"]
    shown = status | {"token_expires": _rfc3339(status["token_expires"])}
    return shown if last is None else shown | {"last_refresh": last | {"at": _rfc3339(last["at"])}}


def _rfc3339(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
