"""The problems of the OpenAPI document: a schema for each row of their table, and what an operation can answer of them.

Owns what each means and what to do about it, in the README's words. Refuses problems that are not in the table of
`gateway.problems`, but for the open place of those that an operator maps result codes to.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import orjson

from gateway import problems
from gateway.model import Outcome
from gateway.openapi.schemas import EXAMPLE_REQUEST_ID, HEADERS, OUTCOME, reference
from gateway.problems import Problem, ProblemType

Json = dict[str, Any]

NO_AGENT_AVAILABLE: Final = problems.rejection("no-agent-available", 503)
MAPPED: Final = "mapped"

# By code and outcome: when it happens, and what the caller should do.
EXPLANATIONS: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("malformed-request", "not_sent"): (
        "not HTTP, not JSON, an unknown or missing member, a wrong value, a body that came too slowly",
        "mend the request; `errors` names the members",
    ),
    ("unauthenticated", "not_sent"): (
        "no key, an unknown or expired one, or two credentials: always the same answer",
        "check the key; ask the operators for a new one",
    ),
    ("forbidden", "not_sent"): (
        "this service may not use this account, medium or operation",
        "ask the operators; sending it again changes nothing",
    ),
    ("not-found", "not_sent"): (
        "a path that is none of these routes, exactly as written",
        "mend the URL",
    ),
    ("unknown-dial", "not_sent"): (
        "no such call of this service, or one of more than a day ago",
        "mend the id",
    ),
    ("method-not-allowed", "not_sent"): (
        "another method than those of `Allow`",
        "mend the request",
    ),
    ("idempotency-in-progress", "not_sent"): (
        "the first request with this key is still running",
        "send it again after `Retry-After`, with the same key, if the store lasts",
    ),
    ("call-superseded", "not_sent"): (
        "a later call on the same account took this one's place: NSLB tells of it and releases it no more",
        "let it end by itself; use `exclusive` accounts to follow calls",
    ),
    ("payload-too-large", "not_sent"): (
        "body over 8 KiB",
        "mend the request",
    ),
    ("uri-too-long", "not_sent"): (
        "target over 8 KiB",
        "mend the request",
    ),
    ("unsupported-media-type", "not_sent"): (
        "not said to be JSON in UTF-8, or compressed",
        "mend the request",
    ),
    ("idempotency-key-reused", "not_sent"): (
        "the key was sent with another request before",
        "use a new key for a new call",
    ),
    ("headers-too-large", "not_sent"): (
        "head over 16 KiB or 128 fields",
        "mend the request",
    ),
    ("internal", "not_sent"): (
        "a fault of the gateway before sending",
        "send it again once; report the request id",
    ),
    ("internal", "unknown"): (
        "a fault of the gateway after sending",
        "don't send it again; report the request id",
    ),
    ("upstream-rejected", "rejected"): (
        'a `resultCode` other than `"0"`, or a 4xx',
        "look at `result_code`; send it again when its cause is gone",
    ),
    ("upstream-credential-rejected", "rejected"): (
        "NSLB refused the account's token, and there was no newer one, or that was refused as well",
        "tell the operators: it needs a new token; then send it again",
    ),
    ("upstream-untrusted", "not_sent"): (
        "NSLB's certificate is untrusted, expired, for another name, or not pinned",
        "tell the operators at once; sending it again is safe",
    ),
    ("upstream-disconnected", "unknown"): (
        "the connection broke after sending",
        "don't send it again",
    ),
    ("upstream-invalid-response", "unknown"): (
        "an answer that is not a documented one; a redirect; a 5xx without `resultCode`",
        "don't send it again; tell the operators",
    ),
    ("no-agent-available", "rejected"): (
        '`resultCode` `"13"` (see `upstream.result_codes`)',
        "send it again later",
    ),
    ("token-unavailable", "not_sent"): (
        "the account has no token that may be sent; `Retry-After` is until the next try to obtain one",
        "send it again after `Retry-After`; if that goes on, tell the operators",
    ),
    ("account-busy", "not_sent"): (
        "each account that could be used has a call that keeps it, or one that is being made or released",
        "send it again after `Retry-After`",
    ),
    ("store-unavailable", "not_sent"): (
        (
            "the store can't be reached, and what is asked depends on it: a key, an exclusive account, "
            "a call of another replica"
        ),
        "send it again after `Retry-After`",
    ),
    ("upstream-unreachable", "not_sent"): (
        "no endpoint could be connected to, or the caller's time was over before anything was sent",
        "send it again after `Retry-After`, a few times, further and further apart",
    ),
    ("overloaded", "not_sent"): (
        "all connections to NSLB stayed in use",
        "send it again after `Retry-After`",
    ),
    ("shutting-down", "not_sent"): (
        "the gateway is stopping",
        "send it again after `Retry-After`, over a new connection",
    ),
    ("upstream-timeout", "unknown"): (
        "no answer in time",
        "don't send it again, but (if the store lasts) with the same `Idempotency-Key` to learn what became of it",
    ),
    ("outcome-unknown", "unknown"): (
        "the first request with this key was cut off, and may have made a call",
        "don't send it again; find out whether the call was made",
    ),
}

TABLE: Final[tuple[ProblemType, ...]] = (
    *(value for value in list(vars(problems).values()) if isinstance(value, ProblemType)),
    NO_AGENT_AVAILABLE,
)

_MAPPED_SCHEMA: Final[Json] = {
    "allOf": [reference("schemas", "Problem")],
    "properties": {"outcome": {"const": Outcome.REJECTED.value}},
    "not": {
        "properties": {
            "code": {
                "enum": sorted(
                    {kind.code for kind in TABLE} - {problems.UPSTREAM_REJECTED.code, NO_AGENT_AVAILABLE.code}
                )
            }
        }
    },
    "description": "A `resultCode` of NSLB that an operator has given a code of its own, and perhaps another status "
    "(`upstream.result_codes`). NSLB did not do it.",
}


def codes(kinds: Iterable[ProblemType]) -> dict[str, list[ProblemType]]:
    """The types by their codes; one code may stand for two outcomes."""
    found: dict[str, list[ProblemType]] = {}
    for kind in kinds:
        found.setdefault(kind.code, []).append(kind)
    return found


def schemas() -> dict[str, Json]:
    """A schema for each code, and one for the codes that an operator gives."""
    return {code: _schema(kinds) for code, kinds in codes(TABLE).items()} | {MAPPED: _MAPPED_SCHEMA}


def _schema(kinds: list[ProblemType]) -> Json:
    kind = kinds[0]
    meanings = [EXPLANATIONS[kind.code, kind.outcome] for kind in kinds]
    return {
        "allOf": [reference("schemas", "Problem")],
        "properties": {
            "type": {"const": f"urn:dial-gateway:problem:{kind.code}"},
            # An operator may give `upstream-rejected` another status, and `no-agent-available` as well.
            "code": {"const": kind.code},
            "outcome": OUTCOME | {"enum": [kind.outcome.value for kind in kinds]},
        }
        | ({} if kind.outcome is Outcome.REJECTED else {"status": {"const": kind.status}}),
        **({"required": ["retry_after"]} if kind.retry_after is not None else {}),
        "description": " ".join(f"{_sentence(when)} {_sentence(then)}" for when, then in meanings),
        "examples": [example(kind) for kind in kinds],
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def example(kind: ProblemType) -> Json:
    """A problem of this type, made as the gateway makes it."""
    when, _ = EXPLANATIONS[kind.code, kind.outcome]
    rejected = kind.outcome is Outcome.REJECTED
    problem = Problem(
        kind,
        _sentence(when.replace("`", "")),
        errors=(("/media", 'is mandatory, and either "voice" or "video"'),)
        if kind.status == HTTPStatus.BAD_REQUEST
        else (),
        result_code=("13" if kind is NO_AGENT_AVAILABLE else "42") if rejected else None,
        result_description="createClickToCall failed." if rejected else None,
    )
    document: Json = orjson.loads(problem.document(EXAMPLE_REQUEST_ID))
    return document


def answers(kinds: Iterable[ProblemType], *, mapped: bool, replayed: bool = False) -> dict[str, Json]:
    """The answers, by status, of an operation that can end with these problems.

    `mapped`: an operator may have given a `resultCode` of it any status; `replayed`: it may repeat what is unknown.
    """
    by_status: dict[int, list[ProblemType]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    found = {
        str(status): answer(status, of_status, mapped=mapped, replayed=replayed)
        for status, of_status in sorted(by_status.items())
    }
    if mapped:
        found["4XX"] = found["5XX"] = reference("responses", "Mapped")
    return found


def answer(status: int, kinds: list[ProblemType], *, mapped: bool = False, replayed: bool = False) -> Json:
    """The answer of one status; `kinds` are those that have it."""
    by_code = codes(kinds)
    options = [reference("schemas", code) for code in by_code]
    if mapped and status != HTTPStatus.UNAUTHORIZED:
        options.append(reference("schemas", MAPPED))
    titles = [of_code[0].title for of_code in by_code.values()]
    headers = {name: reference("headers", name) for name in ("X-Request-ID", "Cache-Control")}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = HEADERS["Retry-After"] | {"required": True}
    elif any(kind.retry_after is not None for kind in kinds):
        headers["Retry-After"] = reference("headers", "Retry-After")
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = reference("headers", "WWW-Authenticate")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = reference("headers", "Allow")
    if replayed and any(kind.outcome is Outcome.UNKNOWN for kind in kinds):
        headers["Idempotency-Replayed"] = reference("headers", "Idempotency-Replayed")
    return {
        "description": titles[0] if len(titles) == 1 else f"{HTTPStatus(status).phrase}: one of {len(titles)} problems",
        "headers": headers,
        "content": {
            problems.MEDIA_TYPE: {
                "schema": options[0] if len(options) == 1 else {"anyOf": options},
                "examples": {
                    (code if len(of_code) == 1 else f"{code}-{kind.outcome}"): {
                        "summary": kind.title,
                        "value": example(kind),
                    }
                    for code, of_code in by_code.items()
                    for kind in of_code
                },
            }
        },
    }


def mapped_answer() -> Json:
    """The answer to a `resultCode` that an operator has given a status of its own."""
    kind = problems.rejection("line-barred", 403)
    problem = Problem(
        kind,
        "The contact centre answered that it did not do it.",
        result_code="77",
        result_description="createClickToCall failed.",
    )
    return {
        "description": "A `resultCode` that the configuration gives this status",
        "headers": {
            "X-Request-ID": reference("headers", "X-Request-ID"),
            "Cache-Control": reference("headers", "Cache-Control"),
            "Retry-After": reference("headers", "Retry-After"),
        },
        "content": {
            problems.MEDIA_TYPE: {
                "schema": reference("schemas", MAPPED),
                "examples": {"mapped": {"value": orjson.loads(problem.document(EXAMPLE_REQUEST_ID))}},
            }
        },
    }
