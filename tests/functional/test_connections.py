"""Connections are kept warm, given up when idle, and never trusted when stale."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

import pytest

from gateway.model import Trace
from gateway.simulator import Fault
from gateway.telemetry import Record
from gateway.upstream import PeerPolicy, Pool, PoolSettings
from gateway.upstream.pool import Endpoint
from tests.harness import Farm, until


async def test_a_connection_is_ready_before_the_first_call(farm: Farm) -> None:
    simulator = await farm.simulator(nslb_ports=(0, 0))
    gateway = await farm.gateway(simulator, {"upstream": {"warm": 1}})
    await until(lambda: simulator.connections == 2)
    endpoints = gateway.server.status()["endpoints"]
    await until(lambda: all(e["connections"]["idle"] == 1 for e in gateway.server.status()["endpoints"]))

    await gateway.dial()

    assert len(endpoints) == 2
    assert simulator.connections == 2


async def test_an_idle_connection_is_given_up_and_replaced(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"upstream": {"idle_seconds": 0.05}})
    await gateway.dial()
    await asyncio.sleep(0.06)
    gateway.server.tend()

    await until(lambda: gateway.server.status()["endpoints"][0]["connections"]["idle"] == 0)
    assert (await gateway.dial()).status == 201
    assert simulator.connections == 2


@pytest.mark.parametrize(("most_seconds", "connections"), [(3_600.0, 1), (0.0, 2)])
async def test_a_connection_is_not_used_for_ever(farm: Farm, most_seconds: float, connections: int) -> None:
    """The endpoint may have another certificate by now, or its name another address."""
    simulator = await farm.simulator()
    address = urlsplit(simulator.endpoints[0])
    assert address.hostname is not None
    assert address.port is not None
    policy = PeerPolicy(ssl.create_default_context(cafile=simulator.ca), simulator.server_name)
    settings = PoolSettings(5.0, connections=2, warm=0, idle_seconds=30.0, most_seconds=most_seconds)
    pool = Pool([(address.hostname, address.port, "nslb")], policy, settings, asyncio.get_running_loop())

    for _ in range(2):
        record = Record(0.0, "request", Trace("0" * 31 + "1", "0" * 15 + "1", "00"))
        _, reply, _ = await pool.exchange(lambda _: b"GET / HTTP/1.1\r\nHost: nslb\r\n\r\n", 5.0, record)
        assert reply.status == 404
    await pool.close()

    assert simulator.connections == connections


def test_the_certificate_of_an_endpoint_is_that_which_it_showed_lately() -> None:
    endpoint = Endpoint("127.0.0.1", 1, "nslb", peer_not_after=1_800_000_000.0, peer_seen=1_000.0)
    assert endpoint.certificate_expires(1_000.0 + 7_199.0) == 1_800_000_000.0
    assert endpoint.certificate_expires(1_000.0 + 7_200.0) is None


async def test_a_warm_connection_that_is_reset_before_a_request_costs_no_call(farm: Farm) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("reset-idle", times=1))
    gateway = await farm.gateway(simulator, {"upstream": {"warm": 1}})
    await until(lambda: simulator.connections >= 1)
    await until(lambda: gateway.server.status()["endpoints"][0]["connections"]["connecting"] == 0)
    await asyncio.sleep(0.05)

    answer = await gateway.dial()

    assert answer.status == 201
    assert len(simulator.creates()) == 1


async def test_an_endpoint_that_is_down_is_not_hammered(farm: Farm, unused_tcp_port: int) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(
        simulator, {"upstream": {"warm": 1}}, endpoints=[f"https://127.0.0.1:{unused_tcp_port}"]
    )
    tries = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    for _ in range(5):
        gateway.server.tend()
        await asyncio.sleep(0.01)
    server = await asyncio.start_server(count, "127.0.0.1", unused_tcp_port)
    for _ in range(20):
        gateway.server.tend()
        await asyncio.sleep(0.001)
    server.close()
    await server.wait_closed()

    assert tries <= 1


async def test_a_dead_endpoint_is_asked_once_and_then_passed_over(farm: Farm, unused_tcp_port: int) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, endpoints=[f"https://127.0.0.1:{unused_tcp_port}", simulator.endpoints[0]])

    for _ in range(5):
        assert (await gateway.dial()).status == 201

    attempts = [line["attempts"] for line in gateway.lines.requests()]
    assert attempts == [2, 1, 1, 1, 1]


async def test_an_endpoint_that_answers_what_nobody_asked_gets_one_request_a_connection(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    simulator.fault(Fault("unsolicited", operation="create", times=1))

    for _ in range(4):
        assert (await gateway.dial()).status == 201
        await until(lambda: gateway.server.status()["endpoints"][0]["connections"]["busy"] == 0)

    assert simulator.connections == 4
    (endpoint,) = gateway.server.status()["endpoints"]
    assert endpoint["suspect"] is True
    assert endpoint["connections"] == {"idle": 0, "busy": 0, "connecting": 0}
    assert len(simulator.creates()) == 4


async def test_an_endpoint_that_closes_right_behind_the_handshake_takes_up_no_room(farm: Farm) -> None:
    """The end of the handshake and the end of the connection come in one piece, so it is lost as soon as it is made."""
    pair = farm.certificates.issue("closing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pair.certificate, pair.key)
    served = 0

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        with contextlib.suppress(ssl.SSLError):
            tls.unwrap()
        writer.write(outgoing.read())
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    endpoint = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"upstream": {"connections": 3}}, endpoints=[endpoint])

    answers = [await gateway.dial() for _ in range(8)]
    await until(lambda: gateway.server.status()["endpoints"][0]["connections"]["busy"] == 0)

    assert served == 8
    assert "overloaded" not in {answer.json["code"] for answer in answers}
    server.close()
    await server.wait_closed()
