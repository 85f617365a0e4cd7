"""A gateway and a contact centre for tests: real sockets, real TLS, nothing patched.

Owns how tests start them and how they look at what came out. Refuses shortcuts: what a test sees of the gateway is
what a caller, an operator or NSLB would see.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

from gateway.server import Server
from gateway.simulator import APP_KEY, APP_SECRET, Certificates, Simulator
from tests.described import conform

KEY = "dgw_" + "k" * 43
OTHER_KEY = "dgw_" + "o" * 43


def digest(key: str) -> str:
    """A key's line in the configuration."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Lines:
    """A sink for log lines that remembers them."""

    def __init__(self) -> None:
        self.raw = b""

    def write(self, data: bytes, /) -> int:
        """Take some lines."""
        self.raw += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def all(self) -> list[dict[str, Any]]:
        """Every line so far."""
        return [json.loads(line) for line in self.raw.splitlines()]

    def of(self, *events: str) -> list[dict[str, Any]]:
        """The lines with one of these events."""
        return [line for line in self.all() if line["event"] in events]

    def requests(self) -> list[dict[str, Any]]:
        """The lines of requests."""
        return self.of("request.forwarded", "request.refused", "request.answered")


@dataclass
class Answered:
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        document = json.loads(self.body)
        assert isinstance(document, dict)
        return document


@dataclass
class Harness:
    """A running gateway with one service `billing` on the account `sales`."""

    server: Server
    lines: Lines
    path: Path
    settings: dict[str, Any]
    token_file: Path
    session: aiohttp.ClientSession = field(default_factory=aiohttp.ClientSession)

    @property
    def base(self) -> str:
        """Where callers reach it."""
        return f"http://{self.server.address}"

    async def dial(
        self,
        body: object = None,
        *,
        key: str | None = KEY,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answered:
        """`POST /dial` with a JSON body, `{"media": "voice"}` if none is given."""
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        content = data if data is not None else json.dumps({"media": "voice"} if body is None else body).encode()
        return await self.request("POST", "/dial", headers=sent, data=content)

    async def request(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Answered:
        """Any request to the callers' listener. Its answer must be one that the OpenAPI document has."""
        async with self.session.request(method, self.base + target, headers=headers, data=data) as response:
            answered = Answered(response.status, response.headers, await response.read())
        conform(method, target, answered.status, answered.headers, answered.body)
        return answered

    async def operators(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answered:
        """A GET at the operators' listener."""
        url = f"http://{self.server.admin_address}{path}"
        async with self.session.get(url, headers=headers) as response:
            return Answered(response.status, response.headers, await response.read())

    async def metrics(self) -> dict[str, float]:
        """All samples, by name and labels as they are written."""
        text = (await self.operators("/metrics")).body.decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def write(self, settings: object) -> None:
        """Write a new version of the configuration."""
        self.path.write_text(yaml.safe_dump(settings), encoding="utf-8")


def settings(simulator: Simulator, token_file: Path, *, endpoints: list[str] | None = None) -> dict[str, Any]:
    """A configuration for a gateway before that simulator, to be changed at will before it is written."""
    return {
        "listen": {"address": "127.0.0.1:0"},
        "admin": {"address": "127.0.0.1:0"},
        "upstream": {
            "endpoints": endpoints if endpoints is not None else list(simulator.endpoints),
            "tls": {"ca": str(simulator.ca), "server_name": simulator.server_name},
            "timeouts": {"connect": 2, "response": 10},
            "warm": 0,
        },
        "accounts": {"sales": {"token": {"file": str(token_file)}}},
        "services": {
            "billing": {"accounts": ["sales"], "credentials": [{"api_key": digest(KEY)}]},
        },
        "log": {"level": "debug"},
    }


class Farm:
    """Starts gateways and simulators for one test, and ends them all."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.directory = directory
        self.certificates = certificates
        self._stack = contextlib.AsyncExitStack()
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def _fresh(self, name: str) -> Path:
        self._count += 1
        path = self.directory / f"{name}-{self._count}"
        path.mkdir()
        return path

    async def simulator(self, **arguments: Any) -> Simulator:
        """A running simulator; arguments as its constructor takes them."""
        arguments.setdefault("certificates", self.certificates)
        return await self._stack.enter_async_context(Simulator(self._fresh("simulator"), **arguments))

    def applied(self, simulator: Simulator, **more: Any) -> dict[str, Any]:
        """A change: the account `sales` applies for its tokens; more settings of the account, or of `apply_token`."""
        directory = self._fresh("app")
        for name, secret in (("key", APP_KEY), ("secret", APP_SECRET)):
            (directory / name).write_text(secret)
        applying: dict[str, Any] = {
            "url": simulator.fabric_url,
            "app_key": {"file": str(directory / "key")},
            "app_secret": {"file": str(directory / "secret")},
            "user_id": "gateway-sales",
            "channel_id": "2023",
            "tls": {"ca": str(simulator.ca), "server_name": simulator.fabric_name},
        }
        account = {"lifetime_seconds": more.pop("lifetime_seconds")} if "lifetime_seconds" in more else {}
        return {"accounts": {"sales": {"token": None, "apply_token": applying | more, **account}}}

    async def gateway(
        self,
        simulator: Simulator,
        *changes: Mapping[str, Any],
        endpoints: list[str] | None = None,
        token: str | None = None,
    ) -> Harness:
        """A running gateway; `changes` are merged into its configuration, one after the other."""
        directory = self._fresh("gateway")
        token_file = directory / "token"
        token_file.write_text((token if token is not None else simulator.issue_token("gateway-sales")) + "\n")
        configured = settings(simulator, token_file, endpoints=endpoints)
        for change in changes:
            merge(configured, change)
        path = directory / "gateway.yaml"
        path.write_text(yaml.safe_dump(configured), encoding="utf-8")
        lines = Lines()
        server = Server(path, sink=lines)
        await server.start()
        harness = Harness(server, lines, path, configured, token_file)
        self._stack.push_async_callback(server.drain)
        self._stack.push_async_callback(harness.session.close)
        return harness


def merge(into: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Merge nested mappings; everything else is replaced."""
    for key, value in change.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


async def until(condition: Callable[[], object], *, turns: int = 2000) -> None:
    """Let the event loop turn until something holds; fails after that many short turns."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to hold")
