"""`DialClient`: dial, follow a call, ask for it, release it.

Owns the repetitions: how often, how long apart, under which key. What may be repeated is `judgement`'s. Refuses to go
on after the service's deadline, and to dial twice under two keys.
"""

from __future__ import annotations

import asyncio
import json
import math
import random as chance
import re
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from http import HTTPStatus
from typing import Final, Literal, Self, TypeVar
from urllib.parse import urlencode

from gateway.client import answers, judgement
from gateway.client.answers import CALL_ID, ENDED, Answer, Call, Event, Support, Unreadable
from gateway.client.connection import Address, Line, NoAnswer, Request, Stream
from gateway.client.following import Place
from gateway.client.judgement import Failure, Known

Told = TypeVar("Told")

_DONE: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})
_KEY: Final = re.compile(r"[!-~]{1,255}")
_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 5.0


class DialClient:
    """One gateway, as one service sees it. Open it with `async with`; one for the whole process is enough.

    `key` is the credential, or is called for it before each attempt. `attempts` and `timeout` (seconds) bound each
    request with all of its repetitions, and `answer_timeout` one attempt; what the gateway can't send within these, it
    doesn't send at all. A stream of events that is silent for `silence_timeout` is taken for lost: the gateway's
    heartbeats are 15 seconds apart. With `lasting_store` a dial that may have been made already (its answer was lost,
    or one with its key is under way) is sent again under that key: only if the gateway's store outlives it (SQLite,
    Redis), because with `memory:` one that was started anew knows nothing of the first. `tls` is what to verify an
    `https` gateway with, if not the system's authorities. `clock`, `sleep` and `random` are there for tests.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, and has a default
        self,
        base_url: str,
        key: str | Callable[[], str],
        *,
        attempts: int = 4,
        timeout: float = 30.0,
        answer_timeout: float = 15.0,
        silence_timeout: float = 45.0,
        lasting_store: bool = False,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = chance.random,
    ) -> None:
        if attempts < 1:
            raise ValueError("there must be one attempt")
        self._address = Address(base_url)
        self._line = Line(self._address, key if callable(key) else lambda: key, tls, clock)
        self._attempts = attempts
        self._timeout = _positive(timeout)
        self._answer_timeout = _positive(answer_timeout)
        self._silence_timeout = _positive(silence_timeout)
        self._lasting_store = lasting_store
        self._clock = clock
        self._sleep = sleep
        self._random = random

    def __repr__(self) -> str:
        return f"DialClient({str(self._address)!r})"

    async def __aenter__(self) -> Self:
        self._line.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._line.close()

    async def dial(
        self,
        media: Literal["voice", "video"],
        account: str | None = None,
        *,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Call:
        """Make a call. Raises `DialError`.

        All repetitions have the same `Idempotency-Key`: yours, or one that nobody can guess. Whoever may cancel this
        (a timeout of its own does) has to give one: otherwise nobody knows under which key a call may have been made.
        What an earlier `dial` under your key left unknown is unknown to this one: see `OutcomeUnknown`.
        """
        if idempotency_key is None:
            idempotency_key = secrets.token_urlsafe(24)
        elif not _KEY.fullmatch(idempotency_key):
            raise ValueError("an idempotency key has 1 to 255 visible ASCII characters")
        wanted = {"media": media} if account is None else {"media": media, "account": account}
        fields = {"Accept": "application/json", "Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        request = Request("POST", "/dial", fields, json.dumps(wanted).encode())
        return await self._repeatedly(request, answers.call, key=idempotency_key, timeout=timeout)

    async def state(self, call_id: str, *, timeout: float | None = None) -> Call:
        """The last known state of a call. Raises `DialError`."""
        request = Request("GET", _target(call_id), {"Accept": "application/json"}, reading=True)
        return await self._repeatedly(request, lambda answer: answers.call(answer, call_id), timeout=timeout)

    async def release(self, call_id: str, *, timeout: float | None = None) -> Call:
        """End a call; the state it is in then. Doing so again is harmless. Raises `DialError`."""
        request = Request("DELETE", _target(call_id), {"Accept": "application/json"})
        return await self._repeatedly(request, lambda answer: answers.call(answer, call_id), timeout=timeout)

    async def support(
        self,
        account: str | None = None,
        *,
        timeout: float | None = None,
    ) -> Support:
        """What the contact centre offers to an account. Raises `DialError`."""
        query = "" if account is None else "?" + urlencode({"account": account})
        request = Request("GET", "/dial/support" + query, {"Accept": "application/json"}, reading=True)
        return await self._repeatedly(request, answers.support, timeout=timeout)

    async def events(self, call_id: str, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Follow a call to its end, each event once: all of them, or those after that number. Raises `DialError`.

        A lost connection is made anew, until nothing has been heard for `timeout` seconds of trying. Whoever leaves
        early should use `contextlib.aclosing`, so that the connection closes at once.
        """
        place = Place(call_id, after)
        target = _target(call_id) + "/events"
        lost_at: float | None = None
        fruitless = 0
        while True:
            try:
                request = Request("GET", target, place.fields(), reading=True)
                async with await self._line.stream(request, self._answer_timeout) as stream:
                    if stream.status == HTTPStatus.NO_CONTENT:
                        return
                    failure = await self._no_stream(stream)
                    place.begin()
                    while failure is None and (piece := await stream.piece(self._silence_timeout)):
                        lost_at = None
                        for event in place.take(piece):
                            fruitless = 0
                            yield event
                            if event.status in ENDED:
                                return
            except NoAnswer as exc:
                failure = _unanswered(exc, reading=True)
            except Unreadable as exc:
                failure = judgement.garbled(str(exc))
            if failure is None:
                failure = judgement.lost("The stream ended before the call.", reading=True)
            fruitless += 1
            lost_at = self._clock() if lost_at is None else lost_at
            # However long the gateway asks us to wait, there is time for a try after that.
            asked = min(place.retry_seconds or 0.0, self._timeout / 2)
            wait = self._wait(fruitless, max(asked, failure.problem.retry_after or 0.0))
            if not failure.repeat or self._clock() + wait >= lost_at + self._timeout:
                raise failure.meaning(failure.problem)
            await self._sleep(wait)

    async def _no_stream(self, stream: Stream) -> Failure | None:
        """What an answer means that is no stream of events."""
        if stream.status == HTTPStatus.OK and stream.media_type == "text/event-stream":
            return None
        return judgement.judge(await stream.answer(self._answer_timeout), reading=True)

    async def _repeatedly(
        self, request: Request, read: Callable[[Answer], Told], *, timeout: float | None, key: str | None = None
    ) -> Told:
        """What the gateway tells, after as many attempts as are needed and allowed. Raises `DialError`."""
        deadline = self._clock() + (self._timeout if timeout is None else _positive(timeout))
        known = Known(key, lasting_store=self._lasting_store)
        attempts = failures = 0
        while True:
            tried = await self._once(request, read, deadline - self._clock())
            if not isinstance(tried, Failure):
                return tried
            known = known.after(tried)
            failures += 1
            attempts += tried.counts
            wait = self._wait(failures, tried.problem.retry_after or 0.0)
            if not known.may_repeat(tried) or attempts >= self._attempts or self._clock() + wait >= deadline:
                raise known.error(tried)
            await self._sleep(wait)
            if self._clock() >= deadline:
                raise known.error(tried)

    async def _once(self, request: Request, read: Callable[[Answer], Told], left: float) -> Told | Failure:
        """One attempt, with that many seconds left for all."""
        try:
            answer = await self._line.answer(request, min(left, self._answer_timeout))
        except NoAnswer as exc:
            return _unanswered(exc, reading=request.reading)
        if answer.status not in _DONE:
            return judgement.judge(answer, reading=request.reading)
        try:
            return read(answer)
        except Unreadable as exc:
            return judgement.unreadable(answer, str(exc), reading=request.reading)

    def _wait(self, failures: int, at_least: float) -> float:
        """How long to wait after that many failures: at random, so that many services don't come back together."""
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(failures - 1, 16))
        return at_least + self._random() * longest


def _unanswered(exc: NoAnswer, *, reading: bool) -> Failure:
    if exc.sent:
        return judgement.lost(exc.detail, reading=reading)
    return judgement.unconnected(exc.detail, untrusted=exc.untrusted)


def _target(call_id: str) -> str:
    if not CALL_ID.fullmatch(call_id):
        raise ValueError("this is not the id of a call")
    return f"/dial/{call_id}"


def _positive(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise ValueError("a time must be more than nothing, and end")
    return seconds
