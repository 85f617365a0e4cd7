"""Connections are kept warm, given up when idle, and never trusted when stale."""

from __future__ import annotations

import asyncio

from gateway.simulator import Fault
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
