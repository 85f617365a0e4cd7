"""Who does what only one replica may do at a time: poll for the events of a call, release it.

Owns those turns in the store. Refuses to wait for a replica that is no more: the store knows which ones live.
"""

from __future__ import annotations

from gateway.store import StoreUnavailable, Vault


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
            version = kept.version if kept is not None else 0
            other = kept.content if kept is not None else None
            if other is not None and other != owner and await vault.alive(other.decode("ascii", "replace")):
                return False
            self._version = await vault.write(self.key, owner, after=version, seconds=self._seconds)
        except StoreUnavailable:
            return True
        return self._version > 0

    async def end(self) -> None:
        """Somebody else may do it now."""
        version, self._version = self._version, 0
        if version:
            try:
                await self._vault.erase(self.key, after=version)
            except StoreUnavailable:
                return
