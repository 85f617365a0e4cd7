"""The token of an account, and the session cookies that came with it.

Owns the value that stands for a contact-centre user. Refuses to show it (it is a `Secret`), to change a byte of
it, and to mix the cookies of two accounts.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

from gateway.model import Secret, Token

_MOST_COOKIES: Final = 4
_MOST_COOKIE_BYTES: Final = 4096


class StaticToken:
    """One account whose token an operator puts into a file or a variable.

    `read` fetches the present value from where it is kept, and raises `OSError` or `ValueError` if it can't.
    `wall` is a clock in epoch seconds; `since` is when the present value was first seen.
    """

    def __init__(
        self,
        account: str,
        value: Secret,
        read: Callable[[], Secret],
        origin: str,
        wall: Callable[[], float],
    ) -> None:
        self.account = account
        self.origin = origin
        self.since = wall()
        self._wall = wall
        self._read = read
        self._token = Token(value, generation=1)
        self._session: dict[bytes, bytes] = {}
        self._settle()

    @property
    def token(self) -> Token:
        """The token to send now."""
        return self._token

    @property
    def cookie(self) -> bytes:
        """The value of the one `Cookie` field: the token byte for byte, then the account's session cookies."""
        return self._cookie

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What is secret in the cookie, the token first."""
        return self._secrets

    def renew(self, generation: int) -> Token | None:
        """A newer token than the one of that generation, which NSLB refused; `None` if there is none.

        The place where it is kept is read again only if nobody has done so since that request was sent.
        """
        if self._token.generation != generation:
            return self._token
        try:
            value = self._read()
        except (OSError, ValueError):
            return None
        return self._token if self.replace(value) else None

    def replace(self, value: Secret) -> bool:
        """Take a new value; `False` if it is the present one.

        The session goes on only if it is visibly the same user's: it must not be sent with another's token.
        """
        if value == self._token.value:
            return False
        user = _user(value)
        if user is None or user != _user(self._token.value):
            self._session = {}
        self._token = Token(value, self._token.generation + 1)
        self.since = self._wall()
        self._settle()
        return True

    def follow(self, value: Secret, read: Callable[[], Secret], origin: str) -> None:
        """Go on under a new configuration: another value is a new generation, the same one keeps its session."""
        self._read = read
        self.origin = origin
        self.replace(value)

    def keep_session(self, cookies: Mapping[bytes, bytes], generation: int) -> None:
        """Keep what NSLB set in answer to a request with the token of that generation; an empty value deletes.

        What was set for a former token is not kept. Nor are more cookies than a session needs: an answer must not
        grow every later request.
        """
        if generation != self._token.generation:
            return
        session = {name: value for name, value in (self._session | dict(cookies)).items() if value}
        size = sum(len(name) + len(value) for name, value in session.items())
        if session != self._session and len(session) <= _MOST_COOKIES and size <= _MOST_COOKIE_BYTES:
            self._session = session
            self._settle()

    def _settle(self) -> None:
        parts = [b"ccmessaging-token=" + self._token.value.reveal()]
        parts += [name + b"=" + value for name, value in self._session.items()]
        self._cookie = b"; ".join(parts)
        self._secrets = (self._token.value, *(Secret(value) for value in self._session.values()))


def _user(token: Secret) -> tuple[Any, ...] | None:
    """Tenant, channel and user of a token (interface page, "The token"); `None` if it doesn't say."""
    try:
        document = orjson.loads(base64.b64decode(unquote_to_bytes(token.reveal()), validate=True))
        return document["tenantId"], document["channelId"], document["userId"]
    except (ValueError, LookupError, TypeError):
        return None
