"""What an upstream's certificate must be, and how that is checked.

Owns the TLS settings of connections to NSLB. Refuses unverified certificates in every configuration: there is no
setting that turns verification off.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway import problems
from gateway.upstream.failures import NotSent


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """How to verify a peer.

    `server_name` is sent as SNI and verified instead of the endpoint's host, if given; `pins` are SHA-256
    digests of DER certificates (32 bytes each), of which the peer must show one, if there are any.
    """

    context: ssl.SSLContext
    server_name: str | None = None
    pins: frozenset[bytes] = frozenset()

    def check_pins(self, certificate: bytes) -> None:
        """Raise `NotSent` unless the peer's certificate (DER) is one of the pinned ones, or none is pinned."""
        if not self.pins:
            return
        shown = hashlib.sha256(certificate).digest()
        if not any(hmac.compare_digest(pin, shown) for pin in self.pins):
            raise NotSent(problems.UPSTREAM_UNTRUSTED, "The contact centre's certificate is not the pinned one.")


def client_context(
    *,
    ca: Path | None,
    minimum_version: ssl.TLSVersion,
    certificate: Path | None = None,
    key: Path | None = None,
) -> ssl.SSLContext:
    """A context that verifies the peer's certificate and name against `ca`, or the system's trust store.

    Raises `OSError` and `ssl.SSLError` when a file can't be used.
    """
    # Not `create_default_context`: that one writes the session keys of every connection to a file when the
    # environment says so (SSLKEYLOGFILE), and what it switches on changes with the version of Python.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = minimum_version
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if ca is not None:
        context.load_verify_locations(cafile=ca)
    else:
        context.load_default_certs()
    if certificate is not None and key is not None:
        context.load_cert_chain(certificate, key)
    return context


def pem_expiry(certificate: Path) -> float:
    """When the certificate in a PEM file expires, in epoch seconds; of a chain, the first one's."""
    # Imported when a certificate of our own is there to be read: it would be a tenth of an idle gateway's memory.
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    return load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()
