"""Which call an account has now: NSLB's events and releases name no call, they mean the current one of the token.

Owns the line of each account, in the store where that is shared, so that replicas agree; that an exclusive account has
one call at a time; and that on no line a call is made while another is released. Refuses an exclusive account while the
store can't say whether it is free.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from gateway import problems
from gateway.calls.line import Line
from gateway.calls.line_records import Contended, LineRecords, Step
from gateway.problems import Problem
from gateway.store import StoreUnavailable, Vault

_LOOK_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 10.0
_POLL_END_SECONDS: Final = 1.0
_ARRIVED_SECONDS: Final = 5.0  # what a process sent before it died has arrived, also if it had to be sent again

Interrupt = Callable[[], "asyncio.Future[Any] | None"]
"""Begins to end a poll, and returns what is done when it has ended; `None` if none is open."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An exclusive account, taken for a call that is about to be created; `before` is the call it had."""

    line: str
    call: str
    before: str | None


class Lines:
    """The lines of all accounts. `wall` is in epoch seconds, about the same on all machines that share a store.

    `limit` is by when it is known what became of a request to NSLB, in seconds from its beginning.
    """

    def __init__(self, vault: Vault, wall: Callable[[], float] = time.time) -> None:
        self.limit = 60.0
        self.records = LineRecords(vault, wall)
        self._vault = vault
        self._wall = wall
        self._shared = vault.store.shared
        self._current: dict[str, str] = {}  # of lines that only this process knows
        self._sending: dict[str, dict[str, asyncio.Event]] = {}  # calls that may be made by now
        self._releasing: dict[str, asyncio.Event] = {}
        self._polls: dict[str, list[Interrupt]] = {}
        self._latest: dict[str, str] = {}  # what this process put on a line last, whether the store knows of it or not

    # --- a call is made

    async def take(self, line: str, call: str, seconds: float) -> Hold | None:
        """Take an exclusive line for a call, for so many seconds at most; `None` if it has another one.

        Raises `Problem` if the store can't say.
        """
        before = None

        def step(found: Line) -> Line | None:
            nonlocal before
            before = found.call
            return found.taken(call, self._wall(), seconds)

        try:
            if await self.records.change(line, step) is None:
                return None
            self._current.pop(line, None)  # it was not exclusive before a reload
            self._latest[line] = call
            await self._end_polls(line)
        except BaseException as exc:
            # It may have been written all the same.
            self.records.owe(line, call, lambda found: found.given_back(call, before))
            if isinstance(exc, StoreUnavailable):
                raise Problem(
                    problems.STORE_UNAVAILABLE, "Whether the account is free can't be found out; nothing was sent."
                ) from None
            raise
        return Hold(line, call, before)

    async def give_back(self, hold: Hold) -> None:
        """Free a line whose call was not accepted: the call before is the current one."""
        await self.records.see_to(hold.line, hold.call, lambda found: found.given_back(hold.call, hold.before))

    async def ask(self, line: str, call: str, until: float) -> None:
        """A call is about to be asked for on a line that others may use as well: from now on NSLB may mean it.

        Waits a while for a release that is under way, at most `until` (in seconds of the event loop's clock). Raises
        `Problem`.
        """
        if line in self._releasing:
            await self._until_released(line, until)
        self._sending.setdefault(line, {})[call] = asyncio.Event()
        marked = self._shared and self._vault.available
        try:
            await self._end_polls(line)
            if marked:
                await self._mark(line, call, until)
        except StoreUnavailable:
            return  # settling it takes the mark away, if it is there
        except BaseException:
            if marked:
                self.records.owe(line, call, lambda found: found.settled(call))
            self._sent(line, call)
            raise

    def settled(self, line: str, call: str, *, made: bool) -> Coroutine[Any, Any, None] | None:
        """It is known what became of a call that was asked for: it may have been `made`, or it was not.

        What is to be done if others must know of that; until then nothing is done to the line here.
        """
        if self._shared:
            return self._settle(line, call, made=made)
        if made:
            self._current[line] = call
        self._sent(line, call)
        return None

    # --- a call is released

    async def begin_release(self, line: str, call: str, until: float) -> None:
        """A call is about to be released: until `end_release` none is made on its line, for `limit` seconds at most.

        Waits until it is known what became of calls that are being made, at most `until` (in seconds of the event
        loop's clock). Raises `Problem`, also if another call has taken that one's place.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(until, loop.time() + _PATIENCE_SECONDS)):
                while (other := self._releasing.get(line)) is not None:
                    await other.wait()
                self._releasing[line] = asyncio.Event()
                try:
                    await self._begin_release(line, call)
                except BaseException as exc:
                    if not isinstance(exc, Problem) and line not in self._current:
                        self.records.owe(line, "release", _release_over(call, ended=False))  # it may have been written
                    self._let_go(line)
                    raise
        except TimeoutError:
            raise Problem(
                problems.ACCOUNT_BUSY,
                "What became of another call that is being made on this account isn't known yet; nothing was sent.",
            ) from None

    async def end_release(self, line: str, call: str, *, ended: bool) -> None:
        """The release of a call is over, and, if it has `ended`, so is the call: an exclusive account is free."""
        try:
            if line not in self._current:
                await self.records.see_to(line, "release", _release_over(call, ended=ended))
        finally:
            self._let_go(line)

    async def free(self, line: str, call: str) -> None:
        """A call is over; it stays the current one until there is another. Whoever is releasing it frees its line."""
        if line not in self._releasing and line not in self._current:
            await self.records.see_to(line, "free", lambda found: found.freed(call, self._wall()))

    # --- whose events they are

    async def current(self, line: str) -> str | None:
        """The call that NSLB means by what it says of this line, as far as anybody knows.

        Waits until it is known what became of those that are asked for now.
        """
        while True:
            for settled in list(self._sending.get(line, {}).values()):
                await settled.wait()
            if (call := self._current.get(line)) is not None:
                return call
            try:
                found = await self.records.read(line)
            except StoreUnavailable:
                return self.records.last(line).call
            if not found.making:
                return found.call
            if not await self._bury(line):
                await asyncio.sleep(_LOOK_SECONDS)

    async def contested(self, line: str, call: str) -> bool:
        """Whether NSLB may mean another call by now than that one, as far as can be known without waiting."""
        try:
            found = await self.records.read(line)
        except StoreUnavailable:
            return False
        return bool(found.making) or found.superseded(call)

    def interrupts(self, line: str, end: Interrupt) -> None:
        """Have `end` end a poll before a call is made: NSLB would tell of it to a poll of the call before."""
        self._polls.setdefault(line, []).append(end)

    def interrupts_no_more(self, line: str, end: Interrupt) -> None:
        """No more of that."""
        others = self._polls[line]
        others.remove(end)
        if not others:
            del self._polls[line]

    # --- inside

    async def _until_released(self, line: str, until: float) -> None:
        give_up = min(until, asyncio.get_running_loop().time() + _PATIENCE_SECONDS)
        try:
            async with asyncio.timeout_at(give_up):
                while (release := self._releasing.get(line)) is not None:
                    await release.wait()
        except TimeoutError:
            raise _busy() from None

    async def _mark(self, line: str, call: str, until: float) -> None:
        """Have other replicas know that a call is asked for; mostly nobody else has written since we looked."""
        loop = asyncio.get_running_loop()
        give_up = math.inf
        looked = buried = waiting = False

        def step(found: Line) -> Line | None:
            nonlocal buried, waiting
            now = self._wall()
            # What the dead have begun comes before this call, and when that was will not be told again.
            buried, waiting = looked or not self._others(found), found.released(now)
            return found.asked(call, now + self.limit, self._vault.owner) if buried and not waiting else None

        while True:
            try:
                await self.records.change(line, step, known=True)
            except Contended:
                waiting = True
            if buried and not waiting:
                return
            looked = True
            if await self._bury(line) or not waiting:
                continue
            give_up = min(give_up, until, loop.time() + _PATIENCE_SECONDS)
            if loop.time() >= give_up:
                raise _busy()
            await asyncio.sleep(random.uniform(0.0, 2 * _LOOK_SECONDS))  # noqa: S311 - jitter

    async def _settle(self, line: str, call: str, *, made: bool) -> None:
        since = self._wall()
        try:
            if made:
                self._latest[line] = call

                def late(found: Line) -> Line | None:
                    # It does not take the place of one after it.
                    after = self._latest.get(line) != call or found.since > since
                    return found.settled(call) if after else found.made(call, since)

                await self.records.see_to(line, call, lambda found: found.made(call, since), late, known=True)
            else:
                await self.records.see_to(line, call, lambda found: found.settled(call), known=True)
        finally:
            # Until it is written, what the store says of the line is of the call before.
            self._sent(line, call)

    async def _begin_release(self, line: str, call: str) -> None:
        def step(found: Line) -> Line | None:
            now = self._wall()
            end = now + self.limit
            return None if found.superseded(call) else found.releasing_of(call, now, end, self._vault.owner)

        while True:
            current = await self.current(line)
            if current is not None and current != call:
                raise Problem(problems.CALL_SUPERSEDED, "A later call on the same account has taken this one's place.")
            if line in self._current:
                return
            try:
                if await self.records.change(line, step) is not None:
                    return
            except StoreUnavailable:
                return  # what this process knows has to do
            if not await self._bury(line):
                await asyncio.sleep(_LOOK_SECONDS)

    async def _bury(self, line: str) -> bool:
        """Settle what those have begun who are dead; whether that is done, or may be."""
        end = self._wall() + self.limit - _ARRIVED_SECONDS
        try:
            others = self._others(self.records.last(line))
            dead = {owner for owner in others if not await self._vault.alive(owner)}
            return bool(dead) and await self.records.change(line, lambda found: found.left(dead, end)) is not None
        except StoreUnavailable:
            return False

    def _others(self, found: Line) -> set[str]:
        """Those who began something so long ago that it has arrived, if they are dead."""
        end = self._wall() + self.limit - _ARRIVED_SECONDS
        began = {found.owners.get(call, "") for call, last in found.making.items() if last <= end}
        if 0.0 < found.releasing <= end:
            began.add(found.releaser)
        return began - {"", self._vault.owner}

    def _let_go(self, line: str) -> None:
        self._releasing.pop(line).set()

    def _sent(self, line: str, call: str) -> None:
        calls = self._sending[line]
        calls.pop(call).set()
        if not calls:
            del self._sending[line]

    async def _end_polls(self, line: str) -> None:
        polls = {poll for end in self._polls.get(line, ()) if (poll := end()) is not None}
        if polls:
            await asyncio.wait(polls, timeout=_POLL_END_SECONDS)


def _release_over(call: str, *, ended: bool) -> Step:
    return lambda found: found.release_over(call, ended=ended)


def _busy() -> Problem:
    return Problem(problems.ACCOUNT_BUSY, "Others call or release calls on this account; nothing was sent.")
