"""One long poll for the events of a call, which can be ended before NSLB answers.

Owns the request, and when it must be ended: NSLB would tell it of another call that is made on the same line. Refuses
to judge what it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.calls.asking import asked, insist
from gateway.calls.call import Call
from gateway.calls.lines import Lines
from gateway.calls.registry import Calls
from gateway.model import CallEvent, Operation
from gateway.telemetry import Record, Telemetry
from gateway.tokens import Account
from gateway.upstream import Nslb


class Interrupted(Exception):  # noqa: N818 - no error: the poll is begun again, or not
    """A poll was ended before NSLB answered."""


class Polling:
    """The polls for one call, one after the other: how many there were, and the record of the last one.

    `heard` is set when others may have changed the call or its line; it is `None` if there are no others. `news` is
    called when they have told more of the call.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a poll needs
        self,
        call: Call,
        account: Account,
        calls: Calls,
        lines: Lines,
        telemetry: Telemetry,
        new_record: Callable[[], Record],
        heard: asyncio.Event | None,
        news: Callable[[], None],
    ) -> None:
        self.count = 0
        self.record: Record | None = None
        self._call = call
        self._account = account
        self._calls = calls
        self._lines = lines
        self._telemetry = telemetry
        self._new_record = new_record
        self._heard = heard
        self._news = news
        self._asking: asyncio.Task[CallEvent | None] | None = None

    def interrupt(self) -> asyncio.Task[CallEvent | None] | None:
        """End the poll that is open, if one is; it is done when NSLB can tell it nothing more."""
        if self._asking is not None:
            self._asking.cancel()
        return self._asking

    async def next(self, nslb: Nslb) -> CallEvent | None:
        """The next event of the line, or `None` if the poll ended without one.

        Raises `Interrupted` if the line may have another call before there is one, `Problem`, `NotSent` and
        `SentUnanswered`.
        """
        asking = self._asking = asyncio.create_task(self._poll(nslb))
        try:
            if self._heard is not None:
                await self._heed_others(asking, self._heard)
            await asyncio.wait({asking})
        finally:
            self._asking = None
            if not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        if asking.cancelled():
            raise Interrupted
        return asking.result()

    async def _heed_others(self, asking: asyncio.Task[CallEvent | None], heard: asyncio.Event) -> None:
        """End a poll when another replica has ended the call, or makes another one on its line."""
        while not asking.done():
            hearing = asyncio.create_task(heard.wait())
            try:
                await asyncio.wait({asking, hearing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                hearing.cancel()
            if not asking.done():
                heard.clear()
                last = self._call.last
                await self._calls.refresh(self._call)
                if self._call.last != last:
                    self._news()
                if self._call.over or await self._lines.contested(self._call.line, self._call.id):
                    asking.cancel()
                    return

    async def _poll(self, nslb: Nslb) -> CallEvent | None:
        record = self.record = self._new_record()
        record.operation = Operation.EVENTS
        record.account = self._account.name
        self.count += 1
        try:
            verdict = await asked(self._account, lambda credential: nslb.events(credential, record))
        except asyncio.CancelledError:
            record.attempts.clear()  # we left, NSLB did not fail
            raise
        finally:
            self._telemetry.polled(record)
        insist(verdict)
        return verdict.event
