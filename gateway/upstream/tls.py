"""What an upstream's certificate must be, and how that is checked.

Owns the TLS settings of connections to NSLB and to the API Fabric. Refuses unverified certificates in every
configuration: there is no setting that turns verification off.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from dataclasses import dataclass
from typing import Final

from gateway.config import ClientTLS

_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

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

    `server_name` is sent as SNI and verified instead of the endpoint's host, if given. `certified` says that the
    context has a certificate of ours.
    """

    context: ssl.SSLContext
    server_name: str | None = None
    certified: bool = False


def _pinned(pins: frozenset[bytes]) -> type[ssl.SSLObject]:
    """A TLS object whose handshake fails unless the peer shows one of these certificates.

    `pins` are SHA-256 digests of DER certificates (32 bytes each). Being part of the handshake, the check comes
    before whatever client uses the connection could send anything.
    """

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            shown = hashlib.sha256(self.getpeercert(binary_form=True) or b"").digest()
            if not any(hmac.compare_digest(pin, shown) for pin in pins):
                raise ssl.SSLCertVerificationError("the peer's certificate is not the pinned one")

    return Pinned


def client_context(settings: ClientTLS) -> ssl.SSLContext:
    """A context that verifies the peer's certificate and name as configured.

    Raises `OSError` and `ssl.SSLError` when a file can't be used.
    """
    # Not `create_default_context`: that one writes the session keys of every connection to a file when the
    # environment says so (SSLKEYLOGFILE), and what it switches on changes with the version of Python.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if settings.ca is not None:
        context.load_verify_locations(cafile=settings.ca)
    else:
        context.load_default_certs()
    if settings.certificate is not None and settings.key is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    if settings.pins:
        context.sslobject_class = _pinned(frozenset(bytes.fromhex(pin.partition(":")[2]) for pin in settings.pins))
    return context


def settings_digest(settings: ClientTLS) -> bytes:
    """A digest of what a context depends on: the settings, and what is in the files that they name.

    Raises `OSError`.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for path in (settings.ca, settings.certificate, settings.key):
        if path is not None:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def refuses_our_certificate(alert: str, version: str | None, *, certified: bool) -> bool:
    """Whether a TLS alert, by OpenSSL's name, says that the peer took nothing for want of a good certificate.

    `version` is that of the connection, `certified` whether a certificate was shown to a peer that asked for one.
    """
    if version != _TLS_OF_SUCH_ALERTS:
        return False
    return alert in _BAD_CERTIFICATE if certified else alert == _NO_CERTIFICATE
