"""The token of an account, and the session cookies that came with it.

Owns the value that stands for a contact-centre user. Refuses to show it (it is a `Secret`), to change a byte of
it, and to mix the cookies of two accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

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
        self._cookie = self._field()

    @property
    def token(self) -> Token:
        """The token to send now."""
        return self._token

    @property
    def cookie(self) -> bytes:
        """The value of the one `Cookie` field: the token byte for byte, then the account's session cookies."""
        return self._cookie

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
        """Take a new value; `False` if it is the present one."""
        if value == self._token.value:
            return False
        self._token = Token(value, self._token.generation + 1)
        self.since = self._wall()
        self._cookie = self._field()
        return True

    def follow(self, value: Secret, read: Callable[[], Secret], origin: str) -> None:
        """Go on under a new configuration: another value is a new generation, and the session stays."""
        self._read = read
        self.origin = origin
        self.replace(value)

    def keep_session(self, cookies: Mapping[bytes, bytes]) -> None:
        """Keep what NSLB set for this account; an empty value deletes.

        More cookies than a session needs are not kept: an answer must not grow every later request.
        """
        session = {name: value for name, value in (self._session | dict(cookies)).items() if value}
        size = sum(len(name) + len(value) for name, value in session.items())
        if session != self._session and len(session) <= _MOST_COOKIES and size <= _MOST_COOKIE_BYTES:
            self._session = session
            self._cookie = self._field()

    def _field(self) -> bytes:
        parts = [b"ccmessaging-token=" + self._token.value.reveal()]
        parts += [name + b"=" + value for name, value in self._session.items()]
        return b"; ".join(parts)
