"""Whatever callers and NSLB send, the number of metric series stays bounded."""

from __future__ import annotations

import random
import string

from gateway.model import Operation, Outcome, Trace
from gateway.problems import MALFORMED_REQUEST, Problem
from gateway.simulator import Fault
from gateway.telemetry import Attempt, LineWriter, Log, Metrics, Record, Telemetry
from tests.harness import Farm, Lines

CODES = 52  # fifty that are remembered, `other` and none


async def test_ten_thousand_wild_requests_add_no_series_beyond_the_bounded_sets(farm: Farm) -> None:
    wild = random.Random(7)
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"log": {"level": "error"}})

    def word() -> str:
        return "".join(wild.choices(string.ascii_letters + string.digits, k=12))

    await gateway.dial()
    for _ in range(200):
        simulator.fault(
            Fault("result-code", operation="create", times=1, code=str(wild.randrange(10**7)), description=word())
        )
        await gateway.dial(headers={"X-Request-ID": word()})
    calm = set(await gateway.metrics())
    for number in range(9_800):
        match number % 4:
            case 0:
                await gateway.request("POST", f"/{word()}")
            case 1:
                await gateway.dial(key=word(), headers={"X-Request-ID": word()})
            case 2:
                await gateway.dial({"media": word()})
            case _:
                await gateway.request(wild.choice(["GET", "PUT", word().upper()]), "/dial")
    metrics = await gateway.metrics()

    grown = set(metrics) - calm
    assert len([name for name in metrics if name.startswith("gateway_upstream_requests_total")]) <= CODES * 3
    counted = [name for name, value in metrics.items() if name.startswith("gateway_requests_total") and value]
    assert len(counted) <= 12
    assert len(grown) <= 60
    assert sum(value for name, value in metrics.items() if name.startswith("gateway_requests_total")) == 10_001


def test_result_codes_beyond_the_first_fifty_are_other() -> None:
    metrics = Metrics("0")
    telemetry = Telemetry(Log(LineWriter(Lines()), "error"), metrics, lambda: 0.0)
    for number in range(10_000):
        record = Record(0.0, "r", Trace("a" * 32, "b" * 16, "00"))
        record.operation = Operation.CREATE
        record.code = Problem(MALFORMED_REQUEST, "").type.code
        record.tried(Attempt("https://e:1", Outcome.REJECTED, str(number), 0.0), "e", 1)
        telemetry.close(record)
    series = [
        sample
        for family in metrics.registry.collect()
        if family.name == "gateway_upstream_requests"
        for sample in family.samples
    ]

    assert len(series) == 51
    assert sum(sample.value for sample in series) == 10_000
    assert [sample.value for sample in series if sample.labels["result_code"] == "other"] == [9_950]
