"""A real Prometheus for tests, with the shipped rules.

Owns one process on loopback and its directory. Refuses to outlive the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.conftest import need
from tests.deploy.queries import RULES


class Prometheus:
    """Its HTTP API. Values are those of the last moment; a time series without a finite value counts as none."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression is now: labels, and finite values."""
        result = (await self._get("query", query=expression))["result"]
        if result and not isinstance(result[0], dict):
            result = [{"metric": {}, "value": result}]  # a scalar
        found = [(dict(one["metric"]), float(one["value"][1])) for one in result]
        return [(labels, value) for labels, value in found if math.isfinite(value)]

    async def exemplars(self, expression: str, seconds: float) -> set[str]:
        """The trace ids of exemplars of the last so many seconds."""
        now = float((await self._get("query", query="time()"))["result"][1])
        data = await self._get("query_exemplars", query=expression, start=str(now - seconds), end=str(now))
        return {one["labels"]["trace_id"] for series in data for one in series["exemplars"]}

    async def targets(self) -> list[dict[str, Any]]:
        """Those that it scrapes."""
        found: list[dict[str, Any]] = (await self._get("targets"))["activeTargets"]
        return found

    async def rules(self) -> list[dict[str, Any]]:
        """All rules, with how they went."""
        return [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]

    async def _get(self, what: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._base}/api/v1/{what}", params=parameters) as answer:
            document = await answer.json()
        assert document["status"] == "success", document
        return document["data"]


@contextlib.asynccontextmanager
async def prometheus(directory: Path, port: int, scraped: Sequence[str]) -> AsyncIterator[Prometheus]:
    """One that scrapes these addresses every second, and evaluates the rules as often."""
    directory.mkdir()
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in RULES],
        "scrape_configs": [{"job_name": "dial-gateway", "static_configs": [{"targets": list(scraped)}]}],
    }
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    log = (directory / "log").open("wb")
    with log:
        process = await asyncio.create_subprocess_exec(
            need("prometheus"),
            f"--config.file={directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            await _ready(f"http://127.0.0.1:{port}", session, process)
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(base: str, session: aiohttp.ClientSession, process: asyncio.subprocess.Process) -> None:
    for _ in range(300):
        assert process.returncode is None
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"{base}/-/ready") as answer:
                if answer.ok:
                    return
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come up")
