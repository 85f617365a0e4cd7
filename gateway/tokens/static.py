"""Tokens that an operator puts into a file or a variable.

Owns where that is, and reading it again. Refuses to call the same value a newer token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from gateway.model import Secret, Token
from gateway.store import StoreUnavailable, Vault
from gateway.tokens import standing
from gateway.tokens.lifecycle import Attempt
from gateway.tokens.source import RefreshFailed, Renewal

_LOOK_AGAIN_SECONDS: Final = 0.0  # a file costs nobody anything, and is read for a request alone


class StaticSource:
    """One place where a token is kept.

    `read` fetches the present value, and raises `OSError` or `ValueError` if it can't. `wall` is in epoch seconds.
    What NSLB makes of a token in band belongs to that token: the store keeps it under a digest of the value that it
    began with, so that a new value in its place begins anew, in every replica. There it is counted from that value on:
    how many values a replica has had before is known to itself alone.
    """

    renews = False
    patience = 2.0
    line: str | None = None

    def __init__(
        self, value: Secret, read: Callable[[], Secret], origin: str, vault: Vault, wall: Callable[[], float]
    ) -> None:
        self.origin = origin
        self.base = 0
        self._value = value
        self._read = read
        self._vault = vault
        self._wall = wall

    @property
    def key(self) -> str:
        """A digest of the value. A token is random enough for that to tell nothing of it."""
        return hashlib.sha256(b"static\0" + self._value.reveal()).hexdigest()

    def first(self) -> Token:
        """The token that the configuration brought."""
        return Token(self._value, standing.FIRST_GENERATION, self._wall())

    def follow(self, other: StaticSource, generation: int) -> Token | None:
        """Go on in the place of another one, after that generation; the token that is there, if it is another."""
        self._read = other._read
        self.origin = other.origin
        return self._replaced(other._value, generation)

    async def renew(self, attempt: Attempt) -> Renewal:
        """What is kept there now, if it is another value than the last time, or what another replica knows."""
        try:
            value = self._read()
        except (OSError, ValueError):
            raise RefreshFailed("unreadable", _LOOK_AGAIN_SECONDS) from None
        replaced = self._replaced(value, attempt.latest)
        key = self.key
        try:
            shelved = await self._vault.token(key)
        except StoreUnavailable:
            shelved = None
        if key != self.key:
            raise RefreshFailed("unchanged", _LOOK_AGAIN_SECONDS)  # a reload has brought another one meanwhile
        if replaced is not None:
            # What NSLB made meanwhile of the value before is over with that.
            self.base = attempt.latest
            replaced = replace(replaced, generation=self.base + standing.FIRST_GENERATION)
        generation = attempt.generation - self.base
        if (known := standing.newer(shelved, generation, self._wall())) is not None:
            return Renewal(standing.counted(known, self.base), obtained=False, kept=True)
        if replaced is not None:
            return Renewal(replaced, obtained=True, kept=False)
        raise RefreshFailed("unchanged", _LOOK_AGAIN_SECONDS)

    def _replaced(self, value: Secret, generation: int) -> Token | None:
        if value == self._value:
            return None
        self._value = value
        self.base = generation
        return Token(value, self.base + standing.FIRST_GENERATION, self._wall())
