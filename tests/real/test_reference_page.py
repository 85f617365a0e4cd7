"""The reference page in a real browser: all of it is shown, nothing is loaded, nothing is complained of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from deploy.browser import Page, browser
from gateway.openapi import PAGE_HEADERS, document, page
from tests.conftest import need
from tests.harness import Farm


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Page]:
    async with browser(need("chromium"), tmp_path / "profile") as opened:
        yield opened


async def test_every_operation_is_shown_and_no_request_leaves_the_host(farm: Farm, shown: Page) -> None:
    gateway = await farm.gateway(await farm.simulator())
    url = f"http://{gateway.server.admin_address}/docs"

    await shown.show(url)

    operations = [
        operation["operationId"]
        for item in document()["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    for name in operations:
        assert await shown.value(f"document.getElementById('{name}').getBoundingClientRect().height") > 0
    # Its style is in force, and so was not kept out by its own policy.
    assert await shown.value("document.styleSheets[0].cssRules.length") > 0
    # On a narrow screen nothing is out of sight.
    await shown.command("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    assert await shown.value("document.documentElement.scrollWidth") <= 400
    assert shown.asked == [url]
    assert shown.complaints == []


async def test_the_policy_would_stop_what_does_not_belong_there(shown: Page, unused_tcp_port: int) -> None:
    foreign = (
        b"<script>document.title = 'run'</script><img src='https://elsewhere.example/x.png'>"
        b"<style>body { color: red }</style></body>"
    )

    async def serve(_: web.Request) -> web.Response:
        content = page().replace(b"</body>", foreign)
        assert content != page()
        return web.Response(body=content, content_type="text/html", charset="utf-8", headers=PAGE_HEADERS)

    application = web.Application()
    application.router.add_get("/docs", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()

    await shown.show(f"http://127.0.0.1:{unused_tcp_port}/docs")

    assert await shown.value("document.title") != "run"
    assert len([text for text in shown.complaints if "Content Security Policy" in text]) == 3
    await runner.cleanup()
