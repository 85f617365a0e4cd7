"""The callers' API: the straight way of a request from its arrival to its answer.

Owns the order of things (observe, route, authenticate, allow, handle), the one place that catches what goes wrong
and makes it an answer, and the one place where the record of a request is closed. Refuses by default: a request
gets nowhere that a route, a credential and an allowance did not open.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from gateway import problems
from gateway.auth import ApiKeys, presented
from gateway.auth.credentials import Absence
from gateway.http import dial, events, fields, form
from gateway.http.answers import Answer, Answers
from gateway.http.exchange import Common, Exchange, Runtime
from gateway.model import Operation, Outcome, Principal
from gateway.problems import Problem
from gateway.telemetry import Record, Telemetry
from gateway.upstream import NotSent, SentUnanswered

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.http.listener import CallerConnection

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_OTHER_METHOD: Final = "_OTHER"  # OpenTelemetry's word for a method that is not in its list


@dataclass(frozen=True, slots=True)
class Task:
    """What a method of a route does; `operation` is what the service must be allowed, if it is one of NSLB's."""

    handler: Callable[[Exchange], Awaitable[Answer]]
    operation: Operation | None


_DIAL: Final = "/dial"
_DIAL_TASKS: Final = {"POST": Task(dial.create, Operation.CREATE)}
_SUPPORT_TASKS: Final = {"GET": Task(dial.support, Operation.CHECK)}
_CALL_TASKS: Final = {"GET": Task(dial.state, None), "DELETE": Task(dial.release, Operation.DROP)}
_EVENTS_TASKS: Final = {"GET": Task(events.events, Operation.EVENTS)}


def _tasks(path: str) -> tuple[str, str, dict[str, Task]] | None:
    """The route of a path, the dial's id in it, and what its methods do."""
    if path == _DIAL:
        return _DIAL, "", _DIAL_TASKS
    first, _, rest = path.removeprefix("/dial/").partition("/")
    if not path.startswith("/dial/") or not first:
        return None
    if path == "/dial/support":
        return path, "", _SUPPORT_TASKS
    if path == f"/dial/{first}":
        return "/dial/{id}", first, _CALL_TASKS
    return ("/dial/{id}/events", first, _EVENTS_TASKS) if rest == "events" else None


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
        self.common = Common(Answers(wall), body_timeout)
        self.under_way = 0
        self._idle: asyncio.Event | None = None
        self._left: set[asyncio.Task[Answer]] = set()
        self._telemetry = telemetry
        self._wall = wall

    async def __call__(self, request: web.BaseRequest, refusal: Problem | None = None) -> Answer:
        """Answer one request, with the refusal if there is one already.

        Closes its record, whoever has hung up in the meantime.
        """
        record = self._observe(request)
        self.under_way += 1
        if "Request-Timeout" in request.headers:
            return await self._in_time(request, record, refusal)
        try:
            answer = await self._guarded(request, record, refusal, math.inf)
            record.status = answer.status
        finally:
            self._close(record)
        return answer

    def begin_draining(self) -> None:
        """Take nothing more, and end what only waits."""
        self.common.draining = True
        for bell in self.common.bells:
            bell.ring()

    async def idle(self) -> None:
        """Wait until no request is under way."""
        self._idle = asyncio.Event()
        if self.under_way:
            await self._idle.wait()

    async def cut_off(self) -> None:
        """End what is still under way although its caller has been answered: the process waits no longer."""
        left = list(self._left)
        for work in left:
            work.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def refuse_unparsed(self, problem: Problem, client_address: str | None) -> Answer:
        """Answer a request that could not be parsed, so that there is none to speak of."""
        record = fields.new_record(self._telemetry)
        record.client_address = client_address
        answer = self._conclude(problem, record, keep_alive=False, bodiless=False)
        record.status = answer.status
        self._telemetry.close(record)
        return answer

    def _close(self, record: Record) -> None:
        self.under_way -= 1
        self._telemetry.close(record)
        if self._idle is not None and not self.under_way:
            self._idle.set()

    # --- a caller's own deadline

    async def _in_time(self, request: web.BaseRequest, record: Record, refusal: Problem | None) -> Answer:
        """Answer when the caller's time is over at the latest. What was sent by then is still waited for."""
        keep_alive = self._keep_alive(request)
        try:
            seconds = fields.request_timeout(request.headers) or math.inf
        except Problem as malformed:
            seconds, refusal = math.inf, refusal or malformed
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        work = loop.create_task(self._guarded(request, record, refusal, until))
        self._left.add(work)
        told: list[Problem] = []
        work.add_done_callback(lambda done: self._ended(done, record, told))
        await asyncio.wait({work}, timeout=None if seconds == math.inf else max(0.0, until - loop.time()))
        if work.done() or record.operation is Operation.EVENTS:
            return await work
        # What is not sent by now never will be.
        record.late = True
        problem = _TOO_LATE if record.sent else _NOT_IN_TIME
        told.append(problem)
        keep_alive = keep_alive and request.content.is_eof()
        return self.common.answers.problem(problem, record.request_id, keep_alive=keep_alive)

    def _ended(self, work: asyncio.Task[Answer], record: Record, told: list[Problem]) -> None:
        self._left.discard(work)
        if told:
            record.status = told[0].type.status
            record.code = record.code or told[0].type.code
        elif not work.cancelled() and work.exception() is None:
            record.status = work.result().status
        self._close(record)

    # --- observe

    def _observe(self, request: web.BaseRequest) -> Record:
        headers = request.headers
        record = self._telemetry.begin(*fields.identify(headers.get("X-Request-ID"), headers.get("traceparent")))
        method = request.method
        record.method = method if method in _METHODS else _OTHER_METHOD
        address = request.remote
        record.client_address = address.partition("%")[0] if address else None
        return record

    # --- problems

    def _keep_alive(self, request: web.BaseRequest) -> bool:
        # HTTP/1.0 keeps connections only by an agreement that proxies get wrong (RFC 9112, 9.3).
        return request.keep_alive and request.version.minor > 0 and not self.common.draining

    async def _guarded(self, request: web.BaseRequest, record: Record, refusal: Problem | None, until: float) -> Answer:
        keep_alive = self._keep_alive(request)
        try:
            if refusal is not None:
                raise refusal
            return await self._route(request, record, keep_alive=keep_alive, until=until)
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
        if record.status:
            # A stream has begun, and nothing else can be said in it.
            cast("CallerConnection", request.protocol).force_close()
            return Answer(record.status, b"", keep_alive=False)
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
        return self.common.answers.problem(problem, record.request_id, keep_alive=keep_alive, bodiless=bodiless)

    # --- the route, who calls, and whether they may

    async def _route(self, request: web.BaseRequest, record: Record, *, keep_alive: bool, until: float) -> Answer:
        if self.common.draining:
            raise Problem(problems.SHUTTING_DOWN, "The gateway is shutting down; another one will take it.")
        path, query = form.target(request)
        found = _tasks(path)
        if found is None:
            raise Problem(problems.NOT_FOUND, "There is no such route.")
        record.route, identifier, tasks = found
        task = tasks.get(request.method)
        if task is None:
            allow = ", ".join(tasks)
            raise Problem(problems.METHOD_NOT_ALLOWED, f"This route takes {allow} only.", allow=allow)
        operation = record.operation = task.operation
        metrics = self._telemetry.metrics
        if operation is not None:
            metrics.entered(operation)
        try:
            runtime = self.runtime
            principal = self._authenticate(request, runtime.keys, record)
            if operation is not None and operation not in principal.operations:
                raise Problem(problems.FORBIDDEN, "This service may not use this operation.")
            if operation is not Operation.CREATE:
                # A connection with a body that nobody read can't carry another request.
                keep_alive = keep_alive and request.content.is_eof()
            exchange = Exchange(
                request,
                record,
                runtime,
                principal,
                self.common,
                keep_alive,
                identifier,
                query,
                until,
            )
            return await task.handler(exchange)
        finally:
            if operation is not None:
                metrics.left(operation)

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


_TOO_LATE: Final = Problem(
    problems.UPSTREAM_TIMEOUT, "The caller's time was over before the contact centre answered; it may have done it."
)
_NOT_IN_TIME: Final = Problem(
    problems.UPSTREAM_UNREACHABLE,
    "The caller's time was over before anything was sent; nothing was, and nothing will be.",
)
