"""The words that every room shares: secrets, outcomes, operations, who calls, and what was sent for whom.

Owns values without behaviour beyond their own invariants. Refuses input and output of any kind: nothing
here reads a file, a clock or a socket, and nothing here imports another room.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

_MASK: Final = "***"


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


@dataclass(frozen=True, slots=True)
class Principal:
    """A service that has proven who it is, and what it may do."""

    service: str
    accounts: tuple[str, ...]
    media: frozenset[Medium]
    operations: frozenset[Operation]


@dataclass(frozen=True, slots=True)
class Token:
    """A `ccmessaging-token` of one account.

    The generation counts up with each new value, so that whoever saw an old one can say which it was.
    """

    value: Secret
    generation: int


@dataclass(slots=True)
class Trace:
    """Where a request stands in a distributed trace (W3C Trace Context): ids in lower-case hexadecimal."""

    trace_id: str
    span_id: str
    flags: str

    def traceparent(self) -> str:
        """The field value that continues the trace from here."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"
