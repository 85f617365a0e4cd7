"""Two services that call all the time: calls that are followed, repeated, released, refused, and now and then fail.

Owns the mix of calls. Refuses to be a benchmark: it makes a few calls a second, so that there is something to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import aiohttp

from gateway.client import DialClient, DialError

_PAUSE_SECONDS: Final = 0.4
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
            try:
                for client in itertools.cycle(clients):
                    call = asyncio.create_task(self._call(client))
                    self._calls.add(call)
                    call.add_done_callback(self._calls.discard)
                    await asyncio.sleep(random.expovariate(1 / _PAUSE_SECONDS))
                    if faults.done():
                        faults.result()
            finally:
                for task in (faults, *self._calls):
                    task.cancel()
                await asyncio.gather(faults, *self._calls, return_exceptions=True)

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
