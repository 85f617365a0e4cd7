"""API keys: how one is made, and whose one is.

Owns the digests of the keys that the configuration names. Refuses to know a key itself: what it holds is of no
use to whoever reads it, because a key is 256 random bits, so a plain SHA-256 of it can't be searched.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gateway.model import Principal, Secret

PREFIX: Final = "dgw_"  # lets scanners of repositories and logs recognise a key that went astray
_KEY_BYTES: Final = 32
_BUCKET_BYTES: Final = 8


def new_key() -> Secret:
    """A new key: `dgw_` and 256 random bits in URL-safe Base64 (RFC 4648, 5)."""
    return Secret(PREFIX + secrets.token_urlsafe(_KEY_BYTES))


def digest(key: bytes) -> bytes:
    """The SHA-256 of the whole text of a key: 32 bytes."""
    return hashlib.sha256(key).digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of a service by its digest; valid before `not_after` (epoch seconds), if there is one."""

    digest: bytes
    not_after: float | None
    principal: Principal

    @classmethod
    def until(cls, digest: bytes, not_after: datetime | None, principal: Principal) -> ApiKey:
        """The same from a point in time."""
        return cls(digest, not_after.timestamp() if not_after is not None else None, principal)


class ApiKeys:
    """Finds the principal of a key, in the same time whether it is unknown or wrong in any of its bytes.

    What is looked up is the digest, over which a caller has no hold: the table is entered by its first bytes,
    and exactly one comparison of whole digests follows, in constant time, against a stand-in if the place in
    the table is empty.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._buckets: dict[bytes, ApiKey] = {}
        for key in keys:
            if self._buckets.setdefault(key.digest[:_BUCKET_BYTES], key) is not key:
                msg = "two digests begin with the same bytes: the same key is configured twice"
                raise ValueError(msg)
        nobody = Principal("", (), frozenset(), frozenset())
        self._stand_in = ApiKey(secrets.token_bytes(_KEY_BYTES), None, nobody)

    def identify(self, key: bytes, now: float) -> tuple[Principal | None, str]:
        """Whose key this is, and the word for the metric: `accepted`, `unknown` or `expired`.

        `now` is in epoch seconds.
        """
        wanted = digest(key)
        found = self._buckets.get(wanted[:_BUCKET_BYTES], self._stand_in)
        if not hmac.compare_digest(found.digest, wanted):
            return None, "unknown"
        if found.not_after is not None and now >= found.not_after:
            return None, "expired"
        return found.principal, "accepted"
