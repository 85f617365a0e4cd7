"""Releasing a call.

Owns that a release reaches NSLB for the call that is meant: NSLB releases whichever call the token has now. Refuses to
release a call that is over, and one that another has taken the place of.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Final

from gateway import problems
from gateway.calls.asking import asked, insist
from gateway.calls.call import Call
from gateway.calls.following import Bell, Followings
from gateway.calls.turns import Turn
from gateway.model import CallEvent, CallStatus, Outcome
from gateway.problems import Problem
from gateway.telemetry import Record
from gateway.tokens import Account
from gateway.upstream import Nslb

_TURN_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.05
_MOST_LOOKS: Final = 200
_END_SECONDS: Final = 1.0


class Releases:
    """Releases calls, each by one at a time."""

    def __init__(self, followings: Followings) -> None:
        self._followings = followings
        self._under_way: dict[str, asyncio.Event] = {}

    async def release(self, call: Call, account: Account, nslb: Nslb, record: Record, until: float = math.inf) -> None:
        """Release a call; nothing is sent if it is over. Raises `Problem`, `NotSent` or `SentUnanswered`."""
        while (other := self._under_way.get(call.id)) is not None:
            await other.wait()
        ours = self._under_way[call.id] = asyncio.Event()
        turn = Turn(self._followings.turns, f"release:{call.id}", _TURN_SECONDS)
        try:
            await self._wait_for(turn, call)
            if not call.over:
                await self._release(call, account, nslb, record, until)
        finally:
            del self._under_way[call.id]
            ours.set()
            await turn.end()

    async def _wait_for(self, turn: Turn, call: Call) -> None:
        for _ in range(_MOST_LOOKS):
            if await turn.take():
                break
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            raise Problem(problems.OVERLOADED, "Another request is releasing this call.")
        await self._followings.calls.refresh(call)

    async def _release(self, call: Call, account: Account, nslb: Nslb, record: Record, until: float) -> None:
        """Have NSLB end the call on the line. No other is made there from before the request until after its answer."""
        followings = self._followings
        lines = followings.lines
        await lines.begin_release(call.line, call.id, until)
        try:
            # What is sent after this may be answered after others make calls again.
            last = asyncio.get_running_loop().time() + lines.limit / 2
            await followings.calls.refresh(call)
            if not call.over:
                await self._drop(call, account, nslb, record, min(until, last))
        finally:
            await followings.calls.refresh(call)
            if call.over:
                await followings.quiet(call)
            await lines.end_release(call.line, call.id, ended=call.over)

    async def _drop(self, call: Call, account: Account, nslb: Nslb, record: Record, until: float) -> None:
        verdict = await asked(account, lambda credential: nslb.drop(credential, record, until), until)
        record.result_code = verdict.result_code
        if call.over:
            return  # NSLB told of its end meanwhile
        # It refuses mostly because the call has ended, and tells of that to whoever asks for its events.
        if verdict.outcome is Outcome.REJECTED and await self._has_ended(call, account):
            return
        insist(verdict)
        end = CallEvent(CallStatus.ENDED, None, verdict.description, {})
        await self._followings.calls.change(call, lambda known: known.happened(end))
        self._followings.news(call)

    async def _has_ended(self, call: Call, account: Account) -> bool:
        """Let NSLB tell, in a moment, whether the call has ended."""
        bell = Bell()
        with self._followings.follow(call, account, bell) as following, contextlib.suppress(TimeoutError):
            ended = following.ended
            async with asyncio.timeout(_END_SECONDS):
                while not call.over and following.ended == ended and not following.superseded:
                    await bell.wait()
        return call.over
