"""The way to a server, step by step: its name, a connection, the handshake, the certificate.

Owns what each failure of these means to an operator. Refuses to send a byte of a request: all of this ends with the
handshake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from gateway.config import ClientTLS
from gateway.doctor.report import Report
from gateway.upstream import client_context

_SECONDS: Final = 5.0
_LEAST_REFUSAL_SECONDS: Final = 0.1
_DAY: Final = 86_400.0
_FEW_DAYS: Final = 14
# OpenSSL's numbers (x509_vfy.h), which are the same in all its versions.
_EXPIRED: Final = {9, 10}
_UNKNOWN_ISSUER: Final = {2, 18, 19, 20, 21}
_WRONG_NAME: Final = {62, 64}


@dataclass(frozen=True, slots=True)
class Address:
    """A server: what the report calls it, where it is, and which part of the configuration says how it is verified.

    One without `tls` ends with the connection. `server_name` says that this part can name another server, and a
    version of TLS.
    """

    subject: str
    host: str
    port: int
    tls: ClientTLS | None
    where: str
    server_name: bool = True


async def reach(report: Report, address: Address) -> bool:
    """Look at every step to a server; whether all of them went well."""
    steps = {"name": _look_up, "connection": _connect}
    if address.tls is not None:
        steps["TLS"] = _shake_hands
    for number, step in enumerate(steps.values()):
        if not await step(report, address):
            for name in list(steps)[number + 1 :]:
                report.skip(address.subject, name, "not reached")
            return False
    return True


async def _look_up(report: Report, address: Address) -> bool:
    subject, host = address.subject, address.host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        report.ok(subject, "name", "is an address")
        return True
    try:
        async with asyncio.timeout(_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        report.fail(
            subject, "name", f"{host} has no address", "Look at the name's spelling, and at this machine's resolver."
        )
        return False
    report.ok(subject, "name", ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found)))
    return True


async def _connect(report: Report, address: Address) -> bool:
    place = f"{address.host}:{address.port}"
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except ConnectionRefusedError:
        found, advice = (
            f"{place} refuses",
            "Nothing listens there: look at the address, the port, and whether it is up.",
        )
    except TimeoutError:
        found = f"{place} does not answer"
        advice = "Something on the way drops packets: look at the address, firewalls and network policies."
    except OSError as exc:
        found = f"{place} can't be reached ({exc.strerror or type(exc).__name__})"
        advice = "Look at the address, routes, firewalls and network policies."
    else:
        writer.close()
        report.ok(address.subject, "connection", place)
        return True
    report.fail(address.subject, "connection", found, advice)
    return False


async def _shake_hands(report: Report, address: Address) -> bool:
    subject, where, tls = address.subject, address.where, address.tls
    assert tls is not None  # noqa: S101 - there is no such step without
    name = tls.server_name or address.host
    if tls.certificate is not None:
        ours = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
        _certificate(report, subject, "our certificate", ours)
    try:
        shown = await _handshake(address, client_context(tls), name)
    except ssl.SSLCertVerificationError as exc:
        found, advice = _unverified(exc, name, address, await _shown_to_anybody(address, name))
    except ssl.SSLError:
        found = "no TLS connection could be agreed"
        advice = (
            f"It may not speak TLS here, or no version from {tls.minimum_version} on"
            f"{f' ({where}.minimum_version)' if address.server_name else ''}, or want a certificate of ours "
            f"({where}.certificate)."
        )
    except TimeoutError:
        found, advice = "the handshake got no answer", "Something accepts connections there and is no TLS server."
    except OSError:
        found = "the server ended the handshake"
        advice = f"It may not speak TLS here, or want a certificate of ours ({where}.certificate)."
    else:
        version, certificate = shown
        report.ok(subject, "TLS", f"{version}, verified as {name}")
        _certificate(report, subject, "certificate", certificate)
        return True
    report.fail(subject, "TLS", found, advice)
    return False


def _certificate(report: Report, subject: str, step: str, certificate: x509.Certificate) -> None:
    days = (certificate.not_valid_after_utc.timestamp() - time.time()) / _DAY
    found = f"for {_names(certificate)}, by {_issuer(certificate)}, {days:.0f} days left"
    if days < _FEW_DAYS:
        report.warn(subject, step, found, "Have it renewed: calls end with it.")
    else:
        report.ok(subject, step, found)


def _unverified(
    exc: ssl.SSLCertVerificationError, name: str, address: Address, shown: x509.Certificate | None
) -> tuple[str, str]:
    """What is wrong with a certificate, and what to do."""
    where = address.where
    code = getattr(exc, "verify_code", None)
    if shown is None:
        return "the certificate can't be trusted", f"Look at {where}.ca and at the server's certificate."
    if code is None:
        pin = shown.fingerprint(hashes.SHA256()).hex()
        return (
            "the certificate is none of the pinned ones",
            f"It is sha256:{pin}. If that is the right one, and the way to it is trusted, list it in {where}.pins.",
        )
    if code in _WRONG_NAME:
        remedy = f"set {where}.server_name to" if address.server_name else "have the address name"
        return (
            f"the certificate is not for {name}",
            f"It is for {_names(shown)}: {remedy} one of these, if it is the right server.",
        )
    if code in _EXPIRED:
        return (
            f"the certificate is not valid now (until {shown.not_valid_after_utc:%Y-%m-%d})",
            "Have it renewed; if it is valid, this machine's clock is wrong.",
        )
    if code in _UNKNOWN_ISSUER:
        return (
            "the certificate's authority is not trusted",
            f"It was signed by {_issuer(shown)}, whose certificate must be in {where}.ca.",
        )
    return "the certificate failed verification", f"Look at {where}.ca and at the server's certificate."


class _Ending(asyncio.Protocol):
    """A connection on which nothing is sent, and whether it lasts."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: asyncio.Future[Exception | None] = loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has gone."""
        self.lost.set_result(exc)


async def _handshake(address: Address, context: ssl.SSLContext, name: str) -> tuple[str, x509.Certificate]:
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(_SECONDS):
        transport, ending = await loop.create_connection(
            lambda: _Ending(loop), address.host, address.port, ssl=context, server_hostname=name
        )
    tls = transport.get_extra_info("ssl_object")
    version, certificate = tls.version(), x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    # In TLS 1.3 the server looks at our certificate, or at the want of one, when for us the handshake is over.
    # The handshake took longer than its answer to that will take.
    ended, _ = await asyncio.wait([ending.lost], timeout=max(_LEAST_REFUSAL_SECONDS, loop.time() - started))
    transport.abort()
    if ended:
        raise ConnectionResetError
    return version, certificate


async def _shown_to_anybody(address: Address, name: str) -> x509.Certificate | None:
    """The certificate that could not be verified. Nothing but a handshake is sent, and nothing of it is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, certificate = await _handshake(address, context, name)
    except (OSError, ValueError):
        return None
    return certificate


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name"
    shown = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return ", ".join(_printable(name) for name in shown[:8]) or "no name"


def _issuer(certificate: x509.Certificate) -> str:
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _printable(str(names[0].value)) if names else _printable(certificate.issuer.rfc4514_string())


def _printable(text: str) -> str:
    """A server's own words, as far as they can't do harm to a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:100])
