"""The throw-away certificate authority."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from gateway.simulator import Certificates
from tests.simulator.conftest import Start
from tests.simulator.raw import connected


def test_keys_are_private_and_fingerprints_are_of_the_der_certificate(certificates: Certificates) -> None:
    pair = certificates.issue("one")

    assert pair.key.stat().st_mode & 0o777 == 0o600
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    assert pair.fingerprint == "sha256:" + hashlib.sha256(der).hexdigest()


def test_the_same_name_again_is_a_rotation(certificates: Certificates) -> None:
    first, second = certificates.issue("again"), certificates.issue("again")

    assert (first.certificate, first.key) == (second.certificate, second.key)
    assert first.fingerprint != second.fingerprint


def test_names_may_be_addresses_dns_names_and_uris(certificates: Certificates) -> None:
    pair = certificates.issue("names", hosts=["a.example", "127.0.0.1", "::1", "spiffe://cluster.local/ns/a/sa/b"])

    names = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [type(name).__name__ for name in names.value] == [
        "DNSName",
        "IPAddress",
        "IPAddress",
        "UniformResourceIdentifier",
    ]


@pytest.mark.parametrize("name", ["", "..", "a/b", "."])
def test_a_name_is_a_plain_file_name(certificates: Certificates, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        certificates.issue(name)


async def test_an_expired_certificate_fails_verification(start: Start, certificates: Certificates) -> None:
    simulator = await start(server_pair=certificates.issue("old", expired=True))

    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        async with connected(simulator):
            pass


async def test_another_authority_fails_verification(start: Start, tmp_path: Path) -> None:
    simulator = await start(server_pair=Certificates(tmp_path / "other").issue("nslb"))

    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature"):
        async with connected(simulator):
            pass


async def test_versions_of_tls_can_be_limited(start: Start) -> None:
    simulator = await start(minimum_version=ssl.TLSVersion.TLSv1_3)

    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        async with connected(simulator, maximum=ssl.TLSVersion.TLSv1_2):
            pass


async def test_a_client_certificate_can_be_required(start: Start, certificates: Certificates) -> None:
    simulator = await start(client_ca=certificates.ca)

    async with connected(simulator, pair=certificates.issue("caller", client=True)) as raw:
        raw.send("GET", "/nowhere", {})
        assert (await raw.reply()).status == 404
    async with connected(simulator) as raw:
        raw.send("GET", "/nowhere", {})
        with pytest.raises((ConnectionResetError, EOFError, ssl.SSLError)):
            await raw.reply()
    assert len(simulator.received) == 1
