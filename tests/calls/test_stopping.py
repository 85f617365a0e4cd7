"""What a gateway that stops still does: what the store is being told is awaited, what nobody waits for is ended."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from gateway.simulator import Fault, Simulator
from tests.calls.test_keys import durable
from tests.calls.test_whole_call import delete, dialled, get, of
from tests.harness import Farm, until


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator(queue_seconds=None)


@pytest.mark.parametrize("reloaded", [False, True])
async def test_a_call_that_was_answered_while_the_store_was_slow_is_known_after_a_restart(
    farm: Farm, simulator: Simulator, reloaded: bool
) -> None:
    gateway = await farm.gateway(simulator, durable(farm))
    simulator.fault(Fault("delay", "create", seconds=1.0))
    dialling = asyncio.create_task(dialled(gateway))
    await until(simulator.creates)
    if reloaded:
        assert await gateway.server.reload()
    assert not dialling.done()
    with closing(sqlite3.connect(farm.directory / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        location = await dialling
        stopping = asyncio.create_task(gateway.server.drain())
        await asyncio.wait({stopping}, timeout=0.5)
        other.execute("ROLLBACK")
    await stopping

    after = await farm.gateway(simulator, durable(farm))
    known, released = await get(after, location), await delete(after, location)

    assert (known.status, known.json["status"]) == (200, "accepted")
    assert (released.status, released.json["status"]) == (200, "ended")
    assert len(simulator.creates()) == 1


async def test_a_dial_that_its_caller_waits_for_no_more_ends_with_the_gateway(farm: Farm, simulator: Simulator) -> None:
    gateway = await farm.gateway(simulator, durable(farm), {"drain_seconds": 0.1})
    simulator.fault(Fault("silence", "create", perform=True))
    headers = {"Request-Timeout": "0.2", "Idempotency-Key": "k"}
    assert (await gateway.dial(headers=headers)).status == 504
    assert gateway.server.api.under_way == 1

    await gateway.server.drain()

    assert gateway.server.api.under_way == 0
    (line,) = of(gateway, "create")
    assert (line["outcome"], line["http.response.status_code"]) == ("unknown", 504)
    assert gateway.lines.all()[-1]["event"] == "gateway.stopped"
    assert gateway.lines.of("internal.fault") == []
    after = await farm.gateway(simulator, durable(farm))
    again = await after.dial(headers={"Idempotency-Key": "k"})
    assert (again.json["code"], again.json["outcome"]) == ("outcome-unknown", "unknown")
    assert simulator.rings == 1
