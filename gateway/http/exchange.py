"""A request on its way through the handlers, with what they need of everything else.

Owns the words between the API and its handlers. Refuses rules of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import orjson

from gateway.auth import ApiKeys
from gateway.calls import Calls, Desk, Followings, Releases
from gateway.http.answers import Answer, Answers
from gateway.idempotency import Keys
from gateway.model import Outcome, Principal
from gateway.telemetry import Record

if TYPE_CHECKING:
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
class Common:
    """What all requests of the listener have in common.

    `bells` are rung when the gateway begins to drain; `body_timeout` is in seconds.
    """

    answers: Answers
    body_timeout: float
    draining: bool = False
    bells: set[Bell] = field(default_factory=set)


@dataclass(slots=True)
class Exchange:
    """One request and all that belongs to it.

    `identifier` is the dial's of the path, `query` is behind its question mark (`None`: there is no question mark).
    `until`, in seconds of the event loop's clock, is when the caller stops waiting.
    """

    request: web.BaseRequest
    record: Record
    runtime: Runtime
    principal: Principal
    common: Common
    keep_alive: bool
    identifier: str
    query: str | None
    until: float

    @property
    def connection(self) -> CallerConnection:
        """The caller's."""
        return cast("CallerConnection", self.request.protocol)

    def done(self, document: Any, status: int = 200, fields: str = "") -> Answer:
        """What was asked for was done, and this is the answer."""
        self.record.outcome = Outcome.ACCEPTED
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        return self.common.answers.json(status, body, self.record.request_id, fields=fields, keep_alive=self.keep_alive)
