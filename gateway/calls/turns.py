"""Who does what only one replica may do at a time: poll for the events of a call, release it.

Owns those turns in the store. Refuses to wait for a replica that is no more: the store knows which ones live; and to
leave others waiting for a turn that is over: what could not be erased is erased later.
"""

from __future__ import annotations

from gateway.store import Kept, StoreUnavailable, Vault


class Turns:
    """The turns of this process, and those that are over and that the store may still have."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self._takers: dict[str, Turn] = {}
        self._owed: set[str] = set()

    async def taken(self, key: str) -> bool:
        """Whether another replica has that turn."""
        if not self.vault.store.shared:
            return False
        try:
            kept = await self.vault.record(key)
            return kept is not None and await self.others_have(kept)
        except StoreUnavailable:
            return False

    async def others_have(self, kept: Kept) -> bool:
        """Whether what is kept says that another one has it, and that one lives. Raises `StoreUnavailable`."""
        owner = kept.content
        if owner is None or owner == self.vault.owner.encode():
            return False
        return await self.vault.alive(owner.decode("ascii", "replace"))

    def taking(self, turn: Turn) -> None:
        """That one may be in the store from now on."""
        self._takers[turn.key] = turn

    def ended(self, turn: Turn) -> bool:
        """That one is over; whether no later one has taken its place here, and ends for both."""
        if self._takers.get(turn.key) is not turn:
            return False
        del self._takers[turn.key]
        return True

    @property
    def behind(self) -> bool:
        """Whether there is something to erase."""
        return bool(self._owed)

    def owe(self, key: str) -> None:
        """Have the store know later that a turn is over."""
        self._owed.add(key)

    async def settle(self) -> None:
        """Erase what could not be erased when it was over."""
        for key in list(self._owed):
            self._owed.discard(key)
            try:
                await self._erase(key)
            except StoreUnavailable:
                return

    async def _erase(self, key: str) -> None:
        done = False
        try:
            kept = await self.vault.record(key)
            # Whoever has taken it here meanwhile ends it as well.
            if key not in self._takers and kept is not None and kept.content == self.vault.owner.encode():
                await self.vault.erase(key, after=kept.version)
            done = True
        finally:
            if not done:
                self.owe(key)


class Turn:
    """One thing to do, under a key; whoever has the turn has it for at most so many seconds."""

    def __init__(self, turns: Turns, key: str, seconds: float) -> None:
        self._turns = turns
        self._vault = turns.vault
        self.key = key
        self._seconds = seconds
        self._version = 0
        self._unanswered = False

    async def take(self) -> bool:
        """Whether it is ours to do. Without the store everybody does it: better twice than not at all."""
        vault = self._vault
        if not vault.store.shared:
            return True
        self._turns.taking(self)
        self._unanswered = True
        owner = vault.owner.encode()
        try:
            self._version = await vault.write(self.key, owner, after=self._version, seconds=self._seconds)
            if not self._version:
                kept = await vault.record(self.key)
                if kept is None or not await self._turns.others_have(kept):
                    version = kept.version if kept is not None else 0
                    self._version = await vault.write(self.key, owner, after=version, seconds=self._seconds)
        except StoreUnavailable:
            return True
        self._unanswered = False
        return self._version > 0

    async def end(self) -> None:
        """Somebody else may do it now."""
        version, self._version = self._version, 0
        unanswered, self._unanswered = self._unanswered, False
        if not self._turns.ended(self) or not (version or unanswered):
            return
        done = False
        try:
            if version and not unanswered:
                await self._vault.erase(self.key, after=version)
                done = True
        except StoreUnavailable:
            return
        finally:
            if not done:
                self._turns.owe(self.key)
