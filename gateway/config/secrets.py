"""Secrets of the configuration: named by file or by variable, never written.

Owns how a secret is fetched and what may be one. Refuses a secret in the configuration file itself, and never
repeats a value in a message.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from gateway.config.files import open_to_read
from gateway.model import MOST_TOKEN_BYTES, Secret, can_be_token

MOST_BYTES: Final = 16 * 1024
_FERNET_BYTES: Final = 32
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


class SecretFault(ValueError):  # noqa: N818 - it is a fault of the configuration, like the others
    """A secret that can't be used; the message says why and never what it is."""


class Kind(StrEnum):
    """What a secret is for, which decides what may be in it."""

    TOKEN = "token"  # noqa: S105 - the word for it
    FIELD = "field"
    TEXT = "text"
    ENCRYPTION_KEY = "encryption_key"


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is kept (`origin` is `file` or `env`, `location` a path or a name), and its value."""

    origin: str
    location: str
    kind: Kind
    value: Secret
    environ: Mapping[str, str] = field(repr=False, compare=False)

    def reread(self) -> Secret:
        """The value as it is kept now. Raises `SecretFault`."""
        return fetch(self.origin, self.location, self.kind, self.environ)


def fetch(origin: str, location: str, kind: Kind, environ: Mapping[str, str]) -> Secret:
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
    return Secret(_clean(raw, kind))


def _clean(raw: bytes, kind: Kind) -> bytes:
    for ending in (b"\r\n", b"\n"):
        if raw.endswith(ending):
            raw = raw[: -len(ending)]
            break
    if not raw:
        raise SecretFault("the secret is empty")
    if _CONTROL.search(raw):
        raise SecretFault("the secret has a control character or a second line in it")
    if kind is Kind.TOKEN and not can_be_token(raw):
        raise SecretFault(
            f"the secret is over {MOST_TOKEN_BYTES} bytes, or has a character that can't stand in a cookie"
        )
    if kind is Kind.FIELD and not (raw.isascii() and b" " not in raw):
        raise SecretFault("the secret has a character that can't stand in a header field")
    if kind is Kind.ENCRYPTION_KEY and not _is_fernet_key(raw):
        raise SecretFault(
            "the secret is no key: 32 bytes in URL-safe Base64, as `dial-gateway key encryption` prints it"
        )
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise SecretFault("the secret is not UTF-8") from None
    return raw


def _is_fernet_key(raw: bytes) -> bool:
    try:
        return len(base64.b64decode(raw, altchars=b"-_", validate=True)) == _FERNET_BYTES
    except ValueError:
        return False
