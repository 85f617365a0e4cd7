"""All accounts of a configuration, and what they share: the store, and the applications at API Fabrics.

Owns their building, and which of them live on under a new configuration with their tokens and sessions. Refuses to
change anything before everything that may fail has been done.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway import config
from gateway.config import ApplyToken, Configuration
from gateway.model import Secret
from gateway.store import MemoryStore, Seal, Store, Vault
from gateway.telemetry import Telemetry
from gateway.tokens import Account, ApiFabric, App, AppliedSource, StaticSource, User
from gateway.upstream import PeerPolicy, client_context, settings_digest

_PREPARE_SECONDS: Final = 2.0


class Roster:
    """The accounts by name. `wall` is in epoch seconds; `reseals` is as of `Vault`.

    To be used from one event loop, and to be closed.
    """

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        wall: Callable[[], float] = time.time,
        *,
        reseals: bool = True,
    ) -> None:
        self._telemetry = telemetry
        self._wall = wall
        self._store, authenticate = build_store(configuration.store, wall)
        self._authenticate = authenticate
        seal = Seal([key.value for key in configuration.store.encryption_keys])
        kind, log, metrics = configuration.store.url.kind, telemetry.log, telemetry.metrics
        self.vault = Vault(kind, self._store, seal, log, metrics, reseals=reseals)
        self._fabrics: dict[bytes, ApiFabric] = {}
        self._watching: asyncio.Task[None] | None = None
        self.accounts: Mapping[str, Account] = {}
        self._follow(configuration, self._applications(configuration))

    async def prepare(self) -> None:
        """Learn what other replicas know, and begin to obtain what is lacking."""
        if self._store.shared:
            self._watching = asyncio.create_task(self.vault.watch())
            # A token of the store is better than the first one of a file, which it may have taken the place of.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PREPARE_SECONDS):
                    await asyncio.gather(*(account.looked() for account in self.accounts.values()))
        for account in self.accounts.values():
            account.tend()

    def replacement(self, configuration: Configuration) -> Callable[[], None]:
        """What makes these the accounts of another configuration. Raises `OSError` now, and nothing then."""
        applications = self._applications(configuration)
        seal = Seal([key.value for key in configuration.store.encryption_keys])

        def replace() -> None:
            self.vault.seal = seal
            self._authenticate(configuration.store)
            self._follow(configuration, applications)
            for account in self.accounts.values():
                account.tend()
            self.vault.tell_all()

        return replace

    def usable(self) -> bool:
        """Whether a request could be sent for one of the accounts."""
        return any(account.credential() is not None for account in self.accounts.values())

    def status(self) -> dict[str, Any]:
        """What `/status` says of the store."""
        return {"kind": self.vault.kind, "available": self.vault.available}

    def certificate_expires(self) -> float | None:
        """When the first certificate of a fabric expires, in epoch seconds, of those that were seen lately."""
        expiries = (fabric.certificate_expires() for fabric in self._fabrics.values())
        return min((at for at in expiries if at is not None), default=None)

    async def close(self) -> None:
        """End what runs, and let go of the store."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(account.close() for account in self.accounts.values()))
        await asyncio.gather(*(fabric.close() for fabric in self._fabrics.values()))
        await self.vault.close()

    # --- inside

    def _applications(self, configuration: Configuration) -> dict[str, tuple[bytes, ApiFabric]]:
        """By account, for those that apply for tokens: their application and its identity; those that there are go on.

        Their files are read here, and once: what changes in them meanwhile is the next change.
        """
        fabrics = dict(self._fabrics)
        applications: dict[str, tuple[bytes, ApiFabric]] = {}
        for name, account in configuration.accounts.items():
            if (applying := account.apply_token) is not None:
                identity = _identity(applying)
                fabric = fabrics[identity] = fabrics.get(identity) or _fabric(applying)
                applications[name] = identity, fabric
        return applications

    def _follow(self, configuration: Configuration, applications: Mapping[str, tuple[bytes, ApiFabric]]) -> None:
        before, self._fabrics = self._fabrics, dict(applications.values())
        sources = {
            name: self._source(settings, applications[name][1] if name in applications else None)
            for name, settings in configuration.accounts.items()
        }
        former = self.accounts
        heirs = _heirs(former, sources)
        for name, account in former.items():
            if heirs.get(name) is not account:
                self._telemetry.metrics.forget_account(name)
        self.accounts = {
            name: self._account(name, settings, sources[name], heirs.get(name))
            for name, settings in configuration.accounts.items()
        }
        # Also one whose name goes on with another user: it would refresh for the former one for ever.
        living = set(self.accounts.values())
        ended = [account for account in former.values() if account not in living]
        gone = [fabric for identity, fabric in before.items() if identity not in self._fabrics]
        if ended or gone:
            closing = asyncio.gather(*(account.close() for account in ended), *(f.close() for f in gone))
            self._closing = closing  # a task that nobody holds may be collected before it ends

    def _account(
        self, name: str, settings: config.Account, source: AppliedSource | StaticSource, present: Account | None
    ) -> Account:
        lasts = settings.lifetime_seconds
        if present is None:
            log, metrics = self._telemetry.log, self._telemetry.metrics
            account = Account(name, source, self.vault, log, metrics, lasts=lasts, wall=self._wall)
            if isinstance(source, StaticSource):
                account.take(source.first())
            return account
        newer = None
        if isinstance(source, StaticSource) and isinstance(present.source, StaticSource):
            newer = present.source.follow(source, present.generation)
            source = present.source
        elif isinstance(source, AppliedSource) and isinstance(present.source, AppliedSource):
            source.follow(present.source)
        present.follow(name, source, lasts, newer)
        return present

    def _source(self, settings: config.Account, fabric: ApiFabric | None) -> AppliedSource | StaticSource:
        if settings.apply_token is not None and fabric is not None:
            return self._applied(settings.apply_token, fabric, settings.lifetime_seconds)
        reference = settings.token
        assert reference is not None  # noqa: S101 - one of the two is there, or the configuration is at fault
        return StaticSource(reference.value, reference.reread, reference.origin, self.vault, self._wall)

    def _applied(self, applying: ApplyToken, fabric: ApiFabric, lasts: float) -> AppliedSource:
        user = User(applying.user_id, applying.user_name or applying.user_id, applying.channel_id, applying.locale)
        url, channel, name = str(applying.url).encode(), applying.channel_id.encode(), applying.user_id.encode()
        # The application stands for the tenant, whom the configuration does not name. A user whose application has
        # another key still has the calls that were made with the one before.
        return AppliedSource(
            fabric,
            user,
            (url, applying.app_key.value.reveal(), channel, name),
            (url, channel, name),
            self.vault,
            lasts=lasts,
            timeout=applying.timeout_seconds,
            wall=self._wall,
        )


def build_store(settings: config.Store, wall: Callable[[], float]) -> tuple[Store, Callable[[config.Store], None]]:
    """The store of a configuration, and what takes over a password that has changed."""
    address = settings.url
    # What a kind of store needs is imported when it is configured: `redis` is an extra.
    if address.kind == "memory":
        return MemoryStore(wall), lambda _: None
    if address.kind == "sqlite":
        from gateway.store.sqlite import SqliteStore  # noqa: PLC0415

        return SqliteStore(address.path, wall), lambda _: None
    from gateway.store.redis import RedisServer, RedisStore  # noqa: PLC0415

    def server(settings: config.Store) -> RedisServer:
        return RedisServer(
            address.host,
            address.port,
            address.database,
            tls=address.kind == "rediss",
            ca=settings.tls.ca,
            certificate=settings.tls.certificate,
            key=settings.tls.key,
            username=settings.username,
            password=settings.password.value if settings.password is not None else None,
        )

    store = RedisStore(server(settings))
    return store, lambda changed: store.authenticate(server(changed))


def _heirs(former: Mapping[str, Account], sources: Mapping[str, AppliedSource | StaticSource]) -> dict[str, Account]:
    """Which of the accounts that there are goes on as which: the one with the same user, whatever its name is now.

    A name whose token is in a file goes on with the next one there.
    """
    heirs = {
        name: account for name, account in former.items() if name in sources and sources[name].key == account.source.key
    }
    left = {account.source.key: account for name, account in former.items() if name not in heirs}
    heirs |= {
        name: left.pop(source.key) for name, source in sources.items() if name not in heirs and source.key in left
    }
    for account in left.values():
        source = sources.get(account.name)
        if account.name not in heirs and isinstance(source, StaticSource) and isinstance(account.source, StaticSource):
            heirs[account.name] = account
    return heirs


def _fabric(applying: ApplyToken) -> ApiFabric:
    tls = applying.tls
    app = App(applying.url.host, applying.url.port, applying.app_key.value, applying.app_secret.value)
    return ApiFabric(app, PeerPolicy(client_context(tls), tls.server_name, certified=tls.certificate is not None))


def _identity(applying: ApplyToken) -> bytes:
    """What makes an application at a fabric another one: a digest. Raises `OSError`."""
    secrets: list[Secret] = [applying.app_key.value, applying.app_secret.value]
    parts = [str(applying.url).encode(), *(secret.reveal() for secret in secrets), settings_digest(applying.tls)]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).digest()
