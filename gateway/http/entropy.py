"""Random bytes from the kernel, fetched for many requests at once.

Owns a stock of them. Refuses to hand out a byte twice: what is taken is cut off. Asking the kernel each time costs
a request more than all that is done with the answer. For one thread of a process that does not fork.
"""

from __future__ import annotations

import os
from typing import Final

_STOCK_BYTES: Final = 4096


class Entropy:
    """A stock of random bytes, as good as those of `os.urandom`."""

    def __init__(self) -> None:
        self._stock = b""
        self._next = 0

    def take(self, count: int) -> bytes:
        """So many bytes that nobody has had."""
        begin = self._next
        end = self._next = begin + count
        if end > len(self._stock):
            self._stock = os.urandom(_STOCK_BYTES)
            begin, end = 0, count
            self._next = count
        return self._stock[begin:end]


ENTROPY: Final = Entropy()
