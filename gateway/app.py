"""The composition root: from a configuration to the parts that serve a request, put together.

Owns which part gets which setting, and what of the old configuration lives on in a new one (connections, tokens,
gauges). Refuses everything else: no rule of the gateway is made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway import __version__, problems
from gateway.auth import ApiKey, ApiKeys
from gateway.config import Configuration, Endpoint, Service, Upstream
from gateway.config.files import certificate_expiry
from gateway.http import CallersApi, Runtime
from gateway.http.dial import Accounts
from gateway.model import Principal
from gateway.roster import Roster
from gateway.telemetry import Telemetry
from gateway.upstream import Nslb, PeerPolicy, Pool, PoolSettings, client_context, settings_digest


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
        self._telemetry = telemetry
        self.configuration = configuration
        self._identity = _identity(configuration.upstream)
        self._pool = endpoint_pool(configuration.upstream, configuration.upstream.endpoints, loop)
        self.roster = Roster(configuration, telemetry, wall)
        runtime = self._runtime(configuration, self._pool)
        self.api = CallersApi(runtime, telemetry, body_timeout=configuration.listen.timeouts.body, wall=wall)
        self._settle(configuration, _expiries(configuration))

    async def prepare(self) -> None:
        """Begin to obtain tokens, and learn of those that other replicas have."""
        await self.roster.prepare()

    async def replace(self, configuration: Configuration) -> None:
        """Serve by this configuration from the next request on. Nothing has changed if it raises."""
        old_pool = self._pool
        identity = _identity(configuration.upstream)
        kept = identity == self._identity
        upstream = configuration.upstream
        pool = old_pool if kept else endpoint_pool(upstream, upstream.endpoints, self._loop)
        expiries = _expiries(configuration)
        replace_accounts = self.roster.replacement(configuration)
        # Nothing fails from here on.
        replace_accounts()
        self._identity = identity
        self._pool = pool
        self.api.runtime = self._runtime(configuration, pool)
        self.api.body_timeout = configuration.listen.timeouts.body
        self.configuration = configuration
        self._loaded = self._wall()
        self._settle(configuration, expiries)
        if not kept:
            await old_pool.close()

    def tend(self) -> None:
        """Look after connections. To be called about once a second."""
        self._pool.tend()

    async def close(self) -> None:
        """Close the connections to NSLB, and end what is done for tokens."""
        await self._pool.close()
        await self.roster.close()

    def status(self) -> dict[str, Any]:
        """The document of `/status`: names, numbers and times; it also sets the gauges that it knows of."""
        metrics = self._telemetry.metrics
        metrics.forget_connections()
        endpoints = []
        expiries = []
        for endpoint in self._pool.endpoints:
            idle = len(endpoint.idle)
            busy = len(endpoint.open) - idle
            metrics.connections(endpoint.name, idle, busy)
            if endpoint.peer_not_after is not None:
                expiries.append(endpoint.peer_not_after)
            endpoints.append(
                {
                    "endpoint": endpoint.name,
                    "connections": {"idle": idle, "busy": busy, "connecting": endpoint.connecting},
                    "certificate_expires": _rfc3339(endpoint.peer_not_after),
                    "suspect": endpoint.suspect_until > self._loop.time(),
                }
            )
        if expiries:
            metrics.certificate_expires("upstream", min(expiries))
        return {
            "version": __version__,
            "started": _rfc3339(self._started),
            "configuration_loaded": _rfc3339(self._loaded),
            "draining": self.api.draining,
            "requests_under_way": self.api.under_way,
            "endpoints": endpoints,
            "accounts": [_readable(account.status()) for account in self.roster.accounts.values()],
            "store": self.roster.status(),
            "services": sorted(self.configuration.services),
        }

    def _runtime(self, configuration: Configuration, pool: Pool) -> Runtime:
        keys = ApiKeys(
            ApiKey.until(credential.digest, credential.not_after, _principal(name, service))
            for name, service in configuration.services.items()
            for credential in service.credentials
        )
        upstream = configuration.upstream
        nslb = Nslb(
            pool,
            timeout=upstream.timeouts.response,
            token_header=upstream.token_header,
            result_codes={
                operation: {code: problems.rejection(mapping.code, mapping.status) for code, mapping in codes.items()}
                for operation, codes in upstream.result_codes.items()
            },
        )
        return Runtime(keys, Accounts(self.roster.accounts), nslb)

    def _settle(self, configuration: Configuration, expiries: Mapping[str, float]) -> None:
        metrics = self._telemetry.metrics
        self._telemetry.log.set_level(configuration.log.level)
        metrics.config_success.set(self._loaded)
        for role, at in expiries.items():
            metrics.certificate_expires(role, at)


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
    return Principal(name, tuple(service.accounts), frozenset(service.allow.media), frozenset(service.allow.operations))


def _readable(status: dict[str, Any]) -> dict[str, Any]:
    """The status of an account, its times as RFC 3339 has them."""
    last = status["last_refresh"]
    shown = status | {"token_expires": _rfc3339(status["token_expires"])}
    return shown if last is None else shown | {"last_refresh": last | {"at": _rfc3339(last["at"])}}


def _rfc3339(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
