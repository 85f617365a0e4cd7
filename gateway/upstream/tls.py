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
from typing import Final

from gateway import problems
from gateway.upstream.failures import NotSent

# TLS 1.3 lets a client send before the server has looked at its certificate, or at the want of one. These alerts
# are then the server's "no" to its handshake (RFC 8446, 6.2), and it took nothing of what was sent behind that. In
# TLS 1.2, or about a certificate that was never shown, they say nothing of the kind.
_TLS_OF_SUCH_ALERTS: Final = "TLSv1.3"
_NO_CERTIFICATE: Final = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
_BAD_CERTIFICATE: Final = frozenset({
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """How to verify a peer.

    `server_name` is sent as SNI and verified instead of the endpoint's host, if given; `pins` are SHA-256
    digests of DER certificates (32 bytes each), of which the peer must show one, if there are any. `certified`
    says that the context has a certificate of ours.
    """

    context: ssl.SSLContext
    server_name: str | None = None
    pins: frozenset[bytes] = frozenset()
    certified: bool = False

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


def refuses_our_certificate(alert: str, version: str | None, *, certified: bool) -> bool:
    """Whether a TLS alert, by OpenSSL's name, says that the peer took nothing for want of a good certificate.

    `version` is that of the connection, `certified` whether a certificate was shown to a peer that asked for one.
    """
    if version != _TLS_OF_SUCH_ALERTS:
        return False
    return alert in _BAD_CERTIFICATE if certified else alert == _NO_CERTIFICATE
