"""The real command: its exit codes, its signals, its drain, and callers that hang up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from gateway import __version__
from gateway.openapi import document_json
from gateway.simulator import Fault, Simulator
from tests.harness import KEY, Farm, settings, until
from tests.running import COMMAND, Process


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator()


@pytest.fixture
async def running(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Process]:
    path = configured(simulator, tmp_path)
    process = Process(
        await asyncio.create_subprocess_exec(
            *COMMAND, "serve", "--config", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    )
    await process.started()
    yield process
    await process.ended()
    assert process.process.stderr is not None
    assert await process.process.stderr.read() == b""


async def dial(base: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{base}/dial", json={"media": "voice"}, headers={"Authorization": f"Bearer {KEY}"}, **arguments
        ) as response,
    ):
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_it_is_told_to_stop_and_exits_with_zero(running: Process, number: signal.Signals) -> None:
    assert (await dial(running.base))[0] == 201

    assert await running.ended(number) == 0
    assert [line["event"] for line in running.lines] == [
        "gateway.started",
        "store.volatile",
        "request.forwarded",
        "gateway.stopping",
        "gateway.stopped",
    ]


async def test_a_request_under_way_is_finished_while_nothing_new_is_taken(
    running: Process, simulator: Simulator
) -> None:
    simulator.fault(Fault("delay", operation="create", times=1, seconds=0.6))
    base, admin = running.base, running.admin
    async with aiohttp.ClientSession() as kept, aiohttp.ClientSession() as operators:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with kept.post(f"{base}/dial", json={"media": "fax"}, headers=headers) as response:
            assert response.status == 400
        under_way = asyncio.create_task(dial(base))
        await until(simulator.creates)
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: running.of("gateway.stopping"))

        async with operators.get(f"{admin}/readyz") as ready, operators.get(f"{admin}/livez") as alive:
            assert (ready.status, alive.status) == (503, 200)
        async with kept.post(f"{base}/dial", json={"media": "voice"}, headers=headers) as late:
            refused = await late.json(content_type=None)
            assert (late.status, refused["code"], refused["outcome"]) == (503, "shutting-down", "not_sent")
            assert late.headers["Connection"] == "close"
        with pytest.raises(aiohttp.ClientConnectorError):
            await dial(base)
        assert (await under_way)[0] == 201
    assert await running.ended(None) == 0
    assert len(simulator.creates()) == 1


async def test_a_call_is_logged_and_counted_though_its_caller_hung_up(running: Process, simulator: Simulator) -> None:
    simulator.fault(Fault("delay", operation="create", times=1, seconds=0.2))
    with pytest.raises(asyncio.TimeoutError):
        await dial(running.base, timeout=aiohttp.ClientTimeout(total=0.1))
    await until(lambda: running.of("request.forwarded"))

    (line,) = running.of("request.forwarded")
    assert (line["outcome"], line["result_code"]) == ("accepted", "0")
    async with aiohttp.ClientSession() as session, session.get(f"{running.admin}/metrics") as response:
        metrics = await response.text()
    assert 'gateway_requests_total{code="ok",operation="create",service="billing"} 1.0' in metrics
    assert len(simulator.creates()) == 1


async def test_a_call_that_outlasts_the_drain_is_logged_as_unknown(simulator: Simulator, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(simulator.issue_token("gateway-sales"))
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings(simulator, token) | {"drain_seconds": 0.2}))
    process = Process(
        await asyncio.create_subprocess_exec(*COMMAND, "serve", "--config", str(path), stdout=asyncio.subprocess.PIPE)
    )
    await process.started()
    simulator.fault(Fault("silence", operation="create", times=1))
    caller = asyncio.create_task(dial(process.base))
    await until(simulator.creates)

    assert await process.ended() == 0
    (line,) = process.of("request.forwarded")
    assert line["outcome"] == "unknown"
    await asyncio.gather(caller, return_exceptions=True)
    assert len(simulator.creates()) == 1


async def test_sighup_reloads(running: Process, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(path.read_text() + "log2: {}\n")
    running.process.send_signal(signal.SIGHUP)
    await until(lambda: running.of("config.rejected"))

    assert (await dial(running.base))[0] == 201
    assert any(":" in fault and "log2" in fault for fault in running.of("config.rejected")[0]["faults"])


def run(*arguments: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | environment,
    )


def test_a_fault_of_the_configuration_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("upstream: {endpoints: [http://127.0.0.1:1]}\n")

    served, checked = run("serve", "--config", str(path)), run("check", str(path))

    assert (served.returncode, checked.returncode) == (1, 1)
    assert served.stderr == checked.stdout
    assert f"{path}:1:24: upstream.endpoints" in checked.stdout
    assert "Traceback" not in served.stderr


def test_an_address_in_use_is_a_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        token = tmp_path / "token"
        token.write_text("t")
        path = tmp_path / "gateway.yaml"
        path.write_text(
            f"""
listen: {{address: 127.0.0.1:{taken.getsockname()[1]}}}
admin: {{address: 127.0.0.1:0}}
upstream: {{endpoints: ["https://127.0.0.1:1"]}}
accounts: {{a: {{token: {{file: token}}}}}}
services: {{s: {{accounts: [a], credentials: [{{api_key: "sha256:{"0" * 64}"}}]}}}}
"""
        )
        served = run("serve", "--config", str(path))

    assert served.returncode == 1
    assert "can't listen" in served.stderr
    assert "Traceback" not in served.stderr


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("serve",), ("check",), ("key",), ("key", "new")])
def test_misuse_exits_with_two(arguments: tuple[str, ...]) -> None:
    misused = run(*arguments)

    assert misused.returncode == 2
    assert "usage:" in misused.stderr


def test_a_key_is_made_and_digested() -> None:
    made = run("key", "new", "billing")
    key, line = made.stdout.splitlines()
    digested = run("key", "hash", given=key + "\n")

    assert made.returncode == 0
    assert key.startswith("dgw_")
    assert len(key) == 4 + 43
    assert digested.stdout.strip() == line
    assert line.startswith("sha256:")
    assert run("key", "new", "billing").stdout.splitlines()[0] != key
    assert run("key", "hash", given="").returncode == 1


def test_version_and_schema_are_printed() -> None:
    assert run("version").stdout.strip() == __version__
    assert json.loads(run("schema").stdout)["type"] == "object"


def test_the_openapi_document_is_printed() -> None:
    printed = run("openapi")

    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout.encode() == document_json()


def test_the_demo_makes_a_whole_call_and_ends() -> None:
    shown = run("demo", "--once")

    assert shown.returncode == 0
    told = [line.split()[0] for line in shown.stdout.splitlines() if line and line[0] not in "{ "]
    assert [word for word in told if word.islower()] == ["accepted", "queued", "connected", "ended"]
    assert "exactly one request" in shown.stdout


def configured(simulator: Simulator, directory: Path) -> Path:
    """A configuration file for a gateway before that simulator, on ports of its own."""
    token = directory / "token"
    token.write_text(simulator.issue_token("gateway-sales"))
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings(simulator, token) | {"drain_seconds": 5}))
    return path


async def test_a_log_that_nobody_reads_holds_no_call_and_not_the_end(simulator: Simulator, tmp_path: Path) -> None:
    path = configured(simulator, tmp_path)
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(*COMMAND, "serve", "--config", str(path), stdout=writing)
    os.close(writing)
    first = json.loads((await asyncio.to_thread(os.read, reading, 65536)).splitlines()[0])

    async with aiohttp.ClientSession() as session:
        for _ in range(400):  # a pipe holds a quarter of their lines
            answer = await session.post(f"http://{first['listen']}/dial", headers={"X-API-Key": KEY}, json={})
            assert answer.status == 400
        alive = (await session.get(f"http://{first['admin']}/livez")).status
    status, _ = await dial(f"http://{first['listen']}")
    process.send_signal(signal.SIGTERM)

    assert (alive, status) == (200, 201)
    assert await process.wait() == 0
    os.close(reading)


async def test_without_standard_streams_calls_are_placed_all_the_same(
    simulator: Simulator, tmp_path: Path, unused_tcp_port: int
) -> None:
    path = configured(simulator, tmp_path)
    document = yaml.safe_load(path.read_text())
    document["listen"]["address"] = f"127.0.0.1:{unused_tcp_port}"
    path.write_text(yaml.safe_dump(document))
    shell = 'exec "$@" <&- >&- 2>&-'
    process = await asyncio.create_subprocess_exec("sh", "-c", shell, "sh", *COMMAND, "serve", "--config", str(path))
    answered: tuple[int, dict[str, Any]] | None = None
    while answered is None:
        assert process.returncode is None
        with contextlib.suppress(aiohttp.ClientConnectorError):
            answered = await dial(f"http://127.0.0.1:{unused_tcp_port}")
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)

    assert (answered[0], answered[1]["outcome"]) == (201, "accepted")
    assert await process.wait() == 0
