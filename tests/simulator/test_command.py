"""The simulator as a program: what it leaves and prints, and that a signal ends it cleanly."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, pathlib, sys
from gateway.simulator import serve
ports = dict(nslb_port=int(sys.argv[2]), fabric_port=0, control_port=0)
sys.exit(asyncio.run(serve(pathlib.Path(sys.argv[1]), **ports, token_lifetime=60)))
"""


async def program(directory: Path, port: int = 0) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        PROGRAM,
        str(directory),
        str(port),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_leaves_files_prints_where_it_is_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    process = await program(tmp_path)
    assert process.stdout is not None
    printed = (await process.stdout.readuntil(b"Ctrl-C ends it.")).decode()

    token = tmp_path / "tokens" / "gateway-sales"
    before = token.read_text()
    assert (tmp_path / "ca.pem").is_file()
    assert token.stat().st_mode & 0o777 == 0o600
    assert before not in printed
    assert str(token) in printed
    found = re.search(r"^Control: +(\S+)$", printed, re.MULTILINE)
    assert found is not None
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{found[1]}/tokens", json={"user": "gateway-sales"}) as response,
    ):
        fresh = (await response.json())["token"]
    assert token.read_text() == fresh != before

    process.send_signal(number)
    _, problems = await process.communicate()
    assert (process.returncode, problems) == (0, b"")


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await program(tmp_path, taken.getsockname()[1])
        printed, problems = await process.communicate()

    assert (process.returncode, problems) == (1, b"")
    assert b"A port is taken" in printed
