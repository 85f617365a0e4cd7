"""The reference page in a real browser: all of it is shown, nothing is loaded, nothing is complained of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from deploy.browser import Page, browser
from gateway.openapi import PAGE_HEADERS, document, page
from gateway.openapi.page import STYLE
from tests.conftest import need
from tests.harness import Farm

# Everything that reaches beyond the screen, and every cell, title and example that has more in it than it shows.
OUT_OF_SIGHT = """
[...document.querySelectorAll("main *, nav *")].filter(one => {
    const box = one.getBoundingClientRect();
    const beyond = box.right > document.documentElement.clientWidth + 0.5 || box.left < -0.5;
    const cut = one.matches("div, table, td, th, pre") && one.scrollWidth > one.clientWidth + 1;
    return box.width > 0 && (beyond || cut);
}).map(one => `${one.tagName} ${one.textContent.slice(0, 40)}`)
"""
# Cells that are shown without what their column is called.
UNNAMED = """
[...document.querySelectorAll("td:not(:first-child)")].filter(one => {
    const heading = one.closest("table").tHead.getBoundingClientRect().height > 0;
    const beside = getComputedStyle(one, "::before").content === JSON.stringify(one.dataset.title);
    return one.getBoundingClientRect().height === 0 || !(heading || beside);
}).length
"""


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
    assert shown.asked == [url]
    assert shown.complaints == []


@asynccontextmanager
async def served(content: bytes, port: int) -> AsyncIterator[str]:
    """The address of a page that is served as the operators' listener does."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type="text/html", charset="utf-8", headers=PAGE_HEADERS)

    application = web.Application()
    application.router.add_get("/docs", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}/docs"
    finally:
        await runner.cleanup()


async def out_of_sight(shown: Page, width: int) -> list[str]:
    """The cells, titles, examples and everything else of which a screen of this width shows only a part."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    await shown.command("Emulation.setDeviceMetricsOverride", **size)
    await shown.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    found: list[str] = await shown.value(OUT_OF_SIGHT)
    return found


@pytest.mark.parametrize("width", [320, 390, 600, 705, 800, 896, 900, 1000, 1280])
async def test_nothing_is_out_of_sight_on_a_screen_of_any_width(width: int, shown: Page, unused_tcp_port: int) -> None:
    async with served(page(), unused_tcp_port) as url:
        await shown.show(url)

        assert await out_of_sight(shown, width) == []

        assert await shown.value("document.documentElement.scrollWidth") <= width
        # Each cell is there, with a heading above it or the title of its column beside it.
        assert await shown.value("document.querySelectorAll('td').length") > 100
        assert await shown.value(UNNAMED) == 0


@pytest.mark.parametrize(
    ("rule", "instead", "cut"), [("@container page", "@container none", "TD "), ("white-space: pre-wrap;", "", "PRE ")]
)
async def test_a_table_or_an_example_that_is_cut_off_would_be_noticed(
    rule: str, instead: str, cut: str, shown: Page, unused_tcp_port: int
) -> None:
    style = STYLE.replace(rule, instead)
    assert style != STYLE
    async with served(page(), unused_tcp_port) as url:
        await shown.show(url)
        assert await out_of_sight(shown, 390) == []

        # The policy forbids the page another style; one that the browser itself puts in its place it does not.
        await shown.value(
            "document.styleSheets[0].disabled = true; document.adoptedStyleSheets = [new CSSStyleSheet()]"
        )
        await shown.value(f"document.adoptedStyleSheets[0].replaceSync({json.dumps(style)})")

        assert any(one.startswith(cut) for one in await out_of_sight(shown, 390))


async def test_the_policy_would_stop_what_does_not_belong_there(shown: Page, unused_tcp_port: int) -> None:
    foreign = (
        b"<script>document.title = 'run'</script><img src='https://elsewhere.example/x.png'>"
        b"<style>body { color: red }</style></body>"
    )
    content = page().replace(b"</body>", foreign)
    assert content != page()

    async with served(content, unused_tcp_port) as url:
        await shown.show(url)

        assert await shown.value("document.title") != "run"
        assert len([text for text in shown.complaints if "Content Security Policy" in text]) == 3
