"""Server-sent events, as they come in pieces (WHATWG HTML, 9.2.6).

Owns the parsing of the stream. Refuses a line or an event without end: more than `MOST_BYTES` of it is a fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MOST_BYTES: Final = 256 * 1024

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
_MILLISECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Message:
    """One event of the stream; `id` only if it brought one of its own."""

    event: str
    data: str
    id: str | None


class SseParser:
    """Takes the bytes of one stream in any pieces.

    `last_id` is where to resume after what was given out; `retry_seconds` is how long to wait before that, if the
    stream said so.
    """

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.retry_seconds: float | None = None
        self._first_line = True
        self._line: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, piece: bytes) -> list[Message]:
        """The events that this piece completes. Raises `ValueError` if one becomes too long."""
        if not piece:
            return []
        # A CR ends its line at once: waiting for a LF that may never come would hold back the event.
        continued = piece.removeprefix(b"\n") if self._after_cr else piece
        self._after_cr = piece.endswith(b"\r")
        found = []
        *ended, rest = _LINE_END.split(continued)
        for end in ended:
            self._grow(end)
            message = self._take(b"".join(self._line))
            self._line.clear()
            if message is not None:
                found.append(message)
        if rest:
            self._grow(rest)
        return found

    def _grow(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MOST_BYTES:
            raise ValueError("an event is too long")
        self._line.append(part)

    def _take(self, line: bytes) -> Message | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        if line.startswith(b":"):
            # Heartbeats go on for as long as a call is silent, and belong to no event.
            self._size -= len(line)
            return None
        name, _, value = line.decode("utf-8", "replace").partition(":")
        self._field(name, value.removeprefix(" "))
        return None

    def _field(self, name: str, value: str) -> None:
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if _MILLISECONDS.fullmatch(value):
                self.retry_seconds = int(value) / 1000
            case _:  # a field of later times
                pass

    def _dispatch(self) -> Message | None:
        message = Message(self._event or "message", "\n".join(self._data), self._id) if self._data else None
        if self._id is not None:
            self.last_id = self._id
        self._event, self._id, self._size = "", None, 0
        self._data.clear()
        return message
