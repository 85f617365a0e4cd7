"""NSLB's certificate is verified in every way, before a byte of a request leaves."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Certificates
from gateway.upstream.tls import refuses_our_certificate
from tests.harness import Farm

UNTRUSTED = (502, "upstream-untrusted", "not_sent")
UNREACHABLE = (503, "upstream-unreachable", "not_sent")


async def refused(farm: Farm, change: dict[str, Any], **simulated: Any) -> tuple[int, str, str]:
    """What a caller gets, having made sure that NSLB received nothing and that it shows in the log."""
    simulator = await farm.simulator(**simulated)
    gateway = await farm.gateway(simulator, change)
    answer = await gateway.dial()
    assert simulator.received == []
    (line,) = gateway.lines.requests()
    assert line["event"] == "request.refused"
    return answer.status, answer.json["code"], answer.json["outcome"]


async def test_an_unknown_authority(farm: Farm, tmp_path: Path) -> None:
    stranger = Certificates(tmp_path / "stranger")
    assert await refused(farm, {"upstream": {"tls": {"ca": str(stranger.ca)}}}) == UNTRUSTED


async def test_an_expired_certificate(farm: Farm) -> None:
    pair = farm.certificates.issue("expired", expired=True)
    assert await refused(farm, {}, server_pair=pair) == UNTRUSTED


async def test_another_name_than_the_configured_one(farm: Farm) -> None:
    assert await refused(farm, {"upstream": {"tls": {"server_name": "other.example"}}}) == UNTRUSTED


async def test_an_address_that_the_certificate_does_not_have(farm: Farm) -> None:
    pair = farm.certificates.issue("named", hosts=["nslb.example"])
    assert await refused(farm, {"upstream": {"tls": {"server_name": None}}}, server_pair=pair) == UNTRUSTED


async def test_another_certificate_than_the_pinned_one(farm: Farm) -> None:
    other = farm.certificates.issue("other")
    assert await refused(farm, {"upstream": {"tls": {"pins": [other.fingerprint]}}}) == UNTRUSTED


async def test_the_pinned_certificate_is_taken(farm: Farm) -> None:
    pair = farm.certificates.issue("pinned")
    simulator = await farm.simulator(server_pair=pair)
    gateway = await farm.gateway(simulator, {"upstream": {"tls": {"pins": ["sha256:" + "0" * 64, pair.fingerprint]}}})

    assert (await gateway.dial()).status == 201


async def test_the_address_is_verified_when_no_name_is_configured(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    del gateway.settings["upstream"]["tls"]["server_name"]
    gateway.write(gateway.settings)
    assert await gateway.server.reload()

    assert (await gateway.dial()).status == 201


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_tls_one_dot_one_is_too_old(farm: Farm) -> None:
    old = {"minimum_version": ssl.TLSVersion.TLSv1_1, "maximum_version": ssl.TLSVersion.TLSv1_1}
    assert await refused(farm, {}, **old) == UNREACHABLE


async def test_tls_one_dot_two_is_too_old_when_three_is_asked_for(farm: Farm) -> None:
    old = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    assert await refused(farm, {"upstream": {"tls": {"minimum_version": "TLSv1.3"}}}, **old) == UNREACHABLE


async def test_a_peer_that_speaks_no_tls(farm: Farm) -> None:
    simulator = await farm.simulator()
    plain = simulator.control_url.replace("http://", "https://")
    gateway = await farm.gateway(simulator, endpoints=[plain])

    answer = await gateway.dial()

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == UNREACHABLE


async def test_a_certificate_of_ours_is_shown_when_configured(farm: Farm) -> None:
    pair = farm.certificates.issue("gateway", client=True)
    simulator = await farm.simulator(client_ca=farm.certificates.ca)
    mine = {"upstream": {"tls": {"certificate": str(pair.certificate), "key": str(pair.key)}}}
    gateway = await farm.gateway(simulator, mine)

    assert (await gateway.dial()).status == 201
    metrics = await gateway.metrics()
    assert metrics['gateway_certificate_expiry_timestamp_seconds{role="client"}'] > 0
    assert metrics['gateway_certificate_expiry_timestamp_seconds{role="upstream"}'] > 0


async def test_of_a_certificate_that_is_no_more_nothing_is_told(farm: Farm) -> None:
    """Its end would wake somebody."""
    pair = farm.certificates.issue("gateway", client=True)
    simulator, other = await farm.simulator(), await farm.simulator()
    mine = {"upstream": {"warm": 0, "tls": {"certificate": str(pair.certificate), "key": str(pair.key)}}}
    gateway = await farm.gateway(simulator, mine)
    assert (await gateway.dial()).status == 201

    del gateway.settings["upstream"]["tls"]["certificate"], gateway.settings["upstream"]["tls"]["key"]
    gateway.settings["upstream"]["endpoints"] = other.endpoints
    gateway.write(gateway.settings)
    assert await gateway.server.reload()

    assert not any(name.startswith("gateway_certificate_expiry") for name in await gateway.metrics())


async def test_the_certificate_of_the_fabric_is_watched(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, farm.applied(simulator))
    assert (await gateway.dial()).status == 201

    assert (await gateway.metrics())['gateway_certificate_expiry_timestamp_seconds{role="fabric"}'] > 0


@pytest.mark.parametrize(
    ("version", "outcome"), [(ssl.TLSVersion.TLSv1_2, "not_sent"), (ssl.TLSVersion.TLSv1_3, "unknown")]
)
async def test_without_a_certificate_that_nslb_asks_for_nothing_is_carried_out(
    farm: Farm, version: ssl.TLSVersion, outcome: str
) -> None:
    # In TLS 1.3 a client has finished before the server looks at its certificate; if the server then just goes,
    # nobody can tell what it took.
    simulator = await farm.simulator(client_ca=farm.certificates.ca, minimum_version=version, maximum_version=version)
    gateway = await farm.gateway(simulator)

    answer = await gateway.dial()

    assert answer.json["outcome"] == outcome
    assert simulator.received == []


async def test_a_server_that_says_it_wants_a_certificate_took_nothing(farm: Farm) -> None:
    """The alert is sent and then read to the end, which asyncio's own TLS server does not do."""
    pair = farm.certificates.issue("alerting")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(farm.certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    refused = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
            except ssl.SSLError as exc:
                refused.append(exc.reason)
                writer.write(outgoing.read())
                writer.write_eof()
                await reader.read()
                writer.close()
                return

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    endpoint = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=[endpoint, simulator.endpoints[0]])

    answer = await gateway.dial()

    assert refused == ["PEER_DID_NOT_RETURN_A_CERTIFICATE"]
    assert answer.status == 201
    assert len(simulator.creates()) == 1
    assert gateway.lines.requests()[0]["attempts"] == 2
    server.close()
    await server.wait_closed()


async def test_one_untrusted_endpoint_does_not_stop_the_other(farm: Farm) -> None:
    good = await farm.simulator()
    bad = await farm.simulator(server_pair=farm.certificates.issue("bad", expired=True))
    gateway = await farm.gateway(good, endpoints=[bad.endpoints[0], good.endpoints[0]])

    assert (await gateway.dial()).status == 201
    assert bad.received == []


async def test_an_untrusted_endpoint_is_told_rather_than_an_unreachable_one(farm: Farm, unused_tcp_port: int) -> None:
    bad = await farm.simulator(server_pair=farm.certificates.issue("bad2", expired=True))
    gateway = await farm.gateway(bad, endpoints=[bad.endpoints[0], f"https://127.0.0.1:{unused_tcp_port}"])

    assert (await gateway.dial()).json["code"] == "upstream-untrusted"


async def test_session_keys_are_not_written_where_the_environment_says(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(secrets))
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)

    assert (await gateway.dial()).status == 201
    assert not secrets.exists()


@pytest.mark.parametrize(
    ("alert", "version", "certified", "taken"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSv1.3", False, True),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSv1.2", False, False),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSv1.3", True, False),
        ("TLSV1_ALERT_UNKNOWN_CA", "TLSv1.3", True, True),
        ("TLSV1_ALERT_UNKNOWN_CA", "TLSv1.3", False, False),
        ("TLSV1_ALERT_UNKNOWN_CA", "TLSv1.2", True, False),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "TLSv1.3", True, True),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", None, True, False),
        ("TLSV1_ALERT_INTERNAL_ERROR", "TLSv1.3", True, False),
    ],
)
def test_only_an_alert_that_belongs_to_the_handshake_says_that_nothing_was_taken(
    alert: str, version: str | None, certified: bool, taken: bool
) -> None:
    assert refuses_our_certificate(alert, version, certified=certified) == taken
