"""Log lines: structlog to one JSON object a line, and only fields that are known.

Owns the list of fields, the form of a line and its way to standard output, and what becomes of the lines that
libraries write through `logging`. Refuses every field that is not on the list, every value of a library's
message, and the text of any exception: they quote what they choked on, and that may be a credential.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol

import orjson
import structlog

from gateway.model import Secret

# The contract's fields of a request, then those of the other events. README's table is tested against this.
FIELDS: Final = frozenset({
    "timestamp", "level", "event",
    "request_id", "trace_id", "span_id", "service", "account", "operation", "media", "outcome", "code",
    "result_code", "http.request.method", "http.route", "http.response.status_code", "client.address",
    "server.address", "server.port", "attempts", "duration", "upstream.duration",
    "version", "lines", "faults", "listen", "admin", "reason", "logger", "message",
    "trigger", "generation", "retry_in", "kind",
    "exception.type", "exception.stacktrace",
})  # fmt: skip

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class BinarySink(Protocol):
    """Where bytes go: the shape of `sys.stdout.buffer`."""

    def write(self, data: bytes, /) -> int | None:
        """Take some bytes."""

    def flush(self) -> None:
        """Pass on what was taken."""


class LineWriter:
    """Collects the lines of one turn of the event loop and writes them at once; without a loop, directly.

    A batch never outlives the turn in which it began, so a crash loses no line of an earlier turn that its reader
    was ready to take.
    """

    def __init__(self, sink: BinarySink) -> None:
        self._sink = sink
        self._lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        """Take one line, with its newline."""
        if not self._lines:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self._lines.append(line)
                self.flush()
                return
        self._lines.append(line)

    def flush(self) -> None:
        """Write what is waiting. A reader of the log that went away must not stop calls."""
        lines, self._lines = self._lines, []
        if lines:
            try:
                self._sink.write(b"".join(lines))
                self._sink.flush()
            except OSError:
                return

    debug = info = warning = error = write


class _Stamp:
    """RFC 3339 in UTC with milliseconds; the part down to the second is made once a second."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f"{self._text}{int((now - second) * 1000):03d}Z"


def _redact(value: object) -> str:
    """What a value that is no JSON becomes: a secret its mask, anything else the name of its type."""
    return str(value) if isinstance(value, Secret) else f"<{type(value).__name__}>"


class Log:
    """The structured log of this process. `level` is one of `LEVELS`."""

    def __init__(self, writer: LineWriter, level: str = "info", wall: Callable[[], float] = time.time) -> None:
        self._writer = writer
        self._stamp = _Stamp(wall)
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Drop lines below this level from now on."""
        self._threshold = LEVELS[level]
        logger = structlog.wrap_logger(
            self._writer,
            processors=[self._render],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        ).bind()
        self.debug = logger.debug
        self.info = logger.info
        self.warning = logger.warning
        self.error = logger.error

    def request(self, line: dict[str, object]) -> None:
        """Write the line of a request past structlog, in a third of the time; its timestamp is set here.

        The names in `line` are literals in the code that calls this, so they are not looked up in `FIELDS`.
        """
        if LEVELS[str(line["level"])] >= self._threshold:
            line["timestamp"] = self._stamp()
            self._writer.write(orjson.dumps(line, default=_redact, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

    def fault(self, exc: BaseException, **fields: object) -> None:
        """A fault of ours, with where it happened: types, files and lines, never a message or a value."""
        self.error("internal.fault", **describe(exc), **fields)

    def _render(self, _: object, level: str, event: MutableMapping[str, Any]) -> tuple[tuple[bytes], dict[str, Any]]:
        line: dict[str, Any] = {"timestamp": self._stamp(), "level": level, "event": event.pop("event")}
        line.update({name: value for name, value in event.items() if value is not None and name in FIELDS})
        # As arguments and not as a value, because structlog would take bytes for a message to be decoded.
        return (orjson.dumps(line, default=_redact, option=orjson.OPT_APPEND_NEWLINE),), {}


def describe(exc: BaseException) -> dict[str, object]:
    """The type of an exception and where it was raised, without its text or any value."""
    frames = traceback.extract_tb(exc.__traceback__)
    return {
        "exception.type": f"{type(exc).__module__}.{type(exc).__qualname__}",
        "exception.stacktrace": [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in frames],
    }


class LibraryHandler(logging.Handler):
    """Turns what libraries log into our lines: who, at which level, the constant part of the message.

    A message with its arguments filled in would carry the bytes that a peer sent, so only the template of one
    that has arguments is shown, and a message that came ready-made is not shown at all.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line for one record of the `logging` module."""
        fields: dict[str, object] = {"logger": record.name}
        if record.args:
            fields["message"] = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            fields.update(describe(record.exc_info[1]))
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        if record.levelno < logging.WARNING:
            write = self._log.debug
        write("library.message", **fields)


def capture_libraries(log: Log) -> None:
    """Send everything that goes through `logging` to our log, and nowhere else."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(LibraryHandler(log))
    root.setLevel(logging.WARNING)


def loop_exception_handler(log: Log) -> Callable[[asyncio.AbstractEventLoop, Mapping[str, Any]], None]:
    """An event loop's exception handler; asyncio's own would print the `repr` of whatever was at hand."""

    def handle(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        exc = context.get("exception")
        if isinstance(exc, BaseException):
            log.fault(exc)
        else:
            log.error("internal.fault", **{"exception.type": "asyncio"})

    return handle
