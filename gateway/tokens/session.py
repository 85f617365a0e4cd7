"""What is sent for a user: the token, and the session cookies that came with it.

Owns the value of the one `Cookie` field. Refuses to show a token (it is a `Secret`), to change a byte of it, and to let
an answer grow every later request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

from gateway.model import Credential, Secret, Token

_MOST_COOKIES: Final = 4
_MOST_COOKIE_BYTES: Final = 4096


class Session:
    """The session cookies of one user."""

    def __init__(self) -> None:
        self._cookies: dict[bytes, bytes] = {}

    def keep(self, cookies: Mapping[bytes, bytes]) -> bool:
        """Keep cookies, of which an empty one deletes; whether that changed anything.

        More of them than a session needs are not kept.
        """
        kept = {name: value for name, value in (self._cookies | dict(cookies)).items() if value}
        size = sum(len(name) + len(value) for name, value in kept.items())
        if kept == self._cookies or len(kept) > _MOST_COOKIES or size > _MOST_COOKIE_BYTES:
            return False
        self._cookies = kept
        return True

    def end(self) -> None:
        """Forget them: they must not be sent with another user's token."""
        self._cookies = {}

    def credential(self, token: Token) -> Credential:
        """The token byte for byte, then the session cookies."""
        parts = [b"ccmessaging-token=" + token.value.reveal()]
        parts += [name + b"=" + value for name, value in self._cookies.items()]
        secrets = (token.value, *(Secret(value) for value in self._cookies.values()))
        return Credential(token.generation, b"; ".join(parts), secrets)


def user_of(token: Secret) -> tuple[Any, ...] | None:
    """Tenant, channel and user of a token (interface page, "The token"); `None` if it doesn't say."""
    try:
        document = orjson.loads(base64.b64decode(unquote_to_bytes(token.reveal()), validate=True))
        return document["tenantId"], document["channelId"], document["userId"]
    except (ValueError, LookupError, TypeError):
        return None
