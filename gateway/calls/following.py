"""Following calls: one long poll for all who read the events of a call, for as long as anybody does.

Owns the polls. Refuses to poll for nobody, for a call that is over or that another one has taken the place of, and
from two replicas at once, because NSLB tells each event once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Final

from gateway import problems
from gateway.calls.call import Call
from gateway.calls.line_records import line_key
from gateway.calls.lines import Lines
from gateway.calls.polling import Interrupted, Polling
from gateway.calls.registry import Calls, record_key
from gateway.calls.turns import Turn, Turns
from gateway.model import CallEvent
from gateway.problems import Problem
from gateway.store import Vault
from gateway.telemetry import Record, Telemetry
from gateway.tokens import Account
from gateway.upstream import NotSent, Nslb, SentUnanswered

_LINGER_SECONDS: Final = 0.5
_LEAST_POLL_SECONDS: Final = 1.0
_FIRST_BACKOFF: Final = 0.5
_MOST_BACKOFF: Final = 15.0
_NEWS_SECONDS: Final = 2.0
_TURN_MARGIN_SECONDS: Final = 15.0
_LEAST_EVENT_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 0.05
_MOST_LOOKS: Final = 20
_TAKING_SECONDS: Final = 5.0  # longer than a store takes to answer, or to be given up
_FAULT_SECONDS: Final = 1.0


class Bell:
    """Wakes one reader, for whatever reason: whoever hears it looks for itself. `late`: its time is over."""

    def __init__(self) -> None:
        self.late = False
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the reader."""
        self._rung.set()

    def ring_for_time(self) -> None:
        """Wake the reader because its time is over."""
        self.late = True
        self.ring()

    async def wait(self) -> None:
        """Until somebody rings, or has since the last time."""
        await self._rung.wait()
        self._rung.clear()


class Followings:
    """The calls that somebody follows.

    `nslb` and `poll_timeout` (seconds) are replaced with the configuration; `record` begins a poll's own.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a poll needs
        self,
        calls: Calls,
        lines: Lines,
        vault: Vault,
        telemetry: Telemetry,
        record: Callable[[], Record],
        nslb: Nslb,
        poll_timeout: float,
    ) -> None:
        self.calls = calls
        self.lines = lines
        self.vault = vault
        self.telemetry = telemetry
        self.record = record
        self.nslb = nslb
        self.poll_timeout = poll_timeout
        self.turns = Turns(vault)
        self._open: dict[str, Following] = {}

    @contextlib.contextmanager
    def follow(self, call: Call, account: Account, bell: Bell) -> Iterator[Following]:
        """Follow a call while inside; the bell rings when there may be something new."""
        following = self._open.get(call.id)
        if following is None:
            following = self._open[call.id] = Following(call, account, self)
            self.calls.pin(call)
        following.join(bell)
        try:
            yield following
        finally:
            following.leave(bell)

    def news(self, call: Call) -> None:
        """Something was learnt of a call in another way."""
        if (following := self._open.get(call.id)) is not None:
            following.tell()

    async def quiet(self, call: Call) -> None:
        """A call is over: wait until nobody polls for it any more, here or elsewhere, at most a moment.

        NSLB would tell of the next call on the line to a poll that is still open.
        """
        if (following := self._open.get(call.id)) is not None:
            await following.quiet()
        for _ in range(_MOST_LOOKS):
            if not await self.turns.taken(turn_key(call)):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def forget(self, call: Call) -> None:
        """Nobody follows that call any more."""
        self._open.pop(call.id, None)
        self.calls.unpin(call)

    @property
    def behind(self) -> bool:
        """Whether there is something that the store could not take."""
        return self.calls.behind or self.turns.behind

    async def catch_up(self) -> None:
        """Tell the store what it could not take when it happened, as far as it takes it now."""
        await self.turns.settle()
        await self.calls.resave()
        # Others may have been told more of these calls meanwhile.
        for following in self._open.values():
            following.tell()

    async def close(self) -> None:
        """End all polls."""
        await asyncio.gather(*(following.stop() for following in list(self._open.values())))


def turn_key(call: Call) -> str:
    """Where the store has whose turn it is to poll for a call."""
    return f"poll:{call.id}"


class Following:
    """One call that is followed.

    `ended` counts the polls that ended without an event; `failure` is what the last of these failed with, if it did;
    `superseded` says that NSLB tells nothing of this call any more.
    """

    def __init__(self, call: Call, account: Account, followings: Followings) -> None:
        self.call = call
        self.account = account
        self.ended = 0
        self.failure: Problem | NotSent | SentUnanswered | None = None
        self.superseded = False
        self._all = followings
        self._readers: set[Bell] = set()
        self._joined = asyncio.Event()
        self._heard = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.polling = Polling(
            call,
            account,
            followings.calls,
            followings.lines,
            followings.telemetry,
            followings.record,
            self._heard if followings.vault.store.shared else None,
            self.tell,
        )
        seconds = followings.poll_timeout + _TURN_MARGIN_SECONDS
        self._turn = Turn(followings.turns, turn_key(call), seconds)

    # --- readers

    def join(self, bell: Bell) -> None:
        """One more reads."""
        self._readers.add(bell)
        self._joined.set()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self.superseded = False
        self.poll()

    def leave(self, bell: Bell) -> None:
        """One less does. A moment later polling ends if nobody has come: whoever polls comes again and again."""
        self._readers.discard(bell)
        if not self._readers:
            self._joined.clear()
            self._linger = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._end)

    def poll(self) -> None:
        """See to it that somebody polls."""
        if self._poller is None and not self.call.over:
            self._poller = asyncio.create_task(self._run())

    def tell(self) -> None:
        """Wake all readers: there may be an event, the end of a poll, or another call in this one's place."""
        for bell in self._readers:
            bell.ring()

    async def stop(self) -> None:
        """End now."""
        if self._linger is not None:
            self._linger.cancel()
        poller = self._poller
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)
        if self._taking is not None:
            # Whose event it is may not be known before a call of another replica is settled, and then it is nobody's.
            await asyncio.wait({self._taking}, timeout=_TAKING_SECONDS)
            self._taking.cancel()
        self._all.forget(self.call)

    async def quiet(self) -> None:
        """The call is over: end a poll that is open."""
        self.polling.interrupt()
        if self._poller is not None:
            await asyncio.wait({self._poller}, timeout=_LOOK_SECONDS * _MOST_LOOKS)

    def _end(self) -> None:
        self._linger = None
        if self._poller is not None:
            self._poller.cancel()
        self._all.forget(self.call)

    # --- polling

    async def _run(self) -> None:
        vault, lines, line = self._all.vault, self._all.lines, self.call.line
        keys = record_key(self.call.id), line_key(line), self._turn.key
        for key in keys:
            vault.follow(key, self._heard.set)
        lines.interrupts(line, self.polling.interrupt)
        try:
            await self._poll_on()
        except Exception as exc:  # noqa: BLE001 - its readers must not wait for a poll that is no more
            self._all.telemetry.log.fault(exc)
            self._over(Problem(problems.INTERNAL, "The gateway failed; its log has the reason."))
            await self._turn.end()
            await asyncio.sleep(_FAULT_SECONDS)  # streams go on, and mostly it would fail again at once
        finally:
            self._poller = None
            lines.interrupts_no_more(line, self.polling.interrupt)
            for key in keys:
                vault.leave(key, self._heard.set)
            self.tell()
            await self._turn.end()

    async def _poll_on(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = _FIRST_BACKOFF
        while not self.call.over:
            # Those who have just been told may leave. A poll for nobody could take an event with it when it is ended.
            await asyncio.sleep(0)
            await self._joined.wait()
            if self._heard.is_set():
                await self._look()
                continue
            if not await self._turn.take():
                await self._listen()
                continue
            if await self._replaced():
                return
            began = loop.time()
            try:
                event = await self.polling.next(self._all.nslb)
            except Interrupted:
                continue
            except (Problem, NotSent, SentUnanswered) as failure:
                if not isinstance(failure, SentUnanswered) or failure.problem is not problems.UPSTREAM_TIMEOUT:
                    self._over(failure)
                    await asyncio.sleep(random.uniform(backoff / 2, backoff))  # noqa: S311 - jitter
                    backoff = min(backoff * 2, _MOST_BACKOFF)
                    continue
                event = None  # NSLB holds a poll for longer than we do
            backoff = _FIRST_BACKOFF
            least = _LEAST_EVENT_SECONDS
            if event is not None:
                self._taking = asyncio.create_task(self._take(event))
                await asyncio.shield(self._taking)  # NSLB tells it once, and the last reader may leave just now
            else:
                self._over(None)
                least = _LEAST_POLL_SECONDS
            # An endpoint that answers at once must not be asked without end.
            if not self.call.over:
                await asyncio.sleep(max(0.0, began + least - loop.time()))

    async def _take(self, event: CallEvent) -> None:
        """Note an event, if NSLB can have meant this call alone: none was made while the poll was open."""
        if await self._replaced():
            return

        await self._all.calls.change(self.call, lambda call: call.happened(event))
        self._all.news(self.call)
        if self.call.over:
            await self._all.lines.free(self.call.line, self.call.id)

    async def _replaced(self) -> bool:
        current = await self._all.lines.current(self.call.line)
        self.superseded = current is not None and current != self.call.id
        return self.superseded

    async def _listen(self) -> None:
        """Another replica polls: wait for what it writes, or has since we looked."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NEWS_SECONDS):
                await self._heard.wait()
        await self._look()

    async def _look(self) -> None:
        """Take what others have written, and tell the readers if that is more."""
        self._heard.clear()
        known = self.call.last, self.call.over
        await self._all.calls.refresh(self.call)
        if (self.call.last, self.call.over) != known:
            self.tell()

    def _over(self, failure: Problem | NotSent | SentUnanswered | None) -> None:
        self.ended += 1
        self.failure = failure
        self.tell()
