"""Who does what only one replica may do at a time: poll for the events of a call, release it.

Owns those turns in the store. Refuses to wait for a replica that is no more: the store knows which ones live.
"""

from __future__ import annotations

from gateway.store import Kept, StoreUnavailable, Vault


class Turn:
    """One thing to do, under a key; whoever has the turn has it for at most so many seconds."""

    def __init__(self, vault: Vault, key: str, seconds: float) -> None:
        self._vault = vault
        self.key = key
        self._seconds = seconds
        self._version = 0

    async def take(self) -> bool:
        """Whether it is ours to do. Without the store everybody does it: better twice than not at all."""
        vault = self._vault
        if not vault.store.shared:
            return True
        owner = vault.owner.encode()
        try:
            self._version = await vault.write(self.key, owner, after=self._version, seconds=self._seconds)
            if self._version:
                return True
            kept = await vault.record(self.key)
            if kept is not None and await self._others(kept):
                return False
            version = kept.version if kept is not None else 0
            self._version = await vault.write(self.key, owner, after=version, seconds=self._seconds)
        except StoreUnavailable:
            return True
        return self._version > 0

    async def taken(self) -> bool:
        """Whether another replica has it."""
        if not self._vault.store.shared:
            return False
        try:
            kept = await self._vault.record(self.key)
            return kept is not None and await self._others(kept)
        except StoreUnavailable:
            return False

    async def end(self) -> None:
        """Somebody else may do it now."""
        version, self._version = self._version, 0
        if version:
            try:
                await self._vault.erase(self.key, after=version)
            except StoreUnavailable:
                return

    async def _others(self, kept: Kept) -> bool:
        """Whether what is kept says that a replica has it that is not this one, and lives."""
        owner = kept.content
        if owner is None or owner == self._vault.owner.encode():
            return False
        return await self._vault.alive(owner.decode("ascii", "replace"))
