"""From the start of a pod to its end, as processes here: the application ends first, and no call is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import yaml

from gateway.simulator import Certificates, Simulator
from tests.deploy.manifests import ROOT
from tests.deploy.overlays import settings
from tests.harness import KEY, Farm, digest, until
from tests.running import Process


async def test_the_application_calls_through_its_sidecar_and_ends_before_it(
    farm: Farm, certificates: Certificates, tmp_path: Path
) -> None:
    """What a pod does from its start to its end, as processes here."""
    simulator: Simulator = await farm.simulator(queue_seconds=0.0, connect_seconds=0.0, talk_seconds=None)
    changed = settings("example", tmp_path, certificates)
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
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(changed))
    key = tmp_path / "key"
    key.write_text(KEY)

    gateway = await Process.serve(path)
    application = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "overlays" / "example" / "application.py"),
        env={**os.environ, "GATEWAY": gateway.base, "GATEWAY_KEY_FILE": str(key), "PAUSE_SECONDS": "0.05"},
        stdout=asyncio.subprocess.PIPE,
    )
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
