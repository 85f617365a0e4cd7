"""Fixtures of the simulator's tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Certificates, Simulator

Start = Callable[..., Awaitable[Simulator]]


@pytest.fixture
async def start(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Start]:
    """Starts simulators whose calls do nothing by themselves, unless told otherwise."""
    async with contextlib.AsyncExitStack() as stack:

        async def started(**options: Any) -> Simulator:
            stages: dict[str, Any] = {"queue_seconds": None, "connect_seconds": None, "talk_seconds": None}
            options = {"certificates": certificates, "poll_seconds": 0.02, **stages, **options}
            return await stack.enter_async_context(Simulator(tmp_path, **options))

        yield started
