"""The page of Grafana's components: installed, bundled, served on loopback, and photographed in a browser.

Owns `build/dashboards-preview`, where the packages are. Refuses a picture of a page that complains, or that asks for
anything but what is served here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from deploy.browser import Page, browser

_HERE: Final = Path(__file__).parent
_SOURCES: Final = ("package.json", "package-lock.json", ".npmrc", "tsconfig.json")
BUILD: Final = _HERE.parents[2] / "build" / "dashboards-preview"
_INSTALL_SECONDS: Final = 240.0
_BUNDLE_SECONDS: Final = 60.0
_READY_SECONDS: Final = 30.0
_WIDTH: Final = 1440


class NotShown(Exception):  # noqa: N818 - of the page: it could not be made, or not be seen
    """There is no picture; says why."""


async def prepare(npm: str) -> Path:
    """Install the packages if they aren't those of the lock, and bundle the page; where it is. Raises `NotShown`."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with _alone(BUILD / ".lock"):
        for name in _SOURCES:
            shutil.copy(_HERE / name, BUILD / name)
        shutil.copytree(_HERE / "page", BUILD / "page", dirs_exist_ok=True)
        installed, wanted = BUILD / ".installed", hashlib.sha256((BUILD / "package-lock.json").read_bytes()).hexdigest()
        if not installed.exists() or installed.read_text() != wanted:
            installed.unlink(missing_ok=True)
            await _run(_INSTALL_SECONDS, npm, "ci", "--no-progress")
            installed.write_text(wanted)
        await _run(_BUNDLE_SECONDS, npm, "run", "--silent", "check")
        await _run(_BUNDLE_SECONDS, npm, "run", "--silent", "bundle")
    return BUILD


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    # Two that install into one directory would each find half of the other's.
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def _run(seconds: float, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=BUILD, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        raise NotShown(f"{' '.join(command)} took longer than {seconds:g} s.") from None
    finally:
        if process.returncode is None:
            # What npm starts is in its group, and would go on without it.
            os.killpg(process.pid, 9)
            await process.wait()
    if process.returncode:
        raise NotShown(f"{' '.join(command)} ended with {process.returncode}:\n{output.decode(errors='replace')}")


@contextlib.asynccontextmanager
async def served(page: Path, dashboards: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[str]:
    """The page, under a path for each dashboard; the address of it all."""

    async def dashboard(request: web.Request) -> web.Response:
        if (found := dashboards.get(request.match_info["name"])) is None:
            raise web.HTTPNotFound
        return web.json_response(found)

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(page / "page" / "index.html")

    async def bundle(request: web.Request) -> web.FileResponse:
        return web.FileResponse(page / f"page.{request.match_info['kind']}")

    async def monospace(_: web.Request) -> web.FileResponse:
        files = page / "node_modules" / "@fontsource" / "roboto-mono" / "files"
        return web.FileResponse(files / "roboto-mono-latin-400-normal.woff2")

    packages = page / "node_modules"
    application = web.Application()
    application.router.add_get("/page.{kind:js|css}", bundle)
    application.router.add_get("/{name}/", index)
    application.router.add_get("/{name}/dashboard.json", dashboard)
    # Where Grafana's components ask for them.
    application.router.add_static("/public/img", packages / "@grafana" / "ui" / "dist" / "public" / "img")
    application.router.add_static("/public/fonts/inter", packages / "inter-ui" / "web")
    application.router.add_get("/public/fonts/roboto/{name}", monospace)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def shown(page: Page, address: str, name: str) -> bytes:
    """Show a dashboard, and take its picture as PNG. Raises `NotShown`."""
    await _size(page, 100)
    await page.command("Emulation.setScrollbarsHidden", hidden=True)
    await page.show(f"{address}/{name}/")
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while (ready := await page.value("document.documentElement.dataset.ready")) is None:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise NotShown(f"The page of {name} is not ready: {page.complaints}") from None
    if ready != "yes":
        raise NotShown(f"The page of {name} can't be shown: {ready}")
    if page.complaints:
        raise NotShown(f"The page of {name} complains: {page.complaints}")
    if away := [url for url in page.asked if not url.startswith((f"{address}/", "data:", "blob:"))]:
        raise NotShown(f"The page of {name} asks for {away}")
    await _size(page, await page.value("document.documentElement.scrollHeight"))
    picture = await page.command("Page.captureScreenshot", format="png")
    return base64.b64decode(picture["data"])


async def _size(page: Page, height: int) -> None:
    await page.command(
        "Emulation.setDeviceMetricsOverride", width=_WIDTH, height=height, deviceScaleFactor=1, mobile=False
    )


@contextlib.asynccontextmanager
async def opened(chromium: str, scratch: Path) -> AsyncIterator[Page]:
    """A browser with nothing in it."""
    async with browser(chromium, scratch / "profile") as page:
        yield page
