"""`make dashboards-preview`: pictures of the dashboards, with the data of a stack that runs for a few minutes.

Owns the order: the page, the stack and its calls, Prometheus' answers, the pictures. Leaves nothing running behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy.grafana.preview.asking import RATE_INTERVAL, Prometheus, answered, empty
from deploy.grafana.preview.dashboards import Unreadable
from deploy.grafana.preview.showing import NotShown, opened, prepare, served, shown
from deploy.local.__main__ import Failed, Stack, stack
from deploy.local.callers import Callers

_DASHBOARDS: Final = Path(__file__).parents[1]
_SECONDS: Final = 180.0
_WARMING: Final = 1.5 * RATE_INTERVAL  # before that, every rate would begin at nothing


async def _preview(dashboards: Sequence[Path], output: Path, seconds: float) -> None:
    read = {path.stem: json.loads(path.read_text()) for path in dashboards}
    with tempfile.TemporaryDirectory(prefix="dial-gateway-preview-") as scratch:
        page = await prepare(_need("npm"))
        chromium = _need("chromium")
        async with stack(Path(scratch)) as (made, callers):
            await _calls(made, callers, _WARMING + seconds)
            found = await _found(read, made.prometheus, seconds)
        async with served(page, found) as address, opened(chromium, Path(scratch)) as tab:
            for name, dashboard in found.items():
                picture = output / f"{name}.png"
                picture.write_bytes(await shown(tab, address, name))
                _say(f"{picture}: {picture.stat().st_size // 1000} kB")
                for title in empty(dashboard):
                    _say(f"  without data: {title}")


async def _calls(made: Stack, callers: Callers, seconds: float) -> None:
    tasks = {asyncio.create_task(callers.run()), asyncio.create_task(made.ended())}
    _say(f"Calls are made for {seconds:g} seconds.")
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        raise Failed(f"It can't go on: {task.result() or 'the callers'} ended.")
    _say(callers.summary())


async def _found(read: dict[str, Any], prometheus: str, seconds: float) -> dict[str, dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        asked = Prometheus(session, prometheus)
        end = time.time()
        return {name: await answered(dashboard, asked, end - seconds, end) for name, dashboard in read.items()}


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise Failed(f"{program} is needed, and not there: install it (Debian: apt-get install {program}).")
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _run(arguments: argparse.Namespace) -> int:
    running = asyncio.current_task()
    assert running is not None  # noqa: S101 - a coroutine that runs is in a task
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        # Once: told again, it would leave what it is ending.
        if not told.is_set():
            told.set()
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    dashboards = arguments.dashboard or sorted(_DASHBOARDS.glob("*.json"))
    try:
        if arguments.install:
            await prepare(_need("npm"))
            return 0
        await _preview(dashboards, arguments.output, arguments.seconds)
    except (Failed, NotShown, Unreadable, TimeoutError) as failure:
        _say(str(failure) or "It did not start in time.")
        return 1
    return 0


def main() -> int:
    """Make the pictures; 0 if there are some."""
    parser = argparse.ArgumentParser(prog="make dashboards-preview", description=__doc__)
    parser.add_argument("dashboard", type=Path, nargs="*", help="what to show (default: all of deploy/grafana)")
    parser.add_argument("--install", action="store_true", help="install what the page is made of, and end")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="the time that is shown (default: %(default)g)")
    parser.add_argument("--output", type=Path, default=_DASHBOARDS, help="the directory for the pictures")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(_run(arguments))
    return 130


if __name__ == "__main__":
    raise SystemExit(main())
