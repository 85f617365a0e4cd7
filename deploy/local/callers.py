"""Two services that call all the time: calls that are followed, repeated, released, refused, and now and then fail.

Owns the mix of calls, and a stranger who tries keys. Refuses to be a benchmark: it makes a few calls a second, with the
tide, so that there is something to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import aiohttp

from gateway.auth import new_key
from gateway.client import DialClient, DialError

_PAUSE_SECONDS: Final = 0.4
_TIDE_SECONDS: Final = 75.0
_TIDE: Final = 0.5  # how much longer or shorter it makes the pauses
_STRANGE_SECONDS: Final = 3.0
_FAULT_SECONDS: Final = 7.0
_TALK_SECONDS: Final = 2.0
_MEDIA: Final[tuple[Literal["voice", "video"], ...]] = ("voice", "voice", "video")
# What the contact centre does wrong now and then: it is busy, it breaks the connection, it talks nonsense, it is slow.
_FAULTS: Final[tuple[dict[str, object], ...]] = (
    {"kind": "result-code", "operation": "create", "code": "13"},
    {"kind": "close-request", "operation": "create"},
    {"kind": "garbage", "operation": "create", "data": "nonsense"},
    {"kind": "delay", "operation": "create", "seconds": 1.5},
    {"kind": "expire-now", "operation": "create"},
)


class Callers:
    """What becomes of the calls is counted by its word: a status of a call, or the code of a problem."""

    def __init__(self, gateways: Sequence[str], keys: Mapping[str, str], control: str) -> None:
        self._gateways = gateways
        self._keys = keys
        self._control = control
        self._became: Counter[str] = Counter()
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Call until cancelled."""
        async with contextlib.AsyncExitStack() as opened:
            clients = [
                await opened.enter_async_context(DialClient(f"http://{address}", key, attempts=2, lasting_store=True))
                for address in self._gateways
                for key in self._keys.values()
            ]
            session = await opened.enter_async_context(aiohttp.ClientSession())
            faults = asyncio.create_task(self._disturb(session))
            stranger = asyncio.create_task(self._intrude(session))
            try:
                for client in itertools.cycle(clients):
                    call = asyncio.create_task(self._call(client))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
                    await asyncio.sleep(random.expovariate(1 / _pause()))
                    for other in (faults, stranger):
                        if other.done():
                            other.result()
            finally:
                others = (faults, stranger, *self._calls)
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)

    def summary(self) -> str:
        """What became of the calls, in a line."""
        return "Calls: " + (", ".join(f"{word} {count}" for word, count in self._became.most_common()) or "none")

    async def _call(self, client: DialClient) -> None:
        try:
            await client.support()
            call = await client.dial(random.choice(_MEDIA))  # noqa: S311 - a mix
            status: str = call.status
            async for event in client.events(call.id):
                status = event.status
                if status == "connected":
                    await asyncio.sleep(random.uniform(0, _TALK_SECONDS))  # noqa: S311 - a talk
                    await client.release(call.id)
            self._became[status] += 1
        except DialError as error:
            self._became[getattr(error, "code", None) or error.outcome] += 1

    async def _disturb(self, session: aiohttp.ClientSession) -> None:
        for fault in itertools.cycle(_FAULTS):
            await asyncio.sleep(_FAULT_SECONDS)
            async with session.post(f"{self._control}/faults", json=fault) as answer:
                answer.raise_for_status()

    async def _intrude(self, session: aiohttp.ClientSession) -> None:
        for address in itertools.cycle(self._gateways):
            await asyncio.sleep(random.expovariate(1 / _STRANGE_SECONDS))
            headers = random.choice(({}, {"Authorization": f"Bearer {new_key().reveal().decode()}"}))  # noqa: S311 - a mix
            async with session.post(f"http://{address}/dial", json={"media": "voice"}, headers=headers) as answer:
                self._became[(await answer.json())["code"]] += 1


def _pause() -> float:
    return _PAUSE_SECONDS * (1 + _TIDE * math.sin(2 * math.pi * time.monotonic() / _TIDE_SECONDS))
