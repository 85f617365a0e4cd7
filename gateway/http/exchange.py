"""A request on its way through the handlers, with what they need of everything else.

Owns the words between the API and its handlers. Refuses rules of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson

from gateway.auth import ApiKeys
from gateway.calls import Calls, Desk, Followings, Releases
from gateway.http.answers import Answer, Answers
from gateway.idempotency import Keys
from gateway.model import Outcome, Principal
from gateway.telemetry import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from gateway.calls import Bell
    from gateway.http.listener import CallerConnection


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a version of the configuration amounts to for a request; swapped whole on a reload."""

    keys: ApiKeys
    desk: Desk
    followings: Followings
    releases: Releases
    idempotency: Keys

    @property
    def calls(self) -> Calls:
        """All calls."""
        return self.desk.calls


@dataclass(slots=True)
class Exchange:
    """One request and all that belongs to it.

    `identifier` is the dial's of the path, `query` is behind its question mark (`None`: there is no question mark).
    `until`, in seconds of the event loop's clock, is when the caller stops waiting. `draining` says whether the gateway
    is; `ringing` rings a bell when it begins to, and takes it back.
    """

    request: web.BaseRequest
    record: Record
    runtime: Runtime
    principal: Principal
    answers: Answers
    body_timeout: float
    keep_alive: bool
    draining: Callable[[], bool]
    bells: set[Bell]
    identifier: str = ""
    query: str | None = None
    until: float = math.inf

    @property
    def connection(self) -> CallerConnection:
        """The caller's."""
        return cast("CallerConnection", self.request.protocol)

    def done(self, document: Any, status: int = 200, fields: str = "") -> Answer:
        """What was asked for was done, and this is the answer."""
        self.record.outcome = Outcome.ACCEPTED
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        return self.answers.json(status, body, self.record.request_id, fields=fields, keep_alive=self.keep_alive)
