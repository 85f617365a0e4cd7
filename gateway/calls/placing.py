"""Placing a call: from what a service wants to a call that NSLB accepted.

Owns the choice of the account and the order of things around the one request that rings a phone. Refuses accounts
that the service was not given.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway import problems
from gateway.calls.asking import asked, insist
from gateway.calls.call import Call
from gateway.calls.lines import Hold, Lines
from gateway.calls.registry import Calls
from gateway.model import Medium, Outcome, Principal
from gateway.problems import Problem
from gateway.telemetry import Record
from gateway.tokens import Account
from gateway.upstream import NotSent, Nslb

_TELLING_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Seat:
    """An account as services call through it; an exclusive one has one call, for `most_seconds` at most."""

    account: Account
    exclusive: bool
    most_seconds: float


class Accounts:
    """The accounts by name, and whose turn it is."""

    def __init__(self, seats: Mapping[str, Seat]) -> None:
        self._seats = seats
        self._turns: dict[str, int] = {}

    def of(self, call: Call) -> Account:
        """The account of a call. Raises `Problem` if the configuration has none of that name and user any more."""
        seat = self._seats.get(call.account)
        # With the token of another user NSLB would mean the call of that one.
        if seat is None or seat.account.line != call.line:
            raise Problem(problems.FORBIDDEN, "The account of this call is not configured any more.")
        return seat.account

    @staticmethod
    def check(principal: Principal, wanted: str | None) -> None:
        """Raises `Problem`, the same for an account of others and for one that does not exist."""
        if wanted is not None and wanted not in principal.accounts:
            raise Problem(problems.FORBIDDEN, "This service may not use this account.")

    def candidates(self, principal: Principal, wanted: str | None, *, looking: bool = False) -> Iterator[Seat]:
        """The account that was asked for, or all of the service's: the next one in turn first, if it has a token.

        Whoever is only `looking` takes no turn. Raises `Problem`, like `check`.
        """
        self.check(principal, wanted)
        if wanted is not None:
            return iter((self._seats[wanted],))
        names = principal.accounts
        if len(names) == 1:
            return iter((self._seats[names[0]],))
        turn = self._turns.get(principal.service, 0) % len(names)
        if not looking:
            self._turns[principal.service] = turn + 1
        seats = [self._seats[name] for name in names[turn:] + names[:turn]]
        # One without a token would have the caller wait for what another one has.
        seats.sort(key=lambda seat: seat.account.credential() is None)
        return iter(seats)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where calls are placed, and where it is written down."""

    accounts: Accounts
    nslb: Nslb
    calls: Calls
    lines: Lines
    _telling: set[asyncio.Task[None]] = field(default_factory=set)

    async def place(  # noqa: PLR0913, PLR0917 - what is wanted, by whom, and by when
        self,
        medium: Medium,
        wanted: str | None,
        principal: Principal,
        call_id: str,
        record: Record,
        until: float = math.inf,
    ) -> Call:
        """Create a call. Raises `Problem`, `NotSent` or `SentUnanswered`; the record tells how far it came."""
        candidates = self.accounts.candidates(principal, wanted)
        seat = next(candidates)
        hold = None
        if seat.exclusive:
            seat, hold = await self._free(itertools.chain((seat,), candidates), call_id)
        account = seat.account
        record.account = account.name
        call = Call(call_id, principal.service, account.name, account.line, medium)
        settling = None
        made = True
        if hold is None:
            await self.lines.ask(call.line, call_id, until)
        try:
            nslb = self.nslb
            verdict = await asked(account, lambda credential: nslb.create(medium, credential, record, until), until)
            record.result_code = verdict.result_code
            insist(verdict)
        except BaseException as exc:
            made = _may_be_made(exc, record)
            # What may have been made has an exclusive account until its time is over: nobody can release that call.
            if hold is not None and not made:
                await self.lines.give_back(hold)
            raise
        finally:
            if hold is None and (work := self.lines.settled(call.line, call_id, made=made)) is not None:
                settling = self._tell(work)
        record.outcome = Outcome.ACCEPTED
        call.result_code, call.description = verdict.result_code, verdict.description
        if self.calls.opened(call):
            await self._tell_others(call, settling, until)
        return call

    async def _tell_others(self, call: Call, settling: asyncio.Task[None] | None, until: float) -> None:
        """Have the store know of a call. A store that is slow does not hold the answer to a call that was made."""
        telling = self._tell(self._told(call, settling))
        loop = asyncio.get_running_loop()
        await asyncio.wait({telling}, timeout=max(0.0, min(_TELLING_SECONDS, until - loop.time())))

    def _tell(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        telling = asyncio.create_task(work)
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        return telling

    async def _told(self, call: Call, settling: asyncio.Task[None] | None) -> None:
        if settling is not None:
            await settling
        await self.calls.save(call)

    async def _free(self, seats: Iterable[Seat], call_id: str) -> tuple[Seat, Hold | None]:
        """An account that is free, taken for the call if it is exclusive. Raises `Problem` if none is."""
        for seat in seats:
            if not seat.exclusive:
                return seat, None
            line = seat.account.line
            hold = await self.lines.take(line, call_id, seat.most_seconds)
            if hold is None and await self._freed(line):
                hold = await self.lines.take(line, call_id, seat.most_seconds)
            if hold is not None:
                return seat, hold
        raise Problem(problems.ACCOUNT_BUSY, "Each account that could be used has a call; nothing was sent.")

    async def _freed(self, line: str) -> bool:
        """Free a line whose call is over: the gateway that noted its end may have been killed before it did so."""
        holder = self.lines.records.last(line).call
        if holder is None or not await self.calls.over(holder):
            return False
        await self.lines.free(line, holder)
        return True


def _may_be_made(exc: BaseException, record: Record) -> bool:
    """Whether there may be a call, although there was no answer that says so."""
    if isinstance(exc, Problem):
        return exc.type.outcome is Outcome.UNKNOWN
    return record.sent and not isinstance(exc, NotSent)
