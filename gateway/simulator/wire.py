"""Owns the reading of HTTP/1.1 requests, byte for byte, and what an answer is before it is written.

Refuses everything that RFC 9112 does not allow: bare line feeds, folded fields, two lengths, a length beside chunks,
unknown transfer codings, HTTP/1.0. It is a reading of its own: the gateway's client uses another parser.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 1024 * 1024

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~]{1,16384}) HTTP/1\.1")
_VISIBLE = rb"[\x21-\x7e\x80-\xff]"
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*"
    rb"((?:" + _VISIBLE + rb"(?:[\x20-\x7e\x80-\xff\t]*" + _VISIBLE + rb")?)?)[ \t]*"
)
_LENGTH = re.compile(r"[0-9]{1,9}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,7})\r\n")


class MalformedError(Exception):
    """A request that is not HTTP/1.1 as RFC 9112 has it; the text says where."""


@dataclass(eq=False, slots=True)
class Received:
    """One request, as it arrived. Those whose head was complete are recorded, whatever became of them.

    `headers` keep order, case and value; `raw` is the whole request, with the chunks' framing if there was any;
    `at` is the simulator's clock (seconds since the epoch) when the head was complete; `endpoint` is the index of the
    listener. `status` is the status that was answered (also when only half of the answer was sent), None if none was;
    `refusal` says why it was refused; `user` is the token's. The `repr` holds no header and no body.
    """

    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    raw: bytes = b""
    at: float = 0.0
    endpoint: int = 0
    status: int | None = None
    operation: str | None = None
    user: str | None = None
    refusal: str | None = None

    def __repr__(self) -> str:
        return f"<Received {self.method} {self.target.partition('?')[0]} status={self.status} refusal={self.refusal!r}>"

    @property
    def path(self) -> str:
        """The target up to the question mark, as it arrived."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark; empty without one."""
        return self.target.partition("?")[2]

    def fields(self, name: str) -> list[str]:
        """Every value of that header field, in order."""
        name = name.lower()
        return [value for key, value in self.headers if key.lower() == name]

    def header(self, name: str) -> str | None:
        """The first value of that header field, whatever its case."""
        values = self.fields(name)
        return values[0] if values else None

    def cookie_pairs(self) -> list[tuple[str, str]]:
        """Every cookie of every Cookie field, in order, the values untouched. A pair without `=` has an empty name."""
        pairs = []
        for value in self.fields("cookie"):
            for pair in value.split(";"):
                name, equals, content = pair.strip(" \t").partition("=")
                pairs.append((name, content) if equals else ("", name))
        return pairs

    def cookies(self) -> dict[str, str]:
        """The cookies by name; of two with one name, the last."""
        return dict(self.cookie_pairs())


@dataclass(slots=True)
class Answer:
    """An answer before it is written: the header fields without Content-Length, which the writer adds."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)


def json_answer(status: int, content: Mapping[str, object], headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """An answer of compact JSON, with the fields in the order given."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return Answer(status, body, [("Content-Type", "application/json;charset=UTF-8"), *headers])


def parse_object(body: bytes) -> dict[str, object]:
    """A JSON object whose names are all different; `ValueError` for anything else."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name twice in one object")
        return found

    content: object = json.loads(body.decode("utf-8"), object_pairs_hook=unique)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  what was sent is wrong, not what a caller here did
    return content


def parse_head(received: Received) -> None:
    """Fills method, target and headers from `raw`, a head with its empty line. `MalformedError` if it is not one."""
    lines = received.raw[:-4].split(b"\r\n")
    first = _REQUEST_LINE.fullmatch(lines[0])
    if first is None:
        raise MalformedError("not a request line of HTTP/1.1")
    received.method, received.target = first[1].decode("ascii"), first[2].decode("ascii")
    for line in lines[1:]:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise MalformedError("not a header field")
        received.headers.append((found[1].decode("ascii"), found[2].decode("latin-1")))
    if len(received.fields("host")) != 1:
        raise MalformedError("not one Host field")


async def read_body(reader: asyncio.StreamReader, received: Received) -> None:
    """Reads the body that the head announces, and appends it to `raw`. `MalformedError`, `IncompleteReadError`."""
    lengths, codings = received.fields("content-length"), received.fields("transfer-encoding")
    if codings:
        if lengths:
            raise MalformedError("Content-Length beside Transfer-Encoding")
        if [coding.lower() for coding in codings] != ["chunked"]:
            raise MalformedError("a transfer coding other than chunked")
        await _read_chunks(reader, received)
    elif lengths:
        if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
            raise MalformedError("not one decimal Content-Length")
        length = int(lengths[0])
        if length > BODY_LIMIT:
            raise MalformedError("a body that is too large")
        received.body = await reader.readexactly(length)
        received.raw += received.body


async def _read_chunks(reader: asyncio.StreamReader, received: Received) -> None:
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError:
            raise MalformedError("a chunk's size without an end") from None
        received.raw += line
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise MalformedError("not a chunk's size")
        size = int(found[1], 16)
        if len(received.body) + size > BODY_LIMIT:
            raise MalformedError("a body that is too large")
        chunk = await reader.readexactly(size + 2)
        received.raw += chunk
        if not chunk.endswith(b"\r\n"):
            raise MalformedError("a chunk without its end, or a trailer")
        if not size:
            return
        received.body += chunk[:-2]
