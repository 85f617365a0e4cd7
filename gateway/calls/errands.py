"""What the store is being told of calls while nobody waits for it any more.

Owns those tasks, over all versions of the configuration. Refuses to be forgotten: whoever closes the store waits for
them first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

_BRIEF_SECONDS: Final = 0.2


class Errands:
    """Tasks that outlive the requests that began them. None takes longer than the store does to answer or to fail."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin one; it goes on whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def brief(self, work: Coroutine[Any, Any, None], until: float) -> bool:
        """Begin one and wait for it a moment, at most `until` (of the event loop's clock); whether it has ended."""
        task = self.begin(work)
        loop = asyncio.get_running_loop()
        await asyncio.wait({task}, timeout=max(0.0, min(_BRIEF_SECONDS, until - loop.time())))
        return task.done()

    async def finish(self) -> None:
        """Wait until none is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)
