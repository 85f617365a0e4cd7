"""Each fault, seen by a client, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.simulator import Certificates, Fault, Simulator
from tests.simulator.raw import CHECK, CREATE, DROP, EVENTS, VOICE, Raw, connected, cookie, once

NORMAL = b'{"resultCode":"0","resultDesc":"connect successfully."}'
Scenario = Callable[[Simulator], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> Run:
    """Runs a scenario with a simulator of its own on one kind of loop."""

    def runner(scenario: Scenario, **options: Any) -> None:
        async def whole() -> None:
            async with Simulator(tmp_path, certificates=certificates, **options) as simulator:
                await scenario(simulator)

        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(whole())

    return runner


async def create(simulator: Simulator, raw: Raw) -> bytes:
    """Everything that comes after a create."""
    token = simulator.tokens.current("gateway-sales") or simulator.issue_token()
    raw.send("POST", CREATE, cookie(token), VOICE)
    return await raw.rest()


@pytest.mark.parametrize("kind", ["reset-accept", "reset-handshake"])
def test_resets_before_tls_stands(run: Run, kind: str) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault(kind))
        with pytest.raises(ConnectionResetError):
            async with connected(simulator):
                pass
        async with connected(simulator):
            pass
        assert (simulator.connections, simulator.received) == (2, [])

    run(scenario)


def test_reset_before_a_request(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("reset-idle"))
        async with connected(simulator) as raw:
            assert await raw.rest() == b"RESET"
        assert simulator.received == []

    run(scenario)


def test_reset_of_idle_connections_on_demand(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        good = cookie(simulator.issue_token())
        async with connected(simulator) as raw, connected(simulator) as busy:
            await raw.ask("GET", CHECK, good)
            busy.send("GET", EVENTS, good)
            await simulator.until(lambda: simulator.polls == 1)
            assert simulator.reset_idle() == 1
            assert await raw.rest() == b"RESET"
            assert simulator.polls == 1
        async with connected(simulator) as raw:
            await raw.ask("GET", CHECK, good)
            assert simulator.close_idle() == 1
            assert await raw.rest() == b""

    run(scenario)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [("reset-request", b"RESET"), ("close-request", b""), ("garbage", b"\x00\x17 garbage, not HTTP\r\n\r\n")],
)
def test_no_answer_though_the_phone_rings(run: Run, kind: str, seen: bytes) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault(kind, "create"))
        simulator.fault(Fault(kind, "create", perform=False))
        for _ in range(2):
            async with connected(simulator) as raw:
                assert await create(simulator, raw) == seen
        assert [request.status for request in simulator.creates()] == [None, None]
        assert simulator.rings == 1

    run(scenario)


def test_silence_until_stop(run: Run) -> None:
    heard: list[asyncio.Task[bytes]] = []

    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("silence"))

        async def listen() -> bytes:
            async with connected(simulator) as raw:
                return await create(simulator, raw)

        heard.append(asyncio.create_task(listen()))
        await simulator.until(lambda: simulator.rings == 1)
        assert not heard[0].done()
        await simulator.stop()
        assert await heard[0] == b"RESET"

    run(scenario)


def test_half_an_answer_and_a_reset(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("reset-answer"))
        async with connected(simulator) as raw:
            seen = await create(simulator, raw)
        assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
        assert seen.endswith(b"RESET")
        assert b"successfully" not in seen

    run(scenario)


@pytest.mark.parametrize(("kind", "end"), [("reset-after", b"RESET"), ("close-after", b""), ("close", b"")])
def test_a_whole_answer_and_the_end(run: Run, kind: str, end: bytes) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault(kind))
        async with connected(simulator) as raw:
            reply = await raw.ask("POST", CREATE, cookie(simulator.issue_token()), VOICE)
            assert reply.body == NORMAL
            assert reply.fields("connection") == (["close"] if kind == "close" else [])
            assert await raw.rest() == end

    run(scenario)


@pytest.mark.parametrize(
    ("fault", "status", "body", "rings"),
    [
        (Fault("status", status=502), 502, b"", 0),
        (Fault("status", status=500, body='{"resultCode":"7"}'), 500, b'{"resultCode":"7"}', 0),
        (Fault("status", perform=True), 500, b"", 1),
        (Fault("status", status=204), 204, b"", 0),
        (Fault("result-code", code="99", description="no"), 200, b'{"resultCode":"99","resultDesc":"no"}', 0),
        (Fault("not-json"), 200, b"connect successfully.", 1),
        (Fault("no-result-code"), 200, b"{}", 1),
        (Fault("redirect"), 302, b"", 0),
        (Fault("content-type"), 200, NORMAL, 1),
        (Fault("headers-flood"), 200, NORMAL, 1),
        (Fault("delay", seconds=0.01), 200, NORMAL, 1),
        (Fault("status", delay=0.01), 500, b"", 0),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_answers_that_are_not_the_documented_one(run: Run, fault: Fault, status: int, body: bytes, rings: int) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(fault)
        good = cookie(simulator.issue_token())
        async with connected(simulator) as raw:
            reply = await raw.ask("POST", CREATE, good, VOICE)
            assert (reply.status, reply.body, simulator.rings) == (status, body, rings)
            assert simulator.creates()[0].status == status
            if fault.kind == "redirect":
                assert reply.fields("location") == ["https://elsewhere.example/"]
            if fault.kind == "content-type":
                assert reply.fields("content-type") == ["text/html"]
            if fault.kind == "headers-flood":
                assert sum(len(name) + len(value) for name, value in reply.headers) > 64 * 1024
            assert (await raw.ask("POST", DROP, good)).status == 200  # the connection goes on

    run(scenario)


def test_oversize(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("oversize", bytes=3_000_000))
        reply = await once(simulator, "POST", CREATE, cookie(simulator.issue_token()), VOICE)
        assert len(reply.body) == 3_000_000
        assert json.loads(reply.body)["resultCode"] == "0"

    run(scenario)


def test_truncated(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("truncated", missing=3))
        async with connected(simulator) as raw:
            head, _, body = (await create(simulator, raw)).partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % (len(NORMAL) + 3) in head + b"\r\n"
        assert body == NORMAL

    run(scenario)


def test_chunked(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("chunked"))
        async with connected(simulator) as raw:
            raw.send("POST", CREATE, cookie(simulator.issue_token()) | {"Connection": "close"}, VOICE)
            head, _, rest = (await raw.rest()).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert b"Content-Length" not in head
        body = b""
        while rest != b"0\r\n\r\n":
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        assert body == NORMAL

    run(scenario)


def test_informational(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("informational"))
        async with connected(simulator) as raw:
            first = await raw.ask("POST", CREATE, cookie(simulator.issue_token()), VOICE)
            assert [first.status, (await raw.reply()).status, (await raw.reply()).status] == [100, 103, 200]

    run(scenario)


def test_unsolicited(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("unsolicited", body="{}"))
        async with connected(simulator) as raw:
            first = await raw.ask("POST", CREATE, cookie(simulator.issue_token()), VOICE)
            assert (first.body, (await raw.reply()).body) == (NORMAL, b"{}")
        assert len(simulator.received) == 1

    run(scenario)


def test_encoded(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("encoded"))
        reply = await once(simulator, "POST", CREATE, cookie(simulator.issue_token()), VOICE)
        assert reply.fields("content-encoding") == ["gzip"]
        assert gzip.decompress(reply.body) == NORMAL

    run(scenario)


def test_expire_now(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("expire-now", "create"))
        good = cookie(simulator.issue_token())
        assert (await once(simulator, "GET", CHECK, good)).status == 200
        assert (await once(simulator, "POST", CREATE, good, VOICE)).status == 401
        assert simulator.rings == 0

    run(scenario)


def test_faults_are_met_in_order_by_those_that_they_are_for(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.fault(Fault("status", "create", times=2, status=503))
        simulator.fault(Fault("status", endpoint=1, status=504))
        simulator.fault(Fault("status", "check", times=None, status=505))
        good = cookie(simulator.issue_token())

        async def status(endpoint: int, method: str, path: str, body: bytes = b"") -> int:
            async with connected(simulator, simulator.endpoints[endpoint]) as raw:
                return (await raw.ask(method, path, good, body)).status

        assert await status(0, "GET", CHECK) == 505
        assert await status(1, "GET", CHECK) == 504
        assert [await status(0, "POST", CREATE, VOICE) for _ in range(3)] == [503, 503, 200]
        assert await status(1, "GET", CHECK) == 505
        assert [fault["times"] for fault in simulator.faults.waiting()] == [None]
        simulator.clear_faults()
        assert await status(0, "GET", CHECK) == 200

    run(scenario, nslb_ports=(0, 0))


def test_an_address_can_refuse_and_come_back(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        address = simulator.endpoints[0]
        await simulator.refuse(0)
        with pytest.raises(ConnectionRefusedError):
            async with connected(simulator):
                pass
        simulator.admit(0)
        async with connected(simulator):
            assert simulator.endpoints[0] == address

    run(scenario)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "rest-accept"},
        {"kind": "status", "operation": "creat"},
        {"kind": "reset-accept", "operation": "create"},
        {"kind": "status", "code": 500},
        {"kind": "status", "status": "500"},
        {"kind": "status", "status": 100},
        {"kind": "status", "status": True},
        {"kind": "delay", "times": 0},
        {"kind": "delay", "times": True},
        {"kind": "delay", "endpoint": -1},
        {"kind": "reset-accept", "delay": 1},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Fault(**wrong)
