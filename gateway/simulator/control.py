"""Owns the control port: what people and scripts may see and do while the simulator runs. Plain HTTP on loopback.

Refuses to show a token or a session: where one was received it gives the beginning of its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.simulator.calls import DISCONNECTED
from gateway.simulator.faults import Fault
from gateway.simulator.wire import Received

if TYPE_CHECKING:
    from gateway.simulator.simulator import Simulator

_SECRET_FIELDS = ("authorization", "ccmessaging-token")


class MisuseError(Exception):
    """A request that the control port can't do; the text says why."""


class Control:
    """The control port of one simulator; `port` is what it listens on once started."""

    def __init__(self, simulator: Simulator, port: int) -> None:
        self.port = port
        self._simulator = simulator
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on 127.0.0.1. `OSError` if the port is taken."""
        application = web.Application(middlewares=[_json_problems])
        application.add_routes(
            [
                web.get("/received", self._received),
                web.delete("/received", self._forget),
                web.get("/faults", self._faults),
                web.post("/faults", self._fault),
                web.delete("/faults", self._no_faults),
                web.get("/calls", self._calls),
                web.post("/calls/{user}/end", self._end),
                web.post("/calls/{user}/events", self._event),
                web.post("/script", self._script),
                web.post("/expire", self._expire),
                web.post("/tokens", self._token),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _received(self, _: web.Request) -> web.Response:
        return web.json_response([shown(request) for request in self._simulator.received])

    async def _forget(self, _: web.Request) -> web.Response:
        self._simulator.received.clear()
        return web.json_response([])

    async def _faults(self, _: web.Request) -> web.Response:
        return web.json_response(self._simulator.faults.waiting())

    async def _fault(self, request: web.Request) -> web.Response:
        content = await _object(request)
        try:
            self._simulator.fault(Fault(**content))
        except (TypeError, ValueError) as problem:
            raise MisuseError(str(problem).removeprefix("Fault.__init__() ")) from None
        return web.json_response(self._simulator.faults.waiting(), status=201)

    async def _no_faults(self, _: web.Request) -> web.Response:
        self._simulator.clear_faults()
        return web.json_response([])

    async def _calls(self, _: web.Request) -> web.Response:
        return web.json_response([call.to_json() for call in self._simulator.calls.all])

    async def _end(self, request: web.Request) -> web.Response:
        call = self._simulator.push(DISCONNECTED, request.match_info["user"])
        return web.json_response(call.to_json())

    async def _event(self, request: web.Request) -> web.Response:
        content = await _object(request, {"description", "content", "event_id"})
        details, event_id = content.get("content"), content.get("event_id")
        if not isinstance(details, dict | None) or not isinstance(event_id, int | str | None):
            raise MisuseError("content is an object, event_id a number or a string")
        call = self._simulator.push(
            _text(content, "description"), request.match_info["user"], content=details, event_id=event_id
        )
        return web.json_response(call.to_json())

    async def _script(self, request: web.Request) -> web.Response:
        outcomes = (await _object(request, {"outcomes"})).get("outcomes")
        if not isinstance(outcomes, list) or not all(isinstance(outcome, str) for outcome in outcomes):
            raise MisuseError("outcomes is a list of strings")
        try:
            self._simulator.script(*outcomes)
        except ValueError as problem:
            raise MisuseError(str(problem)) from None
        return web.json_response({"outcomes": outcomes})

    async def _expire(self, request: web.Request) -> web.Response:
        content = await _object(request, {"user"}) if request.can_read_body else {}
        user = _text(content, "user") if content else None
        return web.json_response({"expired": self._simulator.tokens.expire(user)})

    async def _token(self, request: web.Request) -> web.Response:
        content = await _object(request, {"user"})
        return web.json_response({"token": self._simulator.issue_token(_text(content, "user"))})


def shown(request: Received) -> dict[str, object]:
    """A received request as JSON, with digests for secrets."""
    secrets = {value for _, value in request.cookie_pairs() if value}
    for name in _SECRET_FIELDS:
        secrets |= {value.removeprefix("Bearer ") for value in request.fields(name) if value}

    def hide(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "sha256:" + hashlib.sha256(secret.encode("latin-1")).hexdigest()[:12])
        return text

    return {
        "method": request.method,
        "target": hide(request.target),
        "operation": request.operation,
        "user": request.user,
        "headers": [[name, hide(value)] for name, value in request.headers],
        "body": hide(request.body.decode("utf-8", "replace")),
        "status": request.status,
        "refusal": request.refusal,
        "endpoint": request.endpoint,
        "at": request.at,
    }


@web.middleware
async def _json_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except MisuseError as problem:
        return web.json_response({"error": str(problem)}, status=400)
    except LookupError as problem:
        return web.json_response({"error": str(problem.args[0])}, status=404)
    except web.HTTPException as problem:
        headers = {"Allow": problem.headers["Allow"]} if "Allow" in problem.headers else None
        return web.json_response({"error": problem.reason}, status=problem.status, headers=headers)


async def _object(request: web.Request, known: set[str] | None = None) -> dict[str, Any]:
    try:
        content: object = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise MisuseError("the body is not JSON") from None
    if not isinstance(content, dict):
        raise MisuseError("the body is not a JSON object")
    if known is not None and not content.keys() <= known:
        raise MisuseError(f"unknown: {', '.join(sorted(content.keys() - known))}")
    return content


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value:
        raise MisuseError(f"{name} is missing, or not a string")
    return value
