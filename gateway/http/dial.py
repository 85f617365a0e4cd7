"""`POST /dial`, what becomes of the call then, and what an account supports.

Owns the reading of these requests and the order of what is remembered around a call. Refuses media that the service was
not given.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

import orjson

from gateway import problems
from gateway.calls import ID_BYTES, asked, call_id
from gateway.http import body, fields
from gateway.http.answers import REPLAYED, Answer
from gateway.http.entropy import ENTROPY
from gateway.http.exchange import Exchange
from gateway.idempotency import Replay, fingerprint
from gateway.problems import Problem
from gateway.upstream import NotSent, SentUnanswered

_MOST_QUERY_FIELDS: Final = 8


async def create(exchange: Exchange) -> Answer:
    """`POST /dial`."""
    request, record, principal = exchange.request, exchange.record, exchange.principal
    no_query(exchange)
    wanted = body.dial_request(await body.take(request, exchange.common.body_timeout))
    key = fields.idempotency_key(request.headers) if "Idempotency-Key" in request.headers else None
    if wanted.medium not in principal.media:
        raise Problem(problems.FORBIDDEN, "This service may not use this medium.")
    record.media = wanted.medium
    identifier = call_id(ENTROPY.take(ID_BYTES))
    if key is not None:
        return await _create_once(exchange, wanted, identifier, key)
    if principal.keyed:
        raise Problem(problems.MALFORMED_REQUEST, "This service must send an Idempotency-Key field.")
    return await _create(exchange, wanted, identifier)


async def _create(exchange: Exchange, wanted: body.DialRequest, identifier: str) -> Answer:
    """Create a call that cannot be asked for again."""
    call = await exchange.runtime.desk.place(
        wanted.medium, wanted.account, exchange.principal, identifier, exchange.record, exchange.until
    )
    return _created(exchange, identifier, orjson.dumps(call.document()))


async def _create_once(exchange: Exchange, wanted: body.DialRequest, identifier: str, key: str) -> Answer:
    """Create a call, unless there was a request with that key before."""
    principal = exchange.principal
    # Nothing is remembered of what could not be done for this service at any time.
    exchange.runtime.desk.accounts.check(principal, wanted.account)
    asked_for = fingerprint("POST", "/dial", wanted.medium, orjson.dumps(wanted.account).decode())
    first = await exchange.runtime.idempotency.begin(principal.service, key, asked_for, identifier)
    if isinstance(first, Replay):
        return exchange.done(first.document, 201, f"Location: {first.location}\r\n{REPLAYED}")
    try:
        call = await exchange.runtime.desk.place(
            wanted.medium, wanted.account, principal, identifier, exchange.record, exchange.until
        )
    except Problem as problem:
        await first.failed(problem)
        raise
    except (NotSent, SentUnanswered) as failure:
        await first.failed(Problem(failure.problem, failure.detail))
        raise
    except Exception:
        kind = problems.INTERNAL_AFTER_SENDING if exchange.record.sent else problems.INTERNAL
        await first.failed(Problem(kind, "The gateway failed; its log has the reason."))
        raise
    document = orjson.dumps(call.document())
    await first.accepted(document, f"/dial/{identifier}")
    return _created(exchange, identifier, document)


def _created(exchange: Exchange, identifier: str, document: bytes) -> Answer:
    return exchange.done(document, 201, f"Location: /dial/{identifier}\r\n")


async def state(exchange: Exchange) -> Answer:
    """`GET /dial/{id}`."""
    no_query(exchange)
    call = await exchange.runtime.calls.find(exchange.identifier, exchange.principal.service)
    exchange.record.account, exchange.record.media = call.account, call.medium
    return exchange.done(call.document())


async def release(exchange: Exchange) -> Answer:
    """`DELETE /dial/{id}`."""
    no_query(exchange)
    runtime, record = exchange.runtime, exchange.record
    call = await runtime.calls.find(exchange.identifier, exchange.principal.service)
    record.account, record.media = call.account, call.medium
    if not call.over:
        account = runtime.desk.accounts.of(call)
        await runtime.releases.release(call, account, runtime.desk.nslb, record, exchange.until)
    return exchange.done(call.document())


async def support(exchange: Exchange) -> Answer:
    """`GET /dial/support`."""
    record, runtime = exchange.record, exchange.runtime
    wanted = _account_of(exchange.query)
    seat = next(runtime.desk.accounts.candidates(exchange.principal, wanted, looking=True))
    account, nslb, until = seat.account, runtime.desk.nslb, exchange.until
    record.account = account.name
    verdict = await asked(account, lambda credential: nslb.check(credential, record, until), until)
    record.result_code = verdict.result_code
    if verdict.problem is not None or verdict.support is None:
        raise Problem(
            verdict.problem or problems.UPSTREAM_INVALID_RESPONSE,
            verdict.detail,
            result_code=verdict.result_code,
            result_description=verdict.description,
        )
    found = verdict.support
    return exchange.done({"click_to_call": found.click_to_call, "webrtc": found.webrtc, "account": account.name})


def no_query(exchange: Exchange) -> None:
    """Raises `Problem` if the target has a query."""
    if exchange.query is not None:
        raise Problem(problems.MALFORMED_REQUEST, "This route takes no query.")


def _account_of(query: str | None) -> str | None:
    if query is None:
        return None
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MOST_QUERY_FIELDS
        )
    except ValueError:
        pairs = []
    if len(pairs) != 1 or pairs[0][0] != "account":
        raise Problem(problems.MALFORMED_REQUEST, "The query of this route is account=NAME, or there is none.")
    return pairs[0][1]
