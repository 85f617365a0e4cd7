"""Owns the throw-away certificate authority of the simulated upstream: EC P-256 keys, files in one directory.

Refuses to be more than that: nothing is revoked, no key has a passphrase, and a new authority is made each time.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NSLB_NAME = "nslb.example"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, both PEM; `fingerprint` is `sha256:` and 64 hex digits of the DER certificate."""

    certificate: Path
    key: Path
    fingerprint: str


class Certificates:
    """A certificate authority of its own, whose certificate is at `ca` (`ca.pem`) as soon as this returns.

    The directory is made if it is missing. Key files have mode 0600. The authority's own key is kept in memory only.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dial-gateway simulator CA")])
        now = datetime.datetime.now(datetime.UTC)
        public = self._key.public_key()
        certificate = (
            _builder(self._name, self._name, public, now - datetime.timedelta(days=400), 800)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca: Path = directory / "ca.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = (NSLB_NAME, "localhost", "127.0.0.1"),
        days: float = 30,
        expired: bool = False,
        client: bool = False,
    ) -> Pair:
        """Issues `<name>.pem` with `<name>-key.pem`; a second call with the same name replaces both (rotation).

        `hosts` become the subject's alternative names: an IP address, a `spiffe://…` URI, or else a DNS name.
        `days` is the validity from now; `expired` makes one that ended yesterday. `client` is for client
        authentication, otherwise for a server. `ValueError` when the name is not a plain file name.
        """
        if not name or name.startswith(".") or name != Path(name).name:
            raise ValueError(f"not a plain file name: {name!r}")
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        now = datetime.datetime.now(datetime.UTC)
        start = now - datetime.timedelta(days=60 if expired else 1)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        builder = (
            _builder(subject, self._name, public, start, 59 if expired else 1 + days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority, critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(
            self._directory / f"{name}.pem",
            self._directory / f"{name}-key.pem",
            "sha256:" + hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
        )
        write_private(
            pair.key,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return pair


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file whole, with mode 0600 from the first byte: whoever reads it sees the old text or the new."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    start: datetime.datetime,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
