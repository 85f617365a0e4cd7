"""Tokens that the gateway applies for, one replica at a time.

Owns the order of things that keeps replicas from ending each other's tokens: look into the store, take the lease,
look again, apply, write under the lease, over whatever NSLB sent meanwhile. Refuses to apply alone while the present
token can still be sent, or while somebody else does: whoever can't see the others might take theirs away.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.model import Token
from gateway.store import Lease, Shelved, StoreUnavailable, Vault
from gateway.tokens import standing
from gateway.tokens.fabric import ApiFabric, User
from gateway.tokens.lifecycle import Attempt, backoff, next_generation
from gateway.tokens.source import Postponed, RefreshFailed, Renewal

_LOOK_SECONDS: Final = 0.05
_STORE_AGAIN_SECONDS: Final = 1.0
# For how long a store is asked again before a token is applied for without it: less than the patience of who waits.
_STORE_MOMENT_SECONDS: Final = 1.0
# What is left of the lease when the fabric has had all of its time: for writing what it brought.
_LEASE_MARGIN_SECONDS: Final = 5.0
_MOST_WRITES: Final = 3


class AppliedSource:
    """Applies for the tokens of one user.

    `identity` is all that makes a user at a fabric another one. `lasts` is for how long a token is valid, `timeout`
    is for one refresh with all of its requests, both in seconds; `wall` is in epoch seconds.
    """

    origin = "apply_token"
    renews = True
    base = 0

    def __init__(  # noqa: PLR0913 - what a refresh needs
        self,
        fabric: ApiFabric,
        user: User,
        identity: tuple[bytes, ...],
        line: tuple[bytes, ...],
        vault: Vault,
        *,
        lasts: float,
        timeout: float,
        wall: Callable[[], float],
    ) -> None:
        self.fabric = fabric
        self.user = user
        # To the end of a lease whose holder is gone, and then for a refresh, if that takes no longer than it should.
        self.patience = timeout + 2 * _LEASE_MARGIN_SECONDS
        self.line: str | None = hashlib.sha256(b"\0".join((b"line", *line))).hexdigest()
        self._key = hashlib.sha256(b"\0".join((b"applied", *identity))).hexdigest()
        self._vault = vault
        self._lasts = lasts
        self._timeout = timeout
        self._wall = wall
        self._held: int | None = None
        self._frees = False

    def follow(self, former: AppliedSource) -> None:
        """Go on in the place of another one for the same user.

        What that one waits for after a failure is over if the application is another one: somebody has seen to it.
        """
        self._held = former._held
        self._frees = former._frees or self.fabric is not former.fabric

    @property
    def key(self) -> str:
        """A digest of the identity."""
        return self._key

    async def renew(self, attempt: Attempt) -> Renewal:
        """See `Source.renew`."""
        loop = asyncio.get_running_loop()
        give_up = math.inf
        while True:
            try:
                return await self._in_turn(attempt)
            except StoreUnavailable:
                # Asked now, and not when this began: news may have come in between.
                if attempt.usable(self._wall()) is not None:
                    raise Postponed(_STORE_AGAIN_SECONDS) from None
                self._wait_alone(attempt)
            # A store that is busy for a moment is no reason to end what another one has.
            give_up = min(give_up, loop.time() + _STORE_MOMENT_SECONDS)
            if loop.time() >= give_up:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        async with self.fabric.room:
            token = self._numbered(await self._apply(attempt), attempt, after=0)
        return Renewal(token, obtained=True, kept=False, alone=True)

    def _wait_alone(self, attempt: Attempt) -> None:
        """Apply for nothing yet if somebody else does. Raises `RefreshFailed`, and from then on `Postponed`."""
        known = attempt.displaced
        wait = attempt.wait_alone(self._wall())
        # The store is looked after all the while: it may be back long before that.
        if wait > 0 and attempt.displaced > known:
            raise RefreshFailed("displaced", min(wait, _STORE_AGAIN_SECONDS)) from None
        if wait > 0:
            raise Postponed(min(wait, _STORE_AGAIN_SECONDS)) from None

    async def _in_turn(self, attempt: Attempt) -> Renewal:
        """The token that is applied for in turn, or that somebody else has applied for meanwhile."""
        working = False
        while True:
            token = attempt.newer(self._wall())
            # While another one applies, what NSLB sent is not what is waited for: it may be over already.
            if token is not None and not working:
                return Renewal(token, obtained=False, kept=False)
            if (known := self._known(await self._vault.token(self._key), attempt)) is not None:
                return known
            await self._free()
            # Before the lease: no time of it is for waiting, and nobody waits for one who can't begin.
            async with self.fabric.room:
                until = self._wall() + self._timeout + _LEASE_MARGIN_SECONDS
                lease = await self._vault.lease(self._key, self._timeout + _LEASE_MARGIN_SECONDS)
                if isinstance(lease, Lease):
                    return await self._with(lease, until, attempt)
            if not lease.working:
                raise Postponed(lease.seconds, max(1, lease.failures))
            attempt.ask()
            working = True
            # To the end of the lease, which the store knows: its holder may have stalled, and then it is our turn.
            # Those who wait for that have a patience of their own.
            await asyncio.sleep(min(_LOOK_SECONDS, max(0.001, lease.seconds)))

    async def _with(self, lease: Lease, until: float, attempt: Attempt) -> Renewal:
        try:
            renewal = await self._under(lease, until, attempt)
        except RefreshFailed as failure:
            # The next one waits, whichever replica it is: the fabric sees one of them.
            failure.wait = backoff(lease.failures + 1)
            self._held = lease.fence
            await self._release(lease.fence, failure.wait)
            raise
        except BaseException:
            await self._release(lease.fence, 0.0)
            raise
        if not renewal.obtained:
            await self._release(lease.fence, 0.0)
        return renewal

    async def _under(self, lease: Lease, until: float, attempt: Attempt) -> Renewal:
        """The token that is applied for under a lease, unless there is one by now."""
        # Whoever had the lease before may have written in the moment before it was ours.
        shelved = await self._vault.token(self._key)
        if (known := self._known(shelved, attempt)) is not None:
            return known
        # NSLB may have sent one, which is not in the store yet.
        if (token := attempt.newer(self._wall())) is not None:
            return Renewal(token, obtained=False, kept=False)
        token = await self._apply(attempt)
        try:
            return await self._written(token, shelved, lease, until, attempt)
        except StoreUnavailable:
            # The lease is left to end by itself: the token may have been written, which ended it.
            token = self._numbered(token, attempt, after=standing.generation_of(shelved))
            return Renewal(token, obtained=True, kept=False)

    async def _written(
        self, token: Token, shelved: Shelved | None, lease: Lease, until: float, attempt: Attempt
    ) -> Renewal:
        """Write the token that was applied for over what is in the store, or take what was applied for since."""
        after: int | None = standing.generation_of(shelved)
        for _ in range(_MOST_WRITES):
            if after is None:
                break
            token = self._numbered(token, attempt, after=after)
            if await self._vault.put(self._key, token, after=after, fence=lease.fence):
                return Renewal(token, obtained=True, kept=True)
            shelved = await self._vault.token(self._key)
            after = standing.again(shelved, after)
        if (known := self._known(shelved, attempt)) is not None:
            return known
        if self._wall() < until:
            # Nobody can have had the next lease: the store has lost ours, and is given the token like any that it lost.
            token = self._numbered(token, attempt, after=standing.generation_of(shelved))
            return Renewal(token, obtained=True, kept=False)
        raise RefreshFailed("too_late")

    async def _apply(self, attempt: Attempt) -> Token:
        """A new token, which has no number yet."""
        attempt.ask()
        asked = self._wall()
        try:
            async with asyncio.timeout(self._timeout):
                value = await self.fabric.apply(self.user)
        except TimeoutError:
            raise RefreshFailed("timeout") from None
        # Its time began when it was made, which nobody tells; it was not before it was asked for.
        return Token(value, 0, asked, asked + self._lasts)

    def _numbered(self, token: Token, attempt: Attempt, *, after: int) -> Token:
        """With a generation after that one, and after what came meanwhile, which the application has ended."""
        return replace(token, generation=next_generation(max(after, attempt.latest), self._wall()))

    def _known(self, shelved: Shelved | None, attempt: Attempt) -> Renewal | None:
        """What the store has, if it makes the refresh needless."""
        token = standing.newer(shelved, attempt.generation, self._wall())
        return Renewal(token, obtained=False, kept=True) if token is not None else None

    async def _free(self) -> None:
        """End the time that nobody may apply in, if this process set it, and for another application."""
        if self._frees and self._held is not None:
            await self._release(self._held, 0.0)
            self._held, self._frees = None, False

    async def _release(self, fence: int, hold: float) -> None:
        try:
            await self._vault.release(self._key, fence=fence, hold=hold)
        except StoreUnavailable:
            return
