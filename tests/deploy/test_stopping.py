"""From the start of a pod to its end, as processes here: the application ends first, and no call is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from gateway.client import DialClient, OutcomeUnknown
from gateway.simulator import Certificates, Simulator
from tests.deploy.gateways import gateways
from tests.deploy.manifests import ROOT
from tests.deploy.overlays import overlay, settings
from tests.deploy.soundness import LAST_SECONDS
from tests.harness import KEY, Farm, digest, until
from tests.running import Process

APPLICATION: Path = ROOT / "overlays" / "example" / "application.py"
# One call under a key that is known here; told to end, it is gone at once.
HASTY = """
import asyncio, sys
from gateway.client import DialClient

async def main(gateway, key):
    async with DialClient(gateway, key) as client:
        await client.dial("voice", idempotency_key="order-17")

asyncio.run(main(*sys.argv[1:]))
"""


def configured(simulator: Simulator, directory: Path, certificates: Certificates) -> dict[str, Any]:
    """The example's configuration, for this machine and this simulator."""
    changed = settings("example", directory, certificates)
    changed["listen"]["address"] = changed["admin"]["address"] = "127.0.0.1:0"
    changed["upstream"] |= {
        "endpoints": list(simulator.endpoints),
        "tls": {"ca": str(simulator.ca), "server_name": simulator.server_name},
    }
    changed["accounts"]["sales"]["apply_token"] |= {
        "url": simulator.fabric_url,
        "tls": {"ca": str(simulator.ca), "server_name": simulator.fabric_name},
    }
    changed["services"]["application"]["credentials"] = [{"api_key": digest(KEY)}]
    return changed


@dataclass
class Line:
    """A line to NSLB whose answers can be kept back."""

    address: str
    open: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def line_to(endpoint: str) -> AsyncIterator[Line]:
    """A line to an endpoint of the simulator, open at first."""
    host, _, port = endpoint.removeprefix("https://").rpartition(":")
    connections: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event | None) -> None:
        while data := await source.read(65536):
            if gate is not None:
                await gate.wait()
            target.write(data)
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection(host, int(port))
        for task in (carry(reader, before, None), carry(behind, writer, line.open)):
            connections.add(asyncio.create_task(task))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    line = Line(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    line.open.set()
    async with server:
        yield line
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def pod(
    simulator: Simulator, directory: Path, certificates: Certificates, **environment: str
) -> tuple[Process, asyncio.subprocess.Process]:
    """A gateway, and the example's application that calls through it."""
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(configured(simulator, directory, certificates)))
    key = directory / "key"
    key.write_text(KEY)
    gateway = await Process.serve(path)
    application = await asyncio.create_subprocess_exec(
        sys.executable,
        str(APPLICATION),
        env={**os.environ, "GATEWAY": gateway.base, "GATEWAY_KEY_FILE": str(key), **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    return gateway, application


async def test_the_application_calls_through_its_sidecar_and_ends_before_it(
    farm: Farm, certificates: Certificates, tmp_path: Path
) -> None:
    """What a pod does from its start to its end."""
    simulator: Simulator = await farm.simulator(queue_seconds=0.0, connect_seconds=0.0, talk_seconds=None)
    gateway, application = await pod(simulator, tmp_path, certificates, PAUSE_SECONDS="0.05")
    await until(lambda: len(simulator.creates()) >= 3)
    # The kubelet's order: the application's containers, and when they have ended, the sidecars.
    application.send_signal(signal.SIGTERM)
    told, _ = await application.communicate()
    assert application.returncode == 0
    assert await gateway.ended() == 0

    calls = {}
    for line in told.decode().splitlines():
        identifier, status = line.split()
        calls[identifier] = status
    assert len(calls) == len(simulator.creates()) == simulator.rings
    assert set(calls.values()) == {"ended"}
    creates = [line for line in gateway.of("request.forwarded") if line["operation"] == "create"]
    assert [line["outcome"] for line in creates] == ["accepted"] * len(calls)


async def test_the_application_does_not_wait_for_a_call_for_longer_than_its_pod_has(
    farm: Farm, certificates: Certificates, tmp_path: Path
) -> None:
    simulator: Simulator = await farm.simulator(queue_seconds=0.0, connect_seconds=None)
    gateway, application = await pod(simulator, tmp_path, certificates, LAST_SECONDS="3")
    assert application.stdout is not None
    await application.stdout.readline()
    application.send_signal(signal.SIGTERM)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(application.wait(), 2)
    told, _ = await application.communicate()

    assert application.returncode == 0
    assert told.decode().splitlines()[-1] == "The call goes on without us."
    assert await gateway.ended() == 0
    assert simulator.rings == 1


def test_the_pod_has_as_long_as_its_application_and_its_gateway_take() -> None:
    (last,) = re.findall(r'"LAST_SECONDS", "(\d+)"', APPLICATION.read_text())
    manifests = overlay("example")
    (gateway,) = gateways(manifests)

    assert gateway.pod["terminationGracePeriodSeconds"] == int(last) + gateway.drain_seconds + LAST_SECONDS


@pytest.mark.parametrize("content", ["", f"{KEY}\n{digest(KEY)}\n"])
async def test_the_application_says_what_is_wrong_with_its_key(content: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(content)

    application = await asyncio.create_subprocess_exec(
        sys.executable,
        str(APPLICATION),
        env={**os.environ, "GATEWAY": "http://127.0.0.1:1", "GATEWAY_KEY_FILE": str(key)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await application.communicate()

    assert application.returncode == 1
    assert told.decode() == f"{key} is to have the key alone: of what `dial-gateway key new` prints, the first line.\n"


@pytest.mark.parametrize(
    ("number", "drain_seconds", "logged", "known"),
    [
        pytest.param(signal.SIGTERM, 25, ["accepted"], True, id="told, and with time to drain"),
        # What would be lost if the gateway had no time, or were not told.
        pytest.param(signal.SIGTERM, 0, ["unknown"], False, id="told, but without time"),
        pytest.param(signal.SIGKILL, 25, [], False, id="killed"),
    ],
)
async def test_a_call_that_is_under_way_when_the_application_has_ended_is_finished_by_a_gateway_that_drains(
    farm: Farm,
    certificates: Certificates,
    tmp_path: Path,
    number: signal.Signals,
    drain_seconds: float,
    logged: list[str],
    known: bool,
) -> None:
    simulator: Simulator = await farm.simulator(talk_seconds=None)
    encryption = tmp_path / "encryption"
    encryption.write_bytes(Fernet.generate_key())
    path = tmp_path / "gateway.yaml"
    changed = configured(simulator, tmp_path, certificates) | {
        "drain_seconds": drain_seconds,
        # It outlives the pod, so that the next one can tell what became of the call.
        "store": {"url": f"sqlite:///{tmp_path}/state.db", "encryption_keys": [{"file": str(encryption)}]},
    }
    async with line_to(simulator.endpoints[0]) as line:
        changed["upstream"]["endpoints"] = [line.address]
        path.write_text(yaml.safe_dump(changed))
        gateway = await Process.serve(path)
        async with DialClient(gateway.base, KEY) as client:
            await client.dial("voice")  # a connection is open now, and the next call needs no answer to be sent
        line.open.clear()
        application = await asyncio.create_subprocess_exec(sys.executable, "-c", HASTY, gateway.base, KEY)
        await until(lambda: simulator.rings == 2)

        application.send_signal(signal.SIGTERM)
        assert await application.wait() == -signal.SIGTERM
        gateway.process.send_signal(number)
        if known:
            await until(lambda: gateway.of("gateway.stopping"))
            # It is told, and waits, for longer than the second that is left to answers which are being written.
            await asyncio.sleep(2)
            assert gateway.process.returncode is None
            assert len(gateway.of("request.forwarded")) == 1
            line.open.set()
        assert await gateway.ended(None) == (-signal.SIGKILL if number is signal.SIGKILL else 0)

        _, *last = gateway.of("request.forwarded")
        assert [entry["outcome"] for entry in last] == logged
        # The next pod asks again, under the same key.
        line.open.set()
        following = await Process.serve(path)
        async with DialClient(following.base, KEY) as client:
            if known:
                assert (await client.dial("voice", idempotency_key="order-17")).status == "accepted"
            else:
                with pytest.raises(OutcomeUnknown):
                    await client.dial("voice", idempotency_key="order-17")
        assert await following.ended() == 0
    assert simulator.rings == 2
