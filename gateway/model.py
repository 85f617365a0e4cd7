"""The words that every room shares: secrets, outcomes, operations, who calls, and what was sent for whom.

Owns values without behaviour beyond their own invariants. Refuses input and output of any kind: nothing
here reads a file, a clock or a socket, and nothing here imports another room.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

_MASK: Final = "***"
MOST_TOKEN_BYTES: Final = 8 * 1024
# RFC 6265, 4.1.1, cookie-octet: what can stand in a cookie without quoting.
_COOKIE_OCTETS: Final = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")


class Secret:
    """Bytes that must not be seen: `repr`, `str`, `format`, pickle and any log form are `***`.

    A secret has no length, no hash and no order, so that none of them can leak it; equality takes the same
    time wherever two secrets differ.
    """

    __slots__ = ("__value",)

    def __init__(self, value: str | bytes) -> None:
        self.__value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves, exactly as they were given; the only way to them."""
        return self.__value

    def __repr__(self) -> str:
        return _MASK

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return _MASK

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (_MASK,)

    # Copies stay inside the process, so they keep the value that pickling drops.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.__value, other.reveal())

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret is a fingerprint of it


def can_be_token(value: bytes) -> bool:
    """Whether these bytes can be sent as a token: in a cookie, without a change."""
    return len(value) <= MOST_TOKEN_BYTES and _COOKIE_OCTETS.fullmatch(value) is not None


class Outcome(StrEnum):
    """What a caller has to know before it retries (contract, "Words")."""

    ACCEPTED = "accepted"
    NOT_SENT = "not_sent"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class Medium(StrEnum):
    """What a call carries."""

    VOICE = "voice"
    VIDEO = "video"


class Operation(StrEnum):
    """What the web adapter can be asked to do (interface page, "Operations of the web adapter")."""

    CREATE = "create"
    CHECK = "check"
    EVENTS = "events"
    DROP = "drop"


class CallStatus(StrEnum):
    """How far a call has come (contract, "The callers' API")."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    CONNECTED = "connected"
    ENDED = "ended"
    TIMED_OUT = "timed_out"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return self in _OVER


_OVER: Final = frozenset({CallStatus.ENDED, CallStatus.TIMED_OUT, CallStatus.FAILED})


@dataclass(frozen=True, slots=True)
class CallEvent:
    """What NSLB tells of a call. `status` is `None` if it changes nothing; `content` is a JSON object.

    What `event_id` means is documented for one of them only (interface page, "Operations of the web adapter").
    """

    status: CallStatus | None
    event_id: int | float | str | None
    description: str | None
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Principal:
    """A service that has proven who it is, and what it may do.

    `keyed` says that it must send an `Idempotency-Key` with each call.
    """

    service: str
    accounts: tuple[str, ...]
    media: frozenset[Medium]
    operations: frozenset[Operation]
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A `ccmessaging-token` of one account.

    The generation grows with each new value, so that whoever saw an old one can say which it was. `obtained` and
    `expires` are in epoch seconds; when a token that somebody else applied for expires isn't known (`None`).
    """

    value: Secret
    generation: int
    obtained: float
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves to NSLB for whom a request is: the value of the `Cookie` field, and what is secret in it.

    The token is the first of the `secrets`; `generation` is its.
    """

    generation: int
    cookie: bytes = field(repr=False)
    secrets: tuple[Secret, ...]


@dataclass(slots=True)
class Trace:
    """Where a request stands in a distributed trace (W3C Trace Context): ids in lower-case hexadecimal.

    `parent_id` is the caller's span, if it has one.
    """

    trace_id: str
    span_id: str
    flags: str
    parent_id: str | None = None

    def traceparent(self) -> str:
        """The field value that continues the trace from here."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
