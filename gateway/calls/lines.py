"""Which call an account has now: NSLB's events and releases name no call, they mean the current one of the token.

Owns the line of each account, with the call that is on it, in the store where that is shared, so that replicas agree;
and that an exclusive account has one call at a time. Refuses an exclusive account while the store can't say whether
it is free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from gateway import problems
from gateway.problems import Problem
from gateway.store import StoreUnavailable, Vault

_KEEP_SECONDS: Final = 86_400.0
_MOST_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Hold:
    """An exclusive account, taken for a call that is about to be created; `before` is the call it had."""

    line: str
    call: str
    before: str | None


@dataclass(frozen=True, slots=True)
class _Line:
    """What is known of a line: its call, since when and until when that one has it alone, and the record's version.

    Times are in epoch seconds; `until` is 0 if it does not have it alone.
    """

    call: str | None = None
    since: float = 0.0
    until: float = 0.0
    version: int = 0


class Lines:
    """The lines of all accounts. `wall` is in epoch seconds, about the same on all machines that share a store."""

    def __init__(self, vault: Vault, wall: Callable[[], float] = time.time) -> None:
        self._vault = vault
        self._wall = wall
        self._shared = vault.store.shared
        self._known: dict[str, _Line] = {}
        self._current: dict[str, str] = {}
        self._sending: dict[str, dict[str, asyncio.Event]] = {}  # calls that may be made by now
        self._latest: dict[str, str] = {}  # what this process put on a line last, whether the store knows of it or not
        self._owed: dict[tuple[str, str | None], tuple[str | None, float]] = {}  # the arguments of `_set`

    async def take(self, line: str, call: str, seconds: float) -> Hold | None:
        """Take an exclusive line for a call, for so many seconds at most; `None` if it has another one.

        Raises `Problem` if the store can't say.
        """
        found = None
        try:
            for _ in range(_MOST_TRIES):
                found = await self._read(line)
                now = self._wall()
                if found.until > now:
                    return None
                if await self._write(line, _Line(call, now, now + seconds, found.version)):
                    self._current.pop(line, None)  # it was not exclusive before a reload
                    self._latest[line] = call
                    return Hold(line, call, found.call)
        except StoreUnavailable:
            if found is not None:
                self._owed[line, call] = found.call, 0.0  # it may have been written all the same
            raise Problem(
                problems.STORE_UNAVAILABLE, "Whether the account is free can't be found out; nothing was sent."
            ) from None
        return None

    async def give_back(self, hold: Hold) -> None:
        """Free a line whose call was not accepted: the call before is the current one."""
        await self._set(hold.line, hold.before, only=hold.call)

    def sending(self, line: str, call: str) -> None:
        """A call is asked for on a line that others may use as well: from now on NSLB may mean it."""
        self._sending.setdefault(line, {})[call] = asyncio.Event()

    def sent(self, line: str, call: str) -> None:
        """It is known what became of that call, and the line has it if it may have been made."""
        calls = self._sending[line]
        calls.pop(call).set()
        if not calls:
            del self._sending[line]

    def contested(self, line: str) -> bool:
        """Whether a call is asked for, here, on a line that others use as well."""
        return line in self._sending

    def note(self, line: str, call: str) -> bool:
        """Like `occupy`, if nobody else has to know of it; whether that is so."""
        if self._shared:
            return False
        self._current[line] = call
        return True

    async def occupy(self, line: str, call: str) -> None:
        """A call was accepted on a line that others may use as well: it is the current one."""
        self._latest[line] = call
        wanted = _Line(call, self._wall(), 0.0, self._known.get(line, _Line()).version)
        if not self._vault.available:
            self._owe(line, wanted)
            return
        try:
            # Mostly nobody else has written since.
            if not await self._write(line, wanted):
                await self._set(line, call, since=wanted.since)
        except StoreUnavailable:
            self._owe(line, wanted)

    async def free(self, line: str, call: str) -> None:
        """A call is over; it stays the current one until there is another."""
        if self._current.get(line) != call:
            await self._set(line, call, only=call)

    async def current(self, line: str) -> str | None:
        """The call that NSLB means by what it says of this line, as far as anybody knows.

        Waits until it is known what became of those that are asked for now.
        """
        for settled in list(self._sending.get(line, {}).values()):
            await settled.wait()
        if (call := self._current.get(line)) is not None:
            return call
        try:
            found = await self._read(line)
        except StoreUnavailable:
            found = self._known.get(line, _Line())
        return found.call

    @property
    def behind(self) -> bool:
        """Whether there is something that the store could not take."""
        return bool(self._owed)

    async def settle(self) -> None:
        """Write what could not be written when it was time to."""
        for (line, only), (call, since) in list(self._owed.items()):
            del self._owed[line, only]
            await self._set(line, call, only, since=since, late=True)
            if (line, only) in self._owed:
                return

    # --- inside

    async def _set(
        self, line: str, call: str | None, only: str | None = None, *, since: float = 0.0, late: bool = False
    ) -> None:
        """Have a line be of a call, and of nobody alone; only if it is of the call `only`, if that is given.

        Without `only`, a call does not take the place of one after it: of this process, or, if this comes late, of any.
        """
        try:
            for _ in range(_MOST_TRIES):
                found = await self._read(line)
                if only is not None:
                    if found.call != only or not found.until:
                        return
                elif self._latest.get(line) != call or (late and found.since > since):
                    return
                if await self._write(line, _Line(call, max(since, found.since), 0.0, found.version)):
                    return
        except StoreUnavailable:
            self._owed[line, only] = call, since

    def _owe(self, line: str, wanted: _Line) -> None:
        self._known[line] = wanted
        self._owed[line, None] = wanted.call, wanted.since

    async def _read(self, line: str) -> _Line:
        kept = await self._vault.record(_key(line))
        found = _Line()
        if kept is not None:
            content: dict[str, Any] = orjson.loads(kept.content) if kept.content is not None else {}
            found = _Line(content.get("call"), content.get("since", 0.0), content.get("until", 0.0), kept.version)
        self._known[line] = found
        return found

    async def _write(self, line: str, wanted: _Line) -> bool:
        content = orjson.dumps({"call": wanted.call, "since": wanted.since, "until": wanted.until})
        seconds = max(_KEEP_SECONDS, wanted.until - self._wall())
        version = await self._vault.write(_key(line), content, after=wanted.version, seconds=seconds)
        if version:
            self._known[line] = replace(wanted, version=version)
        return version > 0


def _key(line: str) -> str:
    return f"line:{line}"
