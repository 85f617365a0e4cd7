"""Owns the life of calls: who is being rung, which events are due, and the long polls that wait for one.

Source: interface page, "Operations of the web adapter" (events) and "The token" (one current call for each token).
Knows nothing of HTTP. Refuses no second call on a token with a live one unless told to: the interface does not say what
happens, and the worse answer is the one to be ready for. It rings twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.simulator.tokens import Holder

QUEUED = "Call in queue"
CONNECTED = "Call connected"
DISCONNECTED = "Call disconnected"
TIMED_OUT = "Call queued timeout"
FAILED = "Call failed"
UNKNOWN = "Call continue to poll events with unknown events"
EMPTY = "ClickToCall polled without any events"

# Only the id of "Call connected" is documented; the others are made up.
_IDS = {QUEUED: 168100, CONNECTED: 168101, DISCONNECTED: 168102, TIMED_OUT: 168103, FAILED: 168104, UNKNOWN: 168199}
_STATES = {
    QUEUED: "queued",
    CONNECTED: "connected",
    DISCONNECTED: "ended",
    TIMED_OUT: "timed_out",
    FAILED: "failed",
}
_LIVE = ("accepted", "queued", "connected")
_ENDINGS = {"timeout": TIMED_OUT, "fail": FAILED}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a call; ids are sometimes numbers and sometimes strings of digits, as the documents have them."""

    description: str
    identifier: int | str
    content: dict[str, object]


@dataclass(eq=False, slots=True)
class Call:
    """One ringing of a phone; `state` is accepted, queued, connected, ended, timed_out or failed."""

    number: int
    holder: Holder
    media: str
    outcome: str
    state: str = "accepted"
    events: deque[Event] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None

    @property
    def live(self) -> bool:
        """It occupies an agent, and can be released."""
        return self.state in _LIVE

    def to_json(self) -> dict[str, object]:
        """How the control port shows it."""
        return {"number": self.number, "user": self.holder.user, "media": self.media, "state": self.state}


@dataclass(slots=True)
class _Line:
    call: Call | None = None
    waiting: deque[asyncio.Future[Event | None]] = field(default_factory=deque)


@dataclass(slots=True)
class Stages:
    """How long each stage of a call takes, in seconds; None: the next one comes only when it is pushed.

    `queue` from create to `Call in queue`, `connect` from there to `Call connected` (or `Call queued timeout`,
    `Call failed`, when scripted), `talk` from there to `Call disconnected`.
    """

    queue: float | None
    connect: float | None
    talk: float | None


class Calls:
    """Every call so far, and each token holder's current one.

    `agents` is how many calls may be live at once (None: any number). `changed` is called after each change.
    With `second_create` `"accept"` a create on a token with a live call rings another phone and becomes the current
    one; with `"reject"` it fails.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        agents: int | None,
        second_create: str,
        changed: Callable[[], None],
    ) -> None:
        if second_create not in ("accept", "reject"):
            raise ValueError(f"second_create is accept or reject, not {second_create!r}")
        self.stages = stages
        self.agents = agents
        self.second_create = second_create
        self.all: list[Call] = []
        self._changed = changed
        self._lines: dict[Holder, _Line] = {}
        self._script: deque[str] = deque()
        self._id_type = itertools.cycle((int, str))
        self._content_type = itertools.cycle((int, str))

    def script(self, *outcomes: str) -> None:
        """What becomes of the next calls, in order: `connect`, `timeout` or `fail`. `ValueError` for another word."""
        for outcome in outcomes:
            if outcome != "connect" and outcome not in _ENDINGS:
                raise ValueError(f"unknown outcome of a call: {outcome!r}")
        self._script.extend(outcomes)

    def create(self, holder: Holder, media: str) -> str | None:
        """Rings a phone; or says why not, as NSLB would."""
        line = self._lines.setdefault(holder, _Line())
        if self.second_create == "reject" and line.call is not None and line.call.live:
            return "connect failed"
        if self.agents is not None and sum(call.live for call in self.all) >= self.agents:
            return "No agents available currently"
        outcome = self._script.popleft() if self._script else "connect"
        call = Call(len(self.all) + 1, holder, media, outcome)
        self.all.append(call)
        line.call = call
        self._after(self.stages.queue, call, QUEUED)
        self._changed()
        return None

    def drop(self, holder: Holder) -> bool:
        """Releases the holder's current call; False when there is none that is live."""
        call = self.current(holder)
        if call is None:
            return False
        self._emit(call, DISCONNECTED, {}, None)
        return True

    def current(self, holder: Holder) -> Call | None:
        """The holder's live call, if there is one."""
        line = self._lines.get(holder)
        return line.call if line and line.call and line.call.live else None

    def push(
        self,
        user: str,
        description: str,
        content: dict[str, object] | None = None,
        event_id: int | str | None = None,
    ) -> Call:
        """Makes an event of the user's live call due now, whatever the times say. `LookupError` without such a call."""
        for holder in self._lines:
            if holder.user == user and (call := self.current(holder)) is not None:
                self._emit(call, description, self._content(description) if content is None else content, event_id)
                return call
        raise LookupError(f"no live call of {user!r}")

    async def poll(self, holder: Holder, seconds: float, gone: asyncio.Future[None]) -> Event | None:
        """The next event of the holder's current call, at once if one is due; None after `seconds` without one.

        Ends early when `gone` is done (the client has hung up), so that a dead poll does not swallow an event.
        """
        line = self._lines.setdefault(holder, _Line())
        if line.call is not None and line.call.events:
            return line.call.events.popleft()
        waiter: asyncio.Future[Event | None] = asyncio.get_running_loop().create_future()

        def end(_: object = None) -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = asyncio.get_running_loop().call_later(seconds, end)
        gone.add_done_callback(end)
        line.waiting.append(waiter)
        self._changed()
        try:
            return await waiter
        finally:
            timer.cancel()
            gone.remove_done_callback(end)
            if waiter in line.waiting:
                line.waiting.remove(waiter)

    def polls(self, user: str | None = None) -> int:
        """How many long polls wait now, of everybody or of that user."""
        lines = [line for holder, line in self._lines.items() if user is None or holder.user == user]
        return sum(not waiter.done() for line in lines for waiter in line.waiting)

    def stop(self) -> None:
        """Nothing further happens to any call."""
        for call in self.all:
            _cancel(call)

    def _after(self, seconds: float | None, call: Call, description: str) -> None:
        _cancel(call)
        if seconds is not None:
            call.timer = asyncio.get_running_loop().call_later(seconds, self._due, call, description)

    def _due(self, call: Call, description: str) -> None:
        self._emit(call, description, self._content(description), None)

    def _emit(self, call: Call, description: str, content: dict[str, object], event_id: int | str | None) -> None:
        if event_id is None:
            event_id = next(self._id_type)(_IDS.get(description, _IDS[UNKNOWN]))
        call.state = _STATES.get(description, call.state)
        if description == QUEUED:
            self._after(self.stages.connect, call, _ENDINGS.get(call.outcome, CONNECTED))
        elif description == CONNECTED:
            self._after(self.stages.talk, call, DISCONNECTED)
        elif not call.live:
            _cancel(call)
        self._deliver(call, Event(description, event_id, content))
        self._changed()

    def _deliver(self, call: Call, event: Event) -> None:
        line = self._lines[call.holder]
        while line.call is call and line.waiting:
            waiter = line.waiting.popleft()
            if not waiter.done():
                waiter.set_result(event)
                return
        call.events.append(event)

    def _content(self, description: str) -> dict[str, object]:
        if description == CONNECTED:
            return {
                "domain": "webrtc.example",
                "gwAddresses": ["10.10.10.4:8443", "10.10.10.5:8443"],
                "accessCode": next(self._content_type)(179080000537636),
                "clickToCallCaller": "8613300000000",
            }
        if description == FAILED:
            return {"causeId": next(self._content_type)(20001), "causeDesc": "The called party is busy."}
        return {}


def _cancel(call: Call) -> None:
    if call.timer is not None:
        call.timer.cancel()
        call.timer = None
