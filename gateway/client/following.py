"""How far a service has followed a call.

Owns the place in the stream of its events, over all connections. Refuses to give out an event twice, and to pass over
one that can't be read, or an end: it is the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.client import answers
from gateway.client.answers import ENDED, Event, Unreadable
from gateway.client.sse import SseParser

# What the gateway takes as a `Last-Event-ID`.
_MOST_EVENTS: Final = 999_999_999
_RESUMABLE: Final = re.compile(r"[!-~]{1,255}")


class Place:
    """A place in the stream of one call; `after` is the number of the last event that the service has had.

    `retry_seconds` is how long the gateway asked to wait before a new connection, `over` whether the end was told.
    """

    def __init__(self, call_id: str, after: int | None) -> None:
        if after is not None and not 0 <= after <= _MOST_EVENTS:
            raise ValueError("this is not the number of an event")
        self.retry_seconds: float | None = None
        self.over = False
        self._call_id = call_id
        self._number = after
        self._resume = None if after is None else str(after)
        self._parser = SseParser()

    def fields(self) -> dict[str, str]:
        """The header fields that ask for the stream from here."""
        fields = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        return fields if self._resume is None else fields | {"Last-Event-ID": self._resume}

    def begin(self) -> None:
        """A new connection: what came of an event on the last one is void."""
        self._parser = SseParser()

    def take(self, piece: bytes) -> Iterator[Event]:
        """The events that this piece of the stream completes. Raises `Unreadable`."""
        try:
            messages = self._parser.feed(piece)
        except ValueError as exc:
            raise Unreadable(str(exc)) from None
        if self._parser.retry_seconds is not None:
            self.retry_seconds = self._parser.retry_seconds
        for message in messages:
            self._resume_after(message.id)
            event = answers.event(message.data, message.event, message.id, self._call_id)
            self.over = event.status in ENDED
            # The end is given out whatever its number is: nothing comes after it, and another may have had that one.
            if self.over or event.number is None or self._number is None or event.number > self._number:
                self._number = self._number if event.number is None else event.number
                yield event
            if self.over:
                return
        self._resume_after(self._parser.last_id)

    def _resume_after(self, number: str | None) -> None:
        if number is not None and _RESUMABLE.fullmatch(number):
            self._resume = number
