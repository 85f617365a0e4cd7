"""Everything goes wrong at once, in random order: no phone rings twice, and every outcome told is the truth."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import KEY, Farm, Harness, until

CALLS: Final = 240
AT_ONCE: Final = 12
BODY: Final = b'{"media": "voice"}'

FAULTS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("reset-request", {"perform": True}),
    ("reset-request", {"perform": False}),
    ("close-request", {"perform": True}),
    ("silence", {"perform": True}),
    ("status", {"status": 500, "body": "broken", "perform": True}),
    ("status", {"status": 404, "body": "no"}),
    ("status", {"status": 502, "body": "<html>"}),
    ("result-code", {"code": "13"}),
    ("garbage", {}),
    ("not-json", {}),
    ("no-result-code", {}),
    ("redirect", {}),
    ("oversize", {}),
    ("delay", {"seconds": 0.05}),
    ("reset-answer", {}),
    ("reset-after", {}),
    ("close-after", {}),
    ("close", {}),
    ("truncated", {}),
    ("chunked", {}),
    ("informational", {}),
    ("unsolicited", {}),
    ("encoded", {}),
    ("headers-flood", {}),
    ("expire-now", {}),
    ("reset-accept", {}),
    ("reset-handshake", {}),
]


@dataclass
class Disorder:
    """A gateway, a contact centre with two endpoints, and dice."""

    gateway: Harness
    simulator: Simulator
    dice: random.Random

    def break_something(self) -> None:
        """Order a fault, drop what is idle, renew the token, or reload."""
        throw = self.dice.random()
        if throw < 0.6:
            kind, arguments = self.dice.choice(FAULTS)
            operation = "*" if kind in {"reset-accept", "reset-handshake"} else "create"
            self.simulator.fault(Fault(kind, operation, **arguments))
        elif throw < 0.7:
            self.dice.choice([self.simulator.reset_idle, self.simulator.close_idle])()
        elif throw < 0.85:
            fresh = self.gateway.token_file.with_suffix(".new")
            fresh.write_text(self.simulator.issue_token("gateway-sales"))
            fresh.rename(self.gateway.token_file)
        elif throw < 0.9:
            # A setting that connections depend on, so that all of them are replaced.
            self.gateway.settings["upstream"]["idle_seconds"] = self.dice.choice([5, 30])
            self.gateway.write(self.gateway.settings)
            self.gateway.server._reload_soon()

    async def call(self, name: str) -> tuple[int, dict[str, Any]] | None:
        """Dial under that request id, and maybe hang up; the answer, if it was waited for and came."""
        host, _, port = self.gateway.server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /dial HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\nX-Request-ID: {name}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
        ).encode()
        request = head + BODY
        throw = self.dice.random()
        with contextlib.closing(writer):
            if throw < 0.1:
                writer.write(request[: self.dice.randrange(len(head), len(request))])
                await writer.drain()
                return None
            writer.write(request)
            if throw < 0.25:
                await asyncio.sleep(self.dice.choice([0, 0.001, 0.01]))
                return None
            answer = await reader.read()
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("seed", range(3))
async def test_no_phone_rings_twice_and_no_outcome_is_untrue(farm: Farm, seed: int) -> None:
    simulator = await farm.simulator(nslb_ports=(0, 0))
    gateway = await farm.gateway(
        simulator, {"upstream": {"timeouts": {"connect": 1, "response": 0.3}, "connections": 8}}
    )
    disorder = Disorder(gateway, simulator, random.Random(seed))
    answers: dict[str, tuple[int, dict[str, Any]]] = {}
    names = iter(f"call-{number}" for number in range(CALLS))

    async def callers() -> None:
        for name in names:
            disorder.break_something()
            answer = await disorder.call(name)
            if answer is not None:
                answers[name] = answer

    await asyncio.gather(*(callers() for _ in range(AT_ONCE)))
    await until(lambda: not gateway.server.api.under_way)
    simulator.clear_faults()
    await until(lambda: len({line["request_id"] for line in gateway.lines.requests()}) >= CALLS)

    lines = gateway.lines.requests()
    assert Counter(line["request_id"] for line in lines) == Counter(f"call-{number}" for number in range(CALLS))
    outcomes = {line["request_id"]: line["outcome"] for line in lines}
    assert {name: answer["outcome"] for name, (_, answer) in answers.items()}.items() <= outcomes.items()

    # What a 401 answers was not carried out, so it may be sent once more.
    arrived = Counter(str(request.header("X-Request-ID")) for request in simulator.creates())
    refused = Counter(str(r.header("X-Request-ID")) for r in simulator.creates() if r.status == 401)
    for name, outcome in outcomes.items():
        carried_out = arrived[name] - refused[name]
        assert refused[name] <= 2, name
        assert carried_out <= 1, name
        if outcome == "accepted":
            assert carried_out == 1, name
        if outcome == "not_sent":
            assert arrived[name] == 0, name
    told = Counter(outcomes.values())
    assert told["accepted"] <= simulator.rings <= told["accepted"] + told["unknown"]
    assert min(told[outcome] for outcome in ("accepted", "unknown", "rejected", "not_sent")) > 0
    assert gateway.lines.of("internal.fault") == []
    assert (await gateway.metrics())['gateway_requests_in_flight{operation="create"}'] == 0
