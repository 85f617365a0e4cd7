"""Schemathesis, with all of its checks, compares the OpenAPI document that is served with a gateway that runs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.harness import KEY, Farm, Harness

HERE = Path(__file__).parent


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator(queue_seconds=0.0, connect_seconds=0.0, talk_seconds=None, poll_seconds=0.05)


@pytest.fixture
async def gateway(farm: Farm, simulator: Simulator) -> Harness:
    return await farm.gateway(simulator)


async def schemathesis(
    gateway: Harness, document: Path | str, directory: Path, *options: str
) -> tuple[int | None, str]:
    """Its exit code and its report; in a process of its own, which is how it is made to be used."""
    settings = {"PYTHONPATH": str(HERE.parents[1]), "SCHEMATHESIS_HOOKS": "tests.calls.openapi_hooks"}
    # To measure it would say that a process without `gateway` in it ran nothing of `gateway`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        str(document),
        f"--url={gateway.base}",
        f"--header=Authorization: Bearer {KEY}",
        "--continue-on-failure",
        *options,
        "--max-time=25",
        "--no-color",
        cwd=directory,
        env=environment | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(50):
            report, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, report.decode()


async def test_the_gateway_does_what_its_document_says(gateway: Harness, tmp_path: Path) -> None:
    code, report = await schemathesis(gateway, f"http://{gateway.server.admin_address}/openapi.json", tmp_path)

    assert code == 0, report
    answered = {
        (line["http.request.method"], line["http.route"], line["http.response.status_code"])
        for line in gateway.lines.requests()
        if line.get("http.route")
    }
    # It has been where it matters: each operation has succeeded, and was refused to those without a key.
    assert answered >= {
        ("POST", "/dial", 201),
        ("GET", "/dial/{id}", 200),
        ("DELETE", "/dial/{id}", 200),
        ("GET", "/dial/{id}/events", 200),
        ("GET", "/dial/{id}/events", 204),
        ("GET", "/dial/support", 200),
    } | {
        (method, route, 401)
        for method, route in (
            ("POST", "/dial"),
            ("GET", "/dial/{id}"),
            ("DELETE", "/dial/{id}"),
            ("GET", "/dial/{id}/events"),
            ("GET", "/dial/support"),
        )
    }
    assert gateway.lines.of("internal.fault") == []


async def test_it_would_have_found_what_is_wrong(gateway: Harness, tmp_path: Path) -> None:
    right = (await gateway.operators("/openapi.json")).body
    wrong = right.replace(b'"required": [\n          "id",\n          "status",', b'"required": [\n "nothing",', 1)
    assert wrong != right
    document = tmp_path / "wrong.json"
    document.write_bytes(wrong)

    code, report = await schemathesis(gateway, document, tmp_path, "--phases=examples", "--include-path=/dial")

    assert code == 1
    assert '"nothing" is a required property' in report
