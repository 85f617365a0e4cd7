"""Tokens and records as bytes that may be put down somewhere: encrypted, and bound to the place that they are for.

Owns the form of what a store keeps. Refuses a token that was sealed for another account or another generation, a
record that was sealed for another key, and the one for the other: whoever can write to the store could otherwise swap
them without reading any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import orjson

from gateway.model import Secret, Token
from gateway.store.shelf import Stored

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

# Of a store that is never written down.
_PLAIN: Final = b"plain:"
_PLAIN_RECORD: Final = b"plain-record:"


class Seal:
    """Seals with the first of the keys (Fernet's: 32 bytes in URL-safe Base64), and opens with any of them.

    Without keys nothing is encrypted. Raises `ValueError` for a key that is none.
    """

    def __init__(self, keys: Sequence[Secret] = ()) -> None:
        self._fernets: list[Fernet] = []
        if keys:
            # A tenth of an idle gateway's memory: only for who asked for it.
            from cryptography.fernet import Fernet  # noqa: PLC0415

            self._fernets = [Fernet(key.reveal()) for key in keys]

    def close(self, key: str, token: Token) -> bytes:
        """A token, sealed for the account of that key."""
        document = {
            "key": key,
            "generation": token.generation,
            "value": token.value.reveal().decode("latin-1"),
            "obtained": token.obtained,
            "expires": token.expires,
        }
        content = orjson.dumps(document)
        return self._fernets[0].encrypt(content) if self._fernets else _PLAIN + content

    def open(self, key: str, stored: Stored) -> tuple[Token, bool]:
        """What is in a seal, and whether it is the present one (else it should be sealed anew).

        Raises `ValueError` for what was sealed with another key, for somebody else, or not at all.
        """
        content, current = self._unsealed(stored.sealed, _PLAIN)
        document = orjson.loads(content)
        try:
            if document["key"] != key or document["generation"] != stored.generation:
                raise ValueError("it was sealed for something else")
            value = Secret(document["value"].encode("latin-1"))
            token = Token(value, document["generation"], document["obtained"], document["expires"])
        except (LookupError, TypeError, AttributeError, UnicodeEncodeError):
            raise ValueError("it was sealed by somebody else") from None
        return token, current

    def close_record(self, key: str, content: bytes) -> bytes:
        """The content of a record, sealed for its key."""
        bound = _bound(key) + content
        return self._fernets[0].encrypt(bound) if self._fernets else _PLAIN_RECORD + bound

    def open_record(self, key: str, sealed: bytes) -> bytes:
        """The content of a record.

        Raises `ValueError` for what was sealed with another key, for another place, or not at all.
        """
        content, _ = self._unsealed(sealed, _PLAIN_RECORD)
        if not content.startswith(_bound(key)):
            raise ValueError("it was sealed for something else")
        return content.removeprefix(_bound(key))

    def _unsealed(self, sealed: bytes, plain: bytes) -> tuple[bytes, bool]:
        if not self._fernets:
            if not sealed.startswith(plain):
                raise ValueError("it is sealed, and there is no key")
            return sealed.removeprefix(plain), True
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - has been loaded with the keys

        for number, fernet in enumerate(self._fernets):
            try:
                return fernet.decrypt(sealed), number == 0
            except InvalidToken:
                continue
        raise ValueError("no key opens it")


def _bound(key: str) -> bytes:
    """What a record begins with: no token, which begins with a brace, and no record of a longer or shorter key."""
    place = key.encode()
    return b"record:%d:%s:" % (len(place), place)
