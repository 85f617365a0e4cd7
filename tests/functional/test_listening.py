"""Where the gateway listens: with TLS, on a socket in the file system, and how connections of callers end."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import socket
import ssl
import stat
from pathlib import Path

import aiohttp
import pytest

from gateway.http import Runtime
from gateway.simulator import Fault
from gateway.telemetry import Record
from tests.functional.test_refusals import post, raw
from tests.harness import KEY, Farm, Harness, until


async def over(
    connector: aiohttp.BaseConnector, url: str, key: str = KEY, tls: ssl.SSLContext | None = None
) -> tuple[int, bytes]:
    """A dial over another kind of connection."""
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(
            url,
            json={"media": "voice"},
            headers={"Authorization": f"Bearer {key}"},
            ssl=tls if tls is not None else True,
        ) as response,
    ):
        return response.status, await response.read()


def trusting(ca: Path) -> ssl.SSLContext:
    """A caller's TLS settings."""
    return ssl.create_default_context(cafile=ca)


async def test_callers_over_tls_and_a_renewed_certificate(farm: Farm) -> None:
    simulator = await farm.simulator()
    first, second = (farm.certificates.issue(name, hosts=["localhost", "127.0.0.1"]) for name in ("one", "two"))
    certificate, key = farm.directory / "tls.crt", farm.directory / "tls.key"
    shutil.copy(first.certificate, certificate)
    shutil.copy(first.key, key)
    gateway = await farm.gateway(simulator, {"listen": {"tls": {"certificate": str(certificate), "key": str(key)}}})
    host, _, port = gateway.server.address.rpartition(":")

    async def shown() -> bytes:
        _, writer = await asyncio.open_connection(host, int(port), ssl=trusting(farm.certificates.ca))
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        assert isinstance(certificate, bytes)
        return certificate

    before = await shown()
    shutil.copy(second.certificate, certificate)
    shutil.copy(second.key, key)
    assert await gateway.server.reload()
    after = await shown()

    assert before == ssl.PEM_cert_to_DER_cert(first.certificate.read_text())
    assert after == ssl.PEM_cert_to_DER_cert(second.certificate.read_text())
    url = f"https://127.0.0.1:{port}/dial"
    status, _ = await over(aiohttp.TCPConnector(), url, tls=trusting(farm.certificates.ca))
    assert status == 201
    assert (await gateway.metrics())['gateway_certificate_expiry_timestamp_seconds{role="listener"}'] > 0


async def test_a_caller_without_tls_gets_nothing_from_a_tls_listener(farm: Farm) -> None:
    simulator = await farm.simulator()
    pair = farm.certificates.issue("listener", hosts=["127.0.0.1"])
    tls = {"certificate": str(pair.certificate), "key": str(pair.key)}
    gateway = await farm.gateway(simulator, {"listen": {"tls": tls}})

    with pytest.raises((aiohttp.ClientError, OSError)):
        await gateway.dial()

    assert simulator.received == []


async def test_a_half_renewed_certificate_changes_nothing(farm: Farm) -> None:
    simulator = await farm.simulator()
    first, second = (farm.certificates.issue(name, hosts=["127.0.0.1"]) for name in ("half-one", "half-two"))
    certificate, key = farm.directory / "tls.crt", farm.directory / "tls.key"
    shutil.copy(first.certificate, certificate)
    shutil.copy(first.key, key)
    gateway = await farm.gateway(simulator, {"listen": {"tls": {"certificate": str(certificate), "key": str(key)}}})
    shutil.copy(second.certificate, certificate)

    assert not await gateway.server.reload()

    port = gateway.server.address.rpartition(":")[2]
    tls_context = trusting(farm.certificates.ca)
    status, _ = await over(aiohttp.TCPConnector(), f"https://127.0.0.1:{port}/dial", tls=tls_context)
    assert status == 201


async def test_callers_over_a_unix_socket_that_a_former_process_left_behind(farm: Farm) -> None:
    simulator = await farm.simulator()
    path = farm.directory / "dial.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    gateway = await farm.gateway(
        simulator,
        {"listen": {"address": f"unix:{path}"}, "admin": {"address": f"unix:{farm.directory}/admin.sock"}},
    )

    status, _ = await over(aiohttp.UnixConnector(str(path)), "http://gateway/dial")
    refused, _ = await over(aiohttp.UnixConnector(str(path)), "http://gateway/dial", key="dgw_wrong")

    assert (status, refused) == (201, 401)
    assert gateway.server.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    (request,) = simulator.creates()
    assert request.header("X-Forwarded-For") is None
    assert "client.address" not in gateway.lines.requests()[0]


@pytest.mark.parametrize(
    ("fields", "version"), [(b"Connection: close\r\n", b"1.1"), (b"", b"1.0"), (b"Connection: keep-alive\r\n", b"1.0")]
)
async def test_a_connection_that_is_not_to_be_kept_is_closed(farm: Farm, fields: bytes, version: bytes) -> None:
    gateway = await farm.gateway(await farm.simulator())
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(post(fields, version=version))

    answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nConnection: close\r\n" in answer
    writer.close()


class Broken:
    """Stands where `Nslb` stands, and fails as nobody expected."""

    def __init__(self, *, sending: bool) -> None:
        self.sending = sending

    async def create(self, medium: object, credential: object, record: Record, until: float) -> None:
        """Fail, before or after something was sent."""
        assert medium
        assert credential
        assert until
        record.sent = self.sending
        raise LookupError(f"a secret: {KEY}")


@pytest.mark.parametrize(("sending", "outcome"), [(False, "not_sent"), (True, "unknown")])
async def test_a_fault_of_ours_is_a_bare_500_and_a_line_without_its_text(
    farm: Farm, sending: bool, outcome: str
) -> None:
    gateway: Harness = await farm.gateway(await farm.simulator())
    api = gateway.server.api
    desk = dataclasses.replace(api.runtime.desk, nslb=Broken(sending=sending))  # type: ignore[arg-type]
    broken: Runtime = dataclasses.replace(api.runtime, desk=desk)
    api.runtime = broken

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (500, "internal", outcome)
    assert b"LookupError" not in answer.body
    (fault,) = gateway.lines.of("internal.fault")
    assert fault["exception.type"] == "builtins.LookupError"
    assert any("create" in frame for frame in fault["exception.stacktrace"])
    assert fault["request_id"] == answer.json["instance"]
    assert KEY.encode() not in gateway.lines.raw
    (line,) = gateway.lines.requests()
    assert (line["outcome"], line["code"], line["level"]) == (outcome, "internal", "warning")


async def test_the_answer_of_a_refusal_with_an_unread_body_closes_the_connection(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    data = b"POST /dial HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"

    status, fields, _ = await raw(gateway, data)

    assert (status, fields["connection"]) == (401, "close")
    await until(gateway.lines.requests)
    assert simulator.received == []


async def test_an_answer_that_comes_after_the_drain_still_reaches_its_caller(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"drain_seconds": 0.05})
    simulator.fault(Fault("delay", operation="create", seconds=0.4))
    calling = asyncio.create_task(gateway.dial())
    await until(simulator.creates)

    await gateway.server.drain()

    assert (await calling).status == 201
    assert len(simulator.creates()) == 1


async def test_an_answer_on_a_connection_that_is_to_be_closed_is_written_first(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("delay", operation="create", seconds=0.1))
    calling = asyncio.create_task(gateway.dial())
    await until(simulator.creates)

    gateway.server._callers.pre_shutdown()

    assert (await calling).status == 201


@pytest.mark.parametrize("listener", ["listen", "admin"])
async def test_the_socket_of_another_process_is_left_to_it(farm: Farm, listener: str) -> None:
    simulator = await farm.simulator()
    path = farm.directory / "taken.sock"
    first = await farm.gateway(simulator, {"listen": {"address": f"unix:{path}"}})

    with pytest.raises(OSError, match="is in use"):
        await farm.gateway(simulator, {listener: {"address": f"unix:{path}"}})

    assert first.server.address == f"unix:{path}"
    assert (await over(aiohttp.UnixConnector(str(path)), "http://gateway/dial", key="dgw_wrong"))[0] == 401


async def test_a_file_where_the_socket_should_be_is_left_alone(farm: Farm) -> None:
    simulator = await farm.simulator()
    path = farm.directory / "notes"
    path.write_text("mine")

    with pytest.raises(OSError, match="is no socket"):
        await farm.gateway(simulator, {"listen": {"address": f"unix:{path}"}})

    assert path.read_text() == "mine"
