"""Owns the tokens of web-channel users: issue, renewal, expiry, and the check of one that arrives.

Source: interface page, "The token". One token is current for each (tenant, channel, user); a newer one supersedes it.
Refuses to be lenient: a token is compared byte for byte, so that one that was decoded and encoded again does not match.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import json
import secrets
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

TENANT = "202300000001"
CHANNEL = "2023"


class Holder(NamedTuple):
    """Whom a token belongs to."""

    tenant: str
    channel: str
    user: str


class Verdict(enum.Enum):
    """What the check found. `EXPIRED` means current but too old; a superseded one is `SUPERSEDED`, however old."""

    CURRENT = "current"
    ABSENT = "absent"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"


@dataclass(slots=True)
class _Current:
    value: str
    expires: float


class Tokens:
    """The current token of every holder. `lifetime` in seconds; `clock` gives seconds since the epoch."""

    def __init__(self, lifetime: float, clock: Callable[[], float]) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._current: dict[Holder, _Current] = {}

    def now(self) -> float:
        """What time it is here, in seconds since the epoch."""
        return self._clock()

    def issue(self, holder: Holder) -> str:
        """Makes a new token for the holder, which supersedes the one before."""
        value = _make(holder)
        self._current[holder] = _Current(value, self._clock() + self.lifetime)
        return value

    def check(self, value: str | None) -> tuple[Verdict, Holder | None]:
        """The verdict, and the holder that the value names (None when it names none)."""
        if not value:
            return Verdict.ABSENT, None
        holder = _holder_of(value)
        if holder is None:
            return Verdict.MALFORMED, None
        current = self._current.get(holder)
        if current is None:
            return Verdict.UNKNOWN, holder
        if not hmac.compare_digest(current.value.encode(), value.encode("latin-1", "replace")):
            return Verdict.SUPERSEDED, holder
        return (Verdict.EXPIRED if self._clock() >= current.expires else Verdict.CURRENT), holder

    def current(self, user: str) -> str | None:
        """The token of the first holder with that user id, whether it has expired or not."""
        return next((token.value for holder, token in self._current.items() if holder.user == user), None)

    def expire(self, user: str | None = None) -> int:
        """Ends the current tokens, all of them or one user's, now; says how many."""
        chosen = [token for holder, token in self._current.items() if user is None or holder.user == user]
        for token in chosen:
            token.expires = float("-inf")
        return len(chosen)


def _make(holder: Holder) -> str:
    # "~~~" gives a "+" and "???" a "/" in Base64 wherever they start, and the last "." makes padding: each token has
    # all three of the characters that a careless client would spoil.
    content = {"tenantId": holder.tenant, "channelId": holder.channel, "userId": holder.user}
    text = json.dumps(content | {"id": secrets.token_hex(12) + "~~~???"}, separators=(",", ":")).encode()
    if len(text) % 3 == 0:
        text = text[:-2] + b'."}'
    return urllib.parse.quote(base64.b64encode(text).decode("ascii"), safe="")


def _holder_of(value: str) -> Holder | None:
    try:
        content = json.loads(base64.b64decode(urllib.parse.unquote(value, errors="strict"), validate=True))
        parts = content["tenantId"], content["channelId"], content["userId"]
    except (ValueError, binascii.Error, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(part, str) for part in parts):
        return None
    return Holder(*parts)
