"""`make stack`: runs until it is told to stop, or for `--seconds`, and leaves nothing behind.

Owns the processes, in the order in which they need one another, and a directory with everything that they write.
Refuses to go on when one of them has ended, and to listen beyond loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography.fernet import Fernet

from deploy.local.callers import Callers
from gateway.auth import new_key

_ROOT: Final = Path(__file__).resolve().parents[2]
_RULES: Final = _ROOT / "deploy" / "prometheus"
_GATEWAY: Final = (sys.executable, "-m", "gateway")
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 35.0
_DRAIN_SECONDS: Final = 5
_SERVICES: Final = ("billing", "crm")
_ACCOUNTS: Final = tuple(f"desk-{number}" for number in range(1, 13))


class Failed(Exception):  # noqa: N818 - of the stack: what stands in it ended, or was never there
    """The stack can't run; says why."""


@dataclass
class Stack:
    """The processes that run, the last one first to be ended."""

    directory: Path
    running: list[tuple[str, asyncio.subprocess.Process]] = field(default_factory=list)
    prometheus: str = ""  # its address, once it runs

    async def start(self, name: str, *command: str) -> None:
        """Start a process; what it prints goes into a file of its name."""
        with (self.directory / f"{name}.log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=output, stderr=output, cwd=_ROOT, start_new_session=True
            )
        self.running.append((name, process))

    async def said(self, name: str, pattern: str) -> re.Match[str]:
        """Wait until a process has printed something. Raises `Failed`."""
        path, process = self.directory / f"{name}.log", dict(self.running)[name]
        async with asyncio.timeout(_START_SECONDS):
            while not (found := re.search(pattern, path.read_text(errors="replace"))):
                if process.returncode is not None:
                    raise Failed(f"{name} ended with {process.returncode}: see below.\n{path.read_text()}")
                await asyncio.sleep(0.05)
        return found

    async def ended(self) -> str:
        """Wait until one has ended that should not have; its name and exit code."""
        waiting = {asyncio.create_task(process.wait()): name for name, process in self.running}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return ", ".join(f"{waiting[task]} ({task.result()})" for task in done)

    async def stop(self) -> None:
        """End all, in reverse order, each with time to finish what it does."""
        for name, process in reversed(self.running):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                _say(f"{name} did not end, and was killed.")
                process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def stack(directory: Path) -> AsyncIterator[tuple[Stack, Callers]]:
    """All of it, running. Raises `Failed`."""
    made = Stack(directory)
    try:
        redis = await _redis(made)
        contact_centre = await _contact_centre(made)
        keys = {name: new_key().reveal().decode() for name in _SERVICES}
        gateways = await _gateways(made, contact_centre, redis, keys)
        made.prometheus = await _prometheus(made, [admin for _, admin in gateways])
        _say(_told(directory, contact_centre, gateways, made.prometheus, redis, keys))
        yield made, Callers([address for address, _ in gateways], keys, contact_centre["control"])
    finally:
        await made.stop()


# --- the processes


async def _redis(made: Stack) -> int:
    port = _free_port()
    home = made.directory / "redis"
    home.mkdir()
    await made.start(
        "redis", _need("redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home),
        "--appendonly", "yes",
    )  # fmt: skip
    await made.said("redis", "Ready to accept connections")
    return port


async def _contact_centre(made: Stack) -> dict[str, str]:
    ports = [argument for name in ("nslb", "fabric", "control") for argument in (f"--{name}-port", "0")]
    home = made.directory / "contact-centre"
    await made.start("contact-centre", *_GATEWAY, "simulate", "--directory", str(home), *ports)
    await made.said("contact-centre", "Ctrl-C ends it")
    text = (made.directory / "contact-centre.log").read_text()
    found = {}
    for name, words in (("nslb", "NSLB"), ("fabric", "API Fabric")):
        match = re.search(rf"^{words}: +(\S+) +\(its certificate names (\S+)\)$", text, re.MULTILINE)
        assert match is not None  # noqa: S101 - it has printed all of it
        found[name], found[f"{name}-name"] = match.groups()
    for name, words in (("control", "Control"), ("ca", "CA"), ("app-key", "App key"), ("app-secret", "App secret")):
        match = re.search(rf"^{words}: +(.+)$", text, re.MULTILINE)
        assert match is not None  # noqa: S101 - it has printed all of it
        found[name] = match[1]
    return found


async def _gateways(
    made: Stack, contact_centre: Mapping[str, str], redis: int, keys: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Start two; the addresses of each, for callers and for operators."""
    encryption_key = made.directory / "encryption-key"
    encryption_key.touch(mode=0o600)
    encryption_key.write_bytes(Fernet.generate_key())
    configuration = made.directory / "gateway.yaml"
    configuration.write_text(yaml.safe_dump(_configuration(contact_centre, redis, encryption_key, keys)))
    names = ("gateway-1", "gateway-2")
    for name in names:
        await made.start(name, *_GATEWAY, "serve", "--config", str(configuration))
    found = []
    for name in names:
        line = json.loads((await made.said(name, r'(?m)^\{.*"event":"gateway.started".*\}$'))[0])
        found.append((line["listen"], line["admin"]))
    return found


async def _prometheus(made: Stack, targets: Sequence[str]) -> str:
    address = f"127.0.0.1:{_free_port()}"
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in sorted(_RULES.glob("*.yaml"))],
        "scrape_configs": [{"job_name": "dial-gateway", "static_configs": [{"targets": list(targets)}]}],
    }
    path = made.directory / "prometheus.yaml"
    path.write_text(yaml.safe_dump(settings))
    await made.start(
        "prometheus", _need("prometheus"), f"--config.file={path}", f"--web.listen-address={address}",
        f"--storage.tsdb.path={made.directory / 'prometheus'}", "--enable-feature=exemplar-storage",
    )  # fmt: skip
    await made.said("prometheus", "Server is ready to receive web requests")
    return address


def _configuration(
    contact_centre: Mapping[str, str], redis: int, encryption_key: Path, keys: Mapping[str, str]
) -> dict[str, Any]:
    accounts = {
        name: {
            "exclusive": True,  # so that each call can be followed, whoever else calls
            "max_call_seconds": 60,
            "apply_token": {
                "url": contact_centre["fabric"],
                "app_key": {"file": contact_centre["app-key"]},
                "app_secret": {"file": contact_centre["app-secret"]},
                "user_id": name,
                "channel_id": "2023",
                "tls": {"ca": contact_centre["ca"], "server_name": contact_centre["fabric-name"]},
            },
        }
        for name in _ACCOUNTS
    }
    services = {
        name: {
            "accounts": list(_ACCOUNTS),
            "credentials": [{"api_key": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"}],
        }
        for name, key in keys.items()
    }
    return {
        "listen": {"address": "127.0.0.1:0"},
        "admin": {"address": "127.0.0.1:0"},
        "upstream": {
            "endpoints": [contact_centre["nslb"]],
            "tls": {"ca": contact_centre["ca"], "server_name": contact_centre["nslb-name"]},
        },
        "accounts": accounts,
        "services": services,
        "store": {"url": f"redis://127.0.0.1:{redis}/0", "encryption_keys": [{"file": str(encryption_key)}]},
        "drain_seconds": _DRAIN_SECONDS,
    }


def _need(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Failed(f"{program} is needed, and not there: install it (Debian: apt-get install {program}).")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# --- what is said


def _told(  # noqa: PLR0913, PLR0917 - each is an address of its own
    directory: Path,
    contact_centre: Mapping[str, str],
    gateways: Sequence[tuple[str, str]],
    prometheus: str,
    redis: int,
    keys: Mapping[str, str],
) -> str:
    lines = ["", "The stack is up, and two services call through it.", ""]
    for number, (address, admin) in enumerate(gateways, 1):
        lines.append(f"Gateway {number}:   http://{address}   its operators: http://{admin}/status, /metrics, /docs")
    lines += [
        f"Prometheus:  http://{prometheus}",
        f"Redis:       127.0.0.1:{redis}",
        f"Control:     {contact_centre['control']}   (of the simulated contact centre)",
        f"Logs:        {directory}",
        "",
        "# a call of your own",
        f"curl -sS http://{gateways[0][0]}/dial -H 'Authorization: Bearer {keys['billing']}' \\",
        """    --json '{"media": "voice"}'""",
        "",
        "Ctrl-C ends it.",
        "",
    ]
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _run(seconds: float | None) -> int:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    with tempfile.TemporaryDirectory(prefix="dial-gateway-stack-") as scratch:
        try:
            async with stack(Path(scratch)) as (made, callers):
                calling = asyncio.create_task(callers.run())
                ended = asyncio.create_task(made.ended())
                waiting = asyncio.create_task(told.wait())
                done, _ = await asyncio.wait(
                    {calling, ended, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
                for task in (calling, ended, waiting):
                    task.cancel()
                await asyncio.gather(calling, ended, waiting, return_exceptions=True)
                if ended in done:
                    raise Failed(f"It can't go on: {ended.result()} ended.")
                if calling in done:
                    calling.result()
                _say(callers.summary())
        except (Failed, TimeoutError) as failure:
            _say(str(failure) or "It did not start in time.")
            return 1
    _say("All of it has ended.")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make stack", description=__doc__)
    parser.add_argument("--seconds", type=float, help="end after so many seconds (default: when told to)")
    raise SystemExit(asyncio.run(_run(parser.parse_args().seconds)))
