"""The operators' listener: is it alive, is it ready, how is it, what was counted, and what the callers' API is.

Owns the operators' routes. Refuses to let the upstream's health into readiness (a sidecar's readiness gates its
whole pod), and to show a secret: `/status` is made of names, numbers and times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.openapi import PAGE_HEADERS, document_json, page
from gateway.telemetry import Metrics


@dataclass(slots=True)
class Health:
    """What the probes ask for."""

    started: bool = False
    draining: bool = False
    usable: Callable[[], bool] = bool
    _used: bool = False

    def ready(self) -> bool:
        """Whether it has started so far that a request could be sent; once it has, that is not asked again.

        What becomes of tokens later is the upstream's health, and no reason to take a pod out of service.
        """
        self._used = self._used or (self.started and self.usable())
        return self._used


class _Operators:
    def __init__(self, health: Health, metrics: Metrics, status: Callable[[], Mapping[str, Any]]) -> None:
        self._health = health
        self._metrics = metrics
        self._status = status

    async def livez(self, _: web.Request) -> web.Response:
        return _word(200, "alive")

    async def startupz(self, _: web.Request) -> web.Response:
        return _word(200, "started") if self._health.started else _word(503, "starting")

    async def readyz(self, _: web.Request) -> web.Response:
        if self._health.draining:
            return _word(503, "draining")
        return _word(200, "ready") if self._health.ready() else _word(503, "starting")

    async def status(self, _: web.Request) -> web.Response:
        body = orjson.dumps(self._status(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return web.Response(body=body, content_type="application/json")

    async def metrics(self, request: web.Request) -> web.Response:
        self._status()  # the gauges of connections and certificates are set from the same look at them
        try:
            encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # for a version that is none, it compares text with a number
            encoder, content_type = choose_encoder("")
        return web.Response(body=encoder(self._metrics.registry), headers={"Content-Type": content_type})

    async def openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=document_json(), content_type="application/json", headers=PAGE_HEADERS)

    async def docs(self, _: web.Request) -> web.Response:
        return web.Response(body=page(), content_type="text/html", charset="utf-8", headers=PAGE_HEADERS)


def operators_application(health: Health, metrics: Metrics, status: Callable[[], Mapping[str, Any]]) -> web.Application:
    """The application of the operators' listener; `status` gives the JSON object of `/status`."""
    operators = _Operators(health, metrics, status)
    application = web.Application()
    application.router.add_get("/livez", operators.livez)
    application.router.add_get("/startupz", operators.startupz)
    application.router.add_get("/readyz", operators.readyz)
    application.router.add_get("/status", operators.status)
    application.router.add_get("/metrics", operators.metrics)
    application.router.add_get("/openapi.json", operators.openapi)
    application.router.add_get("/docs", operators.docs)
    return application


def _word(status: int, word: str) -> web.Response:
    return web.Response(status=status, text=f"{word}\n", headers={"Cache-Control": "no-store"})
