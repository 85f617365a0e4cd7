"""What an account has in common with its replicas: one place in the store.

Owns which generation the store is known to have, taking what is newer there, and putting ours there when it has
lost it. Refuses to put a token in the place of one that it has not seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.model import Token
from gateway.store import StoreUnavailable, Vault
from gateway.tokens import standing
from gateway.tokens.lifecycle import Lifecycle


class Sharing:
    """The place of one account, under a key.

    `take` is called with what is newer in the store; `wall` is in epoch seconds. To be used from one event loop, and
    to be closed.
    """

    def __init__(
        self, vault: Vault, key: str, life: Lifecycle, take: Callable[[Token], object], wall: Callable[[], float]
    ) -> None:
        self._vault = vault
        self._key = key
        self._life = life
        self._take = take
        self._wall = wall
        self._base = 0
        self._known = 0
        self._left = False
        self._looking = False
        self._look_again = False
        self.running: set[asyncio.Task[None]] = set()
        vault.follow(key, self.look)

    def move(self, key: str, base: int) -> None:
        """Go to another key, if it is another, where the generations are smaller than ours by `base`.

        How many tokens there were before belongs to this process alone; the store counts those under the key.
        """
        self._base = base
        if key != self._key:
            self._vault.leave(self._key, self.look)
            self._key = key
            self._known = 0
            self._vault.follow(key, self.look)

    def leave(self) -> None:
        """Follow no news any more, and begin nothing more."""
        self._left = True
        self._vault.leave(self._key, self.look)

    def has(self, generation: int) -> None:
        """The store has the token of that generation."""
        self._known = max(self._known, generation - self._base)

    def look(self) -> None:
        """Look into the store, soon: there may be a newer token, or it may want ours."""
        if self._looking:
            self._look_again = True
        elif not self._left:
            self._looking = True
            self._go(self._look())

    async def looked(self) -> None:
        """Look into the store now: take what it has if it is newer, give it ours if it has an older one, or none."""
        key, base = self._key, self._base
        try:
            shelved = await self._vault.token(key)
        except StoreUnavailable:
            return
        if (key, base) != (self._key, self._base):
            return
        self._known = standing.generation_of(shelved)
        now = self._wall()
        token = self._life.usable(now)
        if (newer := standing.newer(shelved, self._life.generation - base, now)) is not None:
            self._take(standing.counted(newer, base))
        elif token is not None and standing.lacks(shelved, standing.counted(token, -base)):
            await self._keep(key, standing.counted(token, -base))

    def catch_up(self) -> None:
        """Look into the store, soon, if it is not known to have ours."""
        if self._known < self._life.generation - self._base:
            self.look()

    def keep(self, token: Token) -> None:
        """Put a token into the store, soon, in the place of the one that it is known to have."""
        if not self._left:
            self._go(self._keep(self._key, standing.counted(token, -self._base)))

    # --- inside

    async def _look(self) -> None:
        try:
            while True:
                self._look_again = False
                await self.looked()
                if not self._look_again:
                    return
        finally:
            self._looking = False

    async def _keep(self, key: str, token: Token) -> None:
        """Put a token there under the number that it has there."""
        if key != self._key:
            return
        with contextlib.suppress(StoreUnavailable):
            kept = await self._vault.put(key, token, after=self._known, fence=None)
            if key != self._key:
                return
            if kept:
                self._known = max(self._known, token.generation)
            else:
                self.look()

    def _go(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
