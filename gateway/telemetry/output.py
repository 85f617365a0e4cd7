"""The way of log lines to a file descriptor, without ever waiting for who reads them.

Owns what could not be written yet, and the count of lines for which there was no room. Refuses to block: a reader
of the log that stands still must not hold calls, probes or the end of the process.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections import deque
from typing import Final

# A pipe that is ready takes this much without blocking (POSIX, PIPE_BUF).
_PIECE_BYTES: Final = 4096
_MOST_WAITING_BYTES: Final = 4 * 1024 * 1024
_RETRY_SECONDS: Final = 0.02


class Output:
    """A file descriptor to write lines to. To be used from one thread.

    What is not taken at once waits, up to 4 MiB of it, and is tried again while an event loop runs.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self._waiting: deque[memoryview] = deque()
        self._size = 0
        self._lost = 0
        self._retry: asyncio.TimerHandle | None = None

    def write(self, data: bytes, /) -> int:
        """Take whole lines, or count them as lost if too much is waiting."""
        if self._size + len(data) > _MOST_WAITING_BYTES:
            self._lost += data.count(b"\n")
        else:
            self._waiting.append(memoryview(data))
            self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """Write what is waiting, as far as it is taken without blocking. Raises `OSError` when nobody will read it."""
        self._push(0.0)
        if self._waiting and self._retry is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return
            self._retry = loop.call_later(_RETRY_SECONDS, self._again)

    def finish(self, seconds: float) -> None:
        """Write what is waiting, at the end of the process, giving its reader that long. Raises `OSError`, as above."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._push(seconds)

    def take_lost(self) -> int:
        """How many lines have been lost since this was last asked; 0 as long as there is no room to tell of them."""
        if self._waiting:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def _again(self) -> None:
        self._retry = None
        try:
            self.flush()
        except OSError:
            return

    def _push(self, seconds: float) -> None:
        waiting = self._waiting
        until = time.monotonic() + seconds if seconds else 0.0
        try:
            while waiting and self._ready.poll(max(0.0, until - time.monotonic()) * 1000 if until else 0):
                piece = waiting[0]
                written = os.write(self._descriptor, piece[:_PIECE_BYTES])
                self._size -= written
                if written == len(piece):
                    waiting.popleft()
                else:
                    waiting[0] = piece[written:]
        except BlockingIOError:
            return
        except OSError:
            waiting.clear()
            self._size = 0
            raise
