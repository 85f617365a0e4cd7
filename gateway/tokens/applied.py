"""Tokens that the gateway applies for, one replica at a time.

Owns the order of things that keeps replicas from ending each other's tokens: look into the store, take the lease,
look again, apply, write under the lease. Refuses to apply alone while the present token can still be sent: whoever
can't see the others might take theirs away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final

from gateway.model import Token
from gateway.store import Lease, Shelved, StoreUnavailable, Vault
from gateway.tokens.fabric import ApiFabric, User
from gateway.tokens.lifecycle import backoff, next_generation
from gateway.tokens.source import Postponed, RefreshFailed, Renewal

_LOOK_SECONDS: Final = 0.05
_STORE_AGAIN_SECONDS: Final = 1.0
# What is left of the lease when the fabric has had all of its time: for writing what it brought.
_LEASE_MARGIN_SECONDS: Final = 5.0


class AppliedSource:
    """Applies for the tokens of one user.

    `identity` is all that makes a user at a fabric another one. `lasts` is for how long a token is valid, `timeout`
    is for one refresh with all of its requests, both in seconds; `wall` is in epoch seconds.
    """

    origin = "apply_token"
    renews = True

    def __init__(  # noqa: PLR0913 - what a refresh needs
        self,
        fabric: ApiFabric,
        user: User,
        identity: tuple[bytes, ...],
        vault: Vault,
        *,
        lasts: float,
        timeout: float,
        wall: Callable[[], float],
    ) -> None:
        self.fabric = fabric
        self.user = user
        self.patience = timeout + _LEASE_MARGIN_SECONDS
        self._key = hashlib.sha256(b"\0".join((b"applied", *identity))).hexdigest()
        self._vault = vault
        self._lasts = lasts
        self._timeout = timeout
        self._wall = wall

    @property
    def key(self) -> str:
        """A digest of the identity."""
        return self._key

    async def renew(self, present: Token | None, usable: Callable[[], Token | None]) -> Renewal:
        """See `Source.renew`."""
        generation = present.generation if present is not None else 0
        try:
            return await self._in_turn(generation, usable)
        except StoreUnavailable:
            # Asked now, and not when this began: news may have come in between.
            if usable() is not None:
                raise Postponed(_STORE_AGAIN_SECONDS) from None
            return Renewal(await self._apply(generation), obtained=True, kept=False)

    async def _in_turn(self, generation: int, usable: Callable[[], Token | None]) -> Renewal:
        lease = await self._lease(generation, usable)
        if isinstance(lease, Renewal):
            return lease
        hold: float | None = 0.0
        try:
            # Whoever had the lease before may have written in the moment before it was ours.
            shelved = await self._vault.token(self._key)
            if (known := self._newer(shelved, generation)) is not None:
                return known
            after = shelved.generation if shelved is not None else 0
            token = await self._apply(max(generation, after))
            try:
                written = await self._vault.put(self._key, token, after=after, fence=lease.fence)
            except StoreUnavailable:
                written = False
                hold = None
            if written or hold is None:
                hold = None
                return Renewal(token, obtained=True, kept=written)
            # NSLB brought another one in band meanwhile, or this took longer than the lease.
            if (known := self._newer(await self._vault.token(self._key), generation)) is not None:
                return known
            raise RefreshFailed("too_late")
        except RefreshFailed as failure:
            # The next one waits, whichever replica it is: the fabric sees one of them.
            failure.wait = hold = backoff(lease.failures + 1)
            raise
        finally:
            if hold is not None:
                await self._release(lease, hold)

    async def _lease(self, generation: int, usable: Callable[[], Token | None]) -> Lease | Renewal:
        """Leave to apply for a token, or the token that somebody else has applied for meanwhile."""
        looks = round(self._timeout / _LOOK_SECONDS)
        while True:
            token = usable()
            if token is not None and token.generation > generation:
                return Renewal(token, obtained=False, kept=False)
            if (known := self._newer(await self._vault.token(self._key), generation)) is not None:
                return known
            lease = await self._vault.lease(self._key, self._timeout + _LEASE_MARGIN_SECONDS)
            if isinstance(lease, Lease):
                return lease
            if not lease.working:
                raise Postponed(lease.seconds)
            looks -= 1
            if looks < 0:
                raise Postponed(_LOOK_SECONDS)
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.001, lease.seconds)))

    async def _apply(self, generation: int) -> Token:
        asked = self._wall()
        try:
            async with asyncio.timeout(self._timeout):
                value = await self.fabric.apply(self.user)
        except TimeoutError:
            raise RefreshFailed("timeout") from None
        # Its time began when it was made, which nobody tells; it was not before it was asked for.
        return Token(value, next_generation(generation, self._wall()), asked, asked + self._lasts)

    def _newer(self, shelved: Shelved | None, generation: int) -> Renewal | None:
        """What the store has, if it is newer and can be sent."""
        if shelved is None or shelved.token is None or shelved.generation <= generation:
            return None
        token = shelved.token
        if token.expires is not None and self._wall() >= token.expires:
            return None
        return Renewal(token, obtained=False, kept=True)

    async def _release(self, lease: Lease, hold: float) -> None:
        try:
            await self._vault.release(self._key, fence=lease.fence, hold=hold)
        except StoreUnavailable:
            return
