"""The image: its steps are carried out, and what they make is run as it will be, by nobody, on a read-only root."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway import __version__
from gateway.simulator import Simulator
from tests.conftest import need
from tests.deploy.image import DOCKERFILE, Machine, stages
from tests.harness import KEY, Farm, settings
from tests.running import Process

NOBODY = "65532"
pytestmark = pytest.mark.timeout(240)  # packages are installed


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    need("bwrap")
    made = Machine(tmp_path_factory.mktemp("image"))
    made.build(stages()["build"])
    return made


def lint(text: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)


def test_it_is_written_as_it_should_be() -> None:
    done = lint(DOCKERFILE.read_text())

    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_not_would_be_noticed() -> None:
    assert "DL3007" in lint("FROM python:latest\n").stdout


def test_it_is_run_by_nobody_without_a_shell() -> None:
    final = stages()[""]

    assert final.last("USER") == f"{NOBODY}:{NOBODY}"
    assert final.last("STOPSIGNAL") == "SIGTERM"
    assert final.command("ENTRYPOINT") == ["/opt/gateway/bin/dial-gateway"]
    assert final.command("CMD")[0] == "serve"
    # Nothing of the build is in it but what it is to run.
    assert [argument for name, argument in final.steps if name == "COPY"] == ["--from=build /opt/gateway /opt/gateway"]
    assert not [name for name, _ in final.steps if name in {"RUN", "ADD"}]


def nobody(machine: Machine, *options: str) -> list[str]:
    return machine.sandbox("--unshare-user", "--uid", NOBODY, "--gid", NOBODY, *options)


def test_what_it_made_runs_by_nobody_and_can_write_nowhere(machine: Machine) -> None:
    def run(*command: str) -> str:
        return subprocess.check_output([*nobody(machine), *command], text=True, stderr=subprocess.STDOUT)

    assert run(*stages()[""].command("ENTRYPOINT"), "version") == f"{__version__}\n"
    assert run("/opt/gateway/bin/python", "-c", "import os; print(os.getuid(), os.getgid())") == f"{NOBODY} {NOBODY}\n"
    for place in ("/", "/opt/gateway", "/etc", "/var"):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            run("/opt/gateway/bin/python", "-c", f"import os; os.mkdir('{place}/x')")
        assert "Read-only file system" in refused.value.output


def test_it_is_compiled_and_has_the_extras_and_nothing_of_the_tests(machine: Machine) -> None:
    packages = next(machine.path("/opt/gateway").glob("lib/python3*/site-packages"))

    assert list(packages.glob("gateway/__pycache__/server.cpython-3*.pyc"))
    assert {"redis", "opentelemetry", "gateway"} <= {path.name for path in packages.iterdir()}
    assert not {"pytest", "mypy", "pip"} & {path.name for path in packages.iterdir()}
    assert version("aiohttp") in {path.stem.split("-")[1] for path in packages.glob("aiohttp-*.dist-info")}


def test_its_bill_of_materials_names_what_is_in_it(machine: Machine) -> None:
    machine.build(stages()["bill"])

    bill = json.loads(machine.path("/sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    found = {component["name"]: component["version"] for component in bill["components"]}
    assert found["aiohttp"] == version("aiohttp")
    assert "pytest" not in found


async def test_it_serves_calls_and_ends_when_told(machine: Machine, farm: Farm, tmp_path: Path) -> None:
    simulator: Simulator = await farm.simulator()
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    token = mounted / "token"
    token.write_text(simulator.issue_token("gateway-sales"))
    changed = settings(simulator, Path("/config/token"))
    changed["upstream"]["tls"]["ca"] = "/config/ca.pem"
    (mounted / "ca.pem").write_bytes(simulator.ca.read_bytes())
    (mounted / "gateway.yaml").write_text(yaml.safe_dump(changed))
    reading, writing = os.pipe()
    options = ("--ro-bind", str(mounted), "/config", "--info-fd", str(writing))
    process = Process(
        await asyncio.create_subprocess_exec(
            *nobody(machine, *options),
            *stages()[""].command("ENTRYPOINT"),
            "serve",
            "--config",
            "/config/gateway.yaml",
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[writing],
        )
    )
    os.close(writing)
    with os.fdopen(reading) as told:
        pid = json.load(told)["child-pid"]
    await process.started()

    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with session.post(f"{process.base}/dial", json={"media": "voice"}, headers=headers) as answer:
            assert answer.status == 201
        async with session.get(f"{process.admin}/readyz") as answer:
            assert answer.status == 200
    os.kill(pid, signal.SIGTERM)

    assert await process.process.wait() == 0
    assert process.of("gateway.stopped")
    assert len(simulator.creates()) == 1
