"""All calls that are known here, and what the store knows of them.

Owns where a call is remembered: here for as long as there is room, and in a store that is shared for a day. Refuses a
call to any service but its own, in the words for one that does not exist.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway import problems
from gateway.calls.call import Call
from gateway.problems import Problem
from gateway.store import StoreUnavailable, Vault

ID_BYTES: Final = 16
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_KEEP_SECONDS: Final = 86_400.0
_MOST_CALLS: Final = 8_000
_MOST_TRIES: Final = 8


def call_id(random: bytes) -> str:
    """An id that nobody can guess, from so many random bytes."""
    return b2a_base64(random, newline=False).translate(_URL_SAFE, b"=").decode("ascii")


def record_key(identifier: str) -> str:
    """Where the store has a call."""
    return f"dial:{identifier}"


class Calls:
    """The calls of all services. To be used from one event loop."""

    def __init__(self, vault: Vault, most: int = _MOST_CALLS) -> None:
        self._vault = vault
        self._most = most
        self._shared = vault.store.shared
        self._recent: dict[str, Call] = {}
        self._order: deque[str] = deque()
        self._pinned: dict[str, Call] = {}
        self._unsaved: dict[str, Call] = {}

    def opened(self, call: Call) -> bool:
        """Remember a call that was accepted; whether others have to know of it, by `save`."""
        self._remember(call)
        return self._shared

    async def save(self, call: Call) -> None:
        """Tell other replicas of a call, now, or when the store can be reached again."""
        await self.change(call, _unchanged)

    async def find(self, identifier: str, service: str) -> Call:
        """A call of a service, as it is known by now. Raises `Problem`."""
        call = await self._find(identifier) if _ID.fullmatch(identifier) else None
        if call is None or call.service != service:
            raise Problem(problems.UNKNOWN_DIAL, "There is no such call of this service.")
        return call

    async def over(self, identifier: str) -> bool:
        """Whether a call is known, and over. Raises `Problem`."""
        call = await self._find(identifier)
        return call is not None and call.over

    def pin(self, call: Call) -> None:
        """Keep a call, however many others come: somebody follows it."""
        self._pinned[call.id] = call

    def unpin(self, call: Call) -> None:
        """No more of that."""
        self._pinned.pop(call.id, None)

    async def refresh(self, call: Call) -> None:
        """Take what other replicas have learnt of a call meanwhile."""
        if self._shared:
            try:
                kept = await self._vault.record(record_key(call.id))
            except StoreUnavailable:
                return
            if kept is not None and kept.content is not None and kept.version > call.version:
                call.adopt(Call.decode(call.id, kept.content, kept.version))

    async def change(self, call: Call, step: Callable[[Call], object]) -> None:
        """Change what is known of a call, in the store first: what anybody is told, no crash takes back.

        If another replica was faster, `step` is done on what that one knows. What the store can't take now it is given
        later.
        """
        done = False
        try:
            done = self._shared and self._vault.available and await self._write(call, step)
        finally:
            # It has happened, also if whoever wanted to write it has left.
            if not done:
                step(call)
                if self._shared:
                    self._owe(call)

    @property
    def behind(self) -> bool:
        """Whether there is something that the store could not take."""
        return bool(self._unsaved)

    async def resave(self) -> None:
        """Put into the store what it could not take when it happened."""
        for call in list(self._unsaved.values()):
            del self._unsaved[call.id]
            done = False
            try:
                done = await self._write(call, _unchanged)
            finally:
                if not done:
                    self._owe(call)
            if not done:
                return

    # --- inside

    def _known(self, identifier: str) -> Call | None:
        return self._pinned.get(identifier) or self._recent.get(identifier)

    def _remember(self, call: Call) -> None:
        self._recent[call.id] = call
        order = self._order
        order.append(call.id)
        if len(order) > self._most:
            del self._recent[order.popleft()]

    async def _find(self, identifier: str) -> Call | None:
        known = self._known(identifier)
        if not self._shared:
            return known
        try:
            kept = await self._vault.record(record_key(identifier))
        except StoreUnavailable:
            if known is None:
                raise Problem(
                    problems.STORE_UNAVAILABLE, "The store that may know of this call can't be reached."
                ) from None
            return known
        if kept is None or kept.content is None:
            return known
        try:
            other = Call.decode(identifier, kept.content, kept.version)
        except ValueError:
            return known
        known = self._known(identifier)
        if known is None:
            known = other
            self._remember(other)
        elif other.version > known.version:
            known.adopt(other)
        return known

    async def _write(self, call: Call, step: Callable[[Call], object]) -> bool:
        """Change a call in the store and here; whether it could be done."""
        key = record_key(call.id)
        try:
            for _ in range(_MOST_TRIES):
                draft = call.copy()
                step(draft)
                version = await self._vault.write(key, draft.encode(), after=draft.version, seconds=_KEEP_SECONDS)
                if version:
                    draft.version = version
                    call.adopt(draft)
                    return True
                kept = await self._vault.record(key)
                if kept is None or kept.content is None:
                    call.version = 0 if kept is None else kept.version
                else:
                    call.adopt(Call.decode(call.id, kept.content, kept.version))
        except (StoreUnavailable, ValueError):
            return False
        return False

    def _owe(self, call: Call) -> None:
        self._unsaved[call.id] = call
        if len(self._unsaved) > self._most:
            del self._unsaved[next(iter(self._unsaved))]


def _unchanged(_: Call) -> None:
    """It is written as it is."""
