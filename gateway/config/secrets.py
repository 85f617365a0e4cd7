"""Secrets of the configuration: named by file or by variable, never written.

Owns how a secret is fetched and what may be one. Refuses a secret in the configuration file itself, and never
repeats a value in a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.config.files import open_to_read
from gateway.model import Secret

MOST_BYTES: Final = 16 * 1024
# RFC 6265, 4.1.1, cookie-octet: what can stand in a cookie without quoting.
_COOKIE_OCTETS: Final = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


class SecretFault(ValueError):  # noqa: N818 - it is a fault of the configuration, like the others
    """A secret that can't be used; the message says why and never what it is."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is kept (`origin` is `file` or `env`, `location` a path or a name), and its value."""

    origin: str
    location: str
    value: Secret
    environ: Mapping[str, str] = field(repr=False, compare=False)

    def reread(self) -> Secret:
        """The value as it is kept now. Raises `SecretFault`."""
        return fetch(self.origin, self.location, self.environ)


def fetch(origin: str, location: str, environ: Mapping[str, str]) -> Secret:
    """Read a secret from a file or a variable. Raises `SecretFault`."""
    if origin == "env":
        text = environ.get(location)
        if text is None:
            raise SecretFault("the environment has no such variable")
        raw = text.encode("utf-8", "surrogateescape")
    else:
        try:
            with open_to_read(Path(location)) as file:
                raw = file.read(MOST_BYTES + 1)
        except OSError as exc:
            raise SecretFault(f"the file can't be read: {exc.strerror or type(exc).__name__}") from None
        if len(raw) > MOST_BYTES:
            raise SecretFault(f"the file is over {MOST_BYTES} bytes")
    return Secret(_clean(raw))


def _clean(raw: bytes) -> bytes:
    for ending in (b"\r\n", b"\n"):
        if raw.endswith(ending):
            raw = raw[: -len(ending)]
            break
    if not raw:
        raise SecretFault("the secret is empty")
    if _CONTROL.search(raw):
        raise SecretFault("the secret has a control character or a second line in it")
    if not _COOKIE_OCTETS.fullmatch(raw):
        raise SecretFault("the secret has a character that can't stand in a cookie")
    return raw
