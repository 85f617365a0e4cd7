"""An answer, whole, and as the JSON object that it may be.

Owns which of its fields are looked at, and when it is one. Refuses what two readers could read in two ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

FIELDS: Final = frozenset({b"content-type", b"content-encoding", b"date"})
BRINGING: Final = frozenset({b"set-cookie", b"ccmessaging-token"})
_RESULT_CODE: Final = b'"resultCode"'


@dataclass(slots=True)
class Reply:
    """An answer, whole: of its fields those in `FIELDS`, names in lower case, everything as it arrived.

    `brought` are those that may bring a session or a token (`BRINGING`); most answers have none.
    """

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    brought: list[tuple[bytes, bytes]] = field(default_factory=list)


def json_object(reply: Reply) -> dict[str, Any] | None:
    """The JSON object of an answer, if it is one, plain, and said to be one (or said to be nothing).

    One that says twice what came of the request says nothing.
    """
    for name, value in reply.fields:
        if name == b"content-encoding" and value.lower() != b"identity":
            return None
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type != b"application/json" and not media_type.endswith(b"+json"):
                return None
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    if (reply.body.count(_RESULT_CODE) > 1 or b"\\u" in reply.body) and _says_it_twice(reply.body):
        return None
    return document


def _says_it_twice(body: bytes) -> bool:
    """Whether the result code is there more than once; the last would win unseen."""
    outermost: list[tuple[str, Any]] = []

    def members(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs

    try:
        json.loads(body, object_pairs_hook=members)
    except (ValueError, RecursionError):
        return True
    return sum(name == "resultCode" for name, _ in outermost) > 1
