"""The callers' API: the straight way of a request from its arrival to its answer.

Owns the order of things (observe, route, authenticate, allow, dial), the one place that catches what goes wrong
and makes it an answer, and the one place where the record of a request is closed. Refuses by default: a request
gets nowhere that a route, a credential and an allowance did not open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway import problems
from gateway.auth import ApiKeys, presented
from gateway.auth.credentials import Absence
from gateway.http import body, dial, fields, form
from gateway.http.answers import Answer, Answers
from gateway.http.dial import Accounts
from gateway.model import Operation, Outcome, Principal
from gateway.problems import Problem
from gateway.telemetry import Record, Telemetry
from gateway.upstream import NotSent, Nslb, SentUnanswered

if TYPE_CHECKING:
    from aiohttp import web

_DIAL: Final = "/dial"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_OTHER_METHOD: Final = "_OTHER"  # OpenTelemetry's word for a method that is not in its list


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a version of the configuration amounts to for a request; swapped whole on a reload."""

    keys: ApiKeys
    accounts: Accounts
    nslb: Nslb


class CallersApi:
    """Answers every request of the main listener; `body_timeout` is in seconds, `wall` in epoch seconds."""

    def __init__(
        self,
        runtime: Runtime,
        telemetry: Telemetry,
        *,
        body_timeout: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.runtime = runtime
        self.body_timeout = body_timeout
        self.draining = False
        self.under_way = 0
        self._idle: asyncio.Event | None = None
        self._telemetry = telemetry
        self._wall = wall
        self._answers = Answers(wall)

    async def __call__(self, request: web.BaseRequest, refusal: Problem | None = None) -> Answer:
        """Answer one request, with the refusal if there is one already.

        Closes its record, whoever has hung up in the meantime.
        """
        record = self._observe(request)
        self.under_way += 1
        try:
            answer = await self._guarded(request, record, refusal)
            record.status = answer.status
        finally:
            self.under_way -= 1
            self._telemetry.close(record)
            if self._idle is not None and not self.under_way:
                self._idle.set()
        return answer

    async def idle(self) -> None:
        """Wait until no request is under way."""
        self._idle = asyncio.Event()
        if self.under_way:
            await self._idle.wait()

    def refuse_unparsed(self, problem: Problem, client_address: str | None) -> Answer:
        """Answer a request that could not be parsed, so that there is none to speak of."""
        record = Record(self._telemetry.monotonic(), *fields.identify(None, None))
        record.client_address = client_address
        answer = self._conclude(problem, record, keep_alive=False, bodiless=False)
        record.status = answer.status
        self._telemetry.close(record)
        return answer

    # --- observe

    def _observe(self, request: web.BaseRequest) -> Record:
        headers = request.headers
        request_id, trace = fields.identify(headers.get("X-Request-ID"), headers.get("traceparent"))
        record = Record(self._telemetry.monotonic(), request_id, trace)
        method = request.method
        record.method = method if method in _METHODS else _OTHER_METHOD
        address = request.remote
        record.client_address = address.partition("%")[0] if address else None
        return record

    # --- problems

    async def _guarded(self, request: web.BaseRequest, record: Record, refusal: Problem | None) -> Answer:
        # HTTP/1.0 keeps connections only by an agreement that proxies get wrong (RFC 9112, 9.3).
        keep_alive = request.keep_alive and request.version.minor > 0 and not self.draining
        try:
            if refusal is not None:
                raise refusal
            return await self._route(request, record, keep_alive=keep_alive)
        except Problem as exc:
            problem = exc
        except (NotSent, SentUnanswered) as failure:
            problem = Problem(failure.problem, failure.detail)
        except asyncio.CancelledError:
            # The process is ending and would not wait any longer.
            record.outcome = Outcome.UNKNOWN if record.sent else Outcome.NOT_SENT
            record.code = problems.INTERNAL.code
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller gets a bare 500 and the log the rest
            self._telemetry.log.fault(exc, request_id=record.request_id)
            kind = problems.INTERNAL_AFTER_SENDING if record.sent else problems.INTERNAL
            problem = Problem(kind, "The gateway failed; its log has the reason under this request's id.")
        # A connection with a body that nobody read can't carry another request.
        keep_alive = keep_alive and request.content.is_eof()
        return self._conclude(problem, record, keep_alive=keep_alive, bodiless=request.method == "HEAD")

    def _conclude(self, problem: Problem, record: Record, *, keep_alive: bool, bodiless: bool) -> Answer:
        record.outcome = problem.type.outcome
        record.code = problem.type.code
        record.result_code = problem.result_code
        if problem.type is problems.OVERLOADED:
            record.rejected = "overload"
        elif problem.type is problems.SHUTTING_DOWN:
            record.rejected = "draining"
        return self._answers.problem(problem, record.request_id, keep_alive=keep_alive, bodiless=bodiless)

    # --- the route, who calls, and whether they may

    async def _route(self, request: web.BaseRequest, record: Record, *, keep_alive: bool) -> Answer:
        if self.draining:
            raise Problem(problems.SHUTTING_DOWN, "The gateway is shutting down; another one will take it.")
        path, has_query = form.target(request)
        if path != _DIAL:
            raise Problem(problems.NOT_FOUND, "There is no such route.")
        record.route = _DIAL
        if request.method != "POST":
            raise Problem(problems.METHOD_NOT_ALLOWED, "This route takes POST only.", allow="POST")
        record.operation = Operation.CREATE
        metrics = self._telemetry.metrics
        metrics.entered(Operation.CREATE)
        try:
            runtime = self.runtime
            principal = self._authenticate(request, runtime.keys, record)
            if Operation.CREATE not in principal.operations:
                raise Problem(problems.FORBIDDEN, "This service may not use this operation.")
            if has_query:
                raise Problem(problems.MALFORMED_REQUEST, "This route takes no query.")
            wanted = body.dial_request(await body.take(request, self.body_timeout))
            dial_id, document = await dial.place(wanted, principal, runtime.accounts, runtime.nslb, record)
        finally:
            metrics.left(Operation.CREATE)
        return self._answers.json(
            201,
            document,
            record.request_id,
            fields=f"Location: /dial/{dial_id}\r\n",
            keep_alive=keep_alive,
        )

    def _authenticate(self, request: web.BaseRequest, keys: ApiKeys, record: Record) -> Principal:
        credential = presented(request.headers)
        if isinstance(credential, Absence):
            record.authentication = ("none", credential.value)
        else:
            principal, result = keys.identify(credential, self._wall())
            record.authentication = ("api_key", result)
            if principal is not None:
                record.service = principal.service
                return principal
        # One answer for every reason: which of them it was would help whoever is guessing.
        raise Problem(problems.UNAUTHENTICATED, "A valid credential is required.")
