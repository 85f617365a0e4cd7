"""The files that a configuration names: how they are opened, and whether certificates and keys in them are any.

Owns every look into such a file but what the YAML says. Refuses pipes, which would be waited for without end, with
every later reload waiting behind them.
"""

from __future__ import annotations

import errno
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def open_to_read(path: Path) -> BinaryIO:
    """Open a file. Raises `OSError`, for a pipe too."""
    if stat.S_ISFIFO(path.stat().st_mode):
        raise OSError(errno.ESPIPE, "it is a pipe")
    return path.open("rb")


def has_authorities(path: Path) -> bool:
    """Whether a PEM file has certificates to trust."""
    return _taken(lambda context: context.load_verify_locations(path))


def has_certificate(path: Path) -> bool:
    """Whether a PEM file begins with a certificate to show."""
    try:
        certificate_expiry(path)
    except OSError:
        return False
    return has_authorities(path)


def is_key_of(key: Path, certificate: Path) -> bool:
    """Whether a PEM file has the private key of a certificate, without a password."""
    return _taken(lambda context: context.load_cert_chain(certificate, key, password=""))


def certificate_expiry(path: Path) -> float:
    """When the certificate in a PEM file expires, in epoch seconds; of a chain, the first one's. Raises `OSError`."""
    # Imported when a certificate of our own is there to be read: it would be a tenth of an idle gateway's memory.
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    with open_to_read(path) as file:
        content = file.read()
    try:
        return load_pem_x509_certificate(content).not_valid_after_utc.timestamp()
    except ValueError:
        raise OSError(errno.EINVAL, "it has no PEM certificate") from None


def _taken(step: Callable[[ssl.SSLContext], object]) -> bool:
    try:
        step(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except (OSError, ValueError):
        return False
    return True
