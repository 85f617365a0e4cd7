"""Finds the one credential in the header section of a request.

Owns which fields carry a credential and how. Refuses to choose: with two credentials, or one field twice, there
is none, because two parties on the way may take different ones for the real one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multidict import CIMultiDictProxy

_NOTHING: Final[list[str]] = []


class Absence(StrEnum):
    """Why there is no credential to look at."""

    MISSING = "missing"
    AMBIGUOUS = "ambiguous"
    MALFORMED = "malformed"


def presented(fields: CIMultiDictProxy[str]) -> bytes | Absence:
    """The text of the credential in `Authorization: Bearer` (RFC 6750, 2.1) or `X-API-Key`, or why there is none."""
    authorizations: Sequence[str] = fields.getall("Authorization", _NOTHING)
    keys: Sequence[str] = fields.getall("X-API-Key", _NOTHING)
    if len(authorizations) + len(keys) != 1:
        return Absence.AMBIGUOUS if authorizations or keys else Absence.MISSING
    if keys:
        credential = keys[0]
    else:
        scheme, _, credential = authorizations[0].partition(" ")
        if scheme.lower() != "bearer":
            return Absence.MALFORMED
        credential = credential.lstrip(" ")
    if not credential or not credential.isascii() or " " in credential or not credential.isprintable():
        return Absence.MALFORMED
    return credential.encode("ascii")
