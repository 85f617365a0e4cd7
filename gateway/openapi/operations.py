"""The operations of the callers' API, by hand: what each does, takes and answers.

Owns which problems each can end with. Refuses to gather them under "any error": what to do differs.
"""

from __future__ import annotations

from typing import Any, Final

from gateway import problems
from gateway.openapi.failures import NO_AGENT_AVAILABLE, answers
from gateway.openapi.schemas import (
    DIAL_REQUEST,
    EXAMPLE_CALL,
    EXAMPLE_EVENT,
    SERVER_SENT_EVENT,
    SUPPORT,
    reference,
)
from gateway.problems import ProblemType

Json = dict[str, Any]

_EVERY: Final = (
    problems.MALFORMED_REQUEST,
    problems.UNAUTHENTICATED,
    problems.URI_TOO_LONG,
    problems.HEADERS_TOO_LARGE,
    problems.INTERNAL,
    problems.INTERNAL_AFTER_SENDING,
    problems.UPSTREAM_UNREACHABLE,  # also where nothing is asked of NSLB, for a caller whose time is over
    problems.SHUTTING_DOWN,
)
_OF_NSLB: Final = (
    problems.FORBIDDEN,
    problems.UPSTREAM_REJECTED,
    problems.UPSTREAM_CREDENTIAL_REJECTED,
    problems.UPSTREAM_UNTRUSTED,
    problems.UPSTREAM_DISCONNECTED,
    problems.UPSTREAM_INVALID_RESPONSE,
    problems.TOKEN_UNAVAILABLE,
    problems.OVERLOADED,
)
_OF_A_CALL: Final = (problems.UNKNOWN_DIAL, problems.STORE_UNAVAILABLE)

ENDS: Final[dict[tuple[str, str], tuple[ProblemType, ...]]] = {
    ("post", "/dial"): (
        *_EVERY,
        *_OF_NSLB,
        problems.IDEMPOTENCY_IN_PROGRESS,
        problems.PAYLOAD_TOO_LARGE,
        problems.UNSUPPORTED_MEDIA_TYPE,
        problems.IDEMPOTENCY_KEY_REUSED,
        NO_AGENT_AVAILABLE,
        problems.ACCOUNT_BUSY,
        problems.STORE_UNAVAILABLE,
        problems.UPSTREAM_TIMEOUT,
        problems.OUTCOME_UNKNOWN,
    ),
    ("get", "/dial/{id}"): (*_EVERY, *_OF_A_CALL),
    ("delete", "/dial/{id}"): (
        *_EVERY,
        *_OF_NSLB,
        *_OF_A_CALL,
        problems.ACCOUNT_BUSY,
        problems.CALL_SUPERSEDED,
        problems.UPSTREAM_TIMEOUT,
    ),
    # A poll without an answer in time is one without an event.
    ("get", "/dial/{id}/events"): (*_EVERY, *_OF_NSLB, *_OF_A_CALL, problems.CALL_SUPERSEDED),
    ("get", "/dial/support"): (*_EVERY, *_OF_NSLB, problems.UPSTREAM_TIMEOUT),
}
"""What each operation can end with."""

_STREAM: Final = """id: 1
event: queued
data: {"id":"Zk3v0pTqR8mYc1xWn5LdAg","status":"queued","event_id":"168100","description":"Call in queue","content":{}}

: heartbeat

id: 2
event: connected
data: {"id":"Zk3v0pTqR8mYc1xWn5LdAg","status":"connected","event_id":168101,"description":"Call connected","content":{}}

"""


def _headers(*names: str) -> Json:
    return {name: reference("headers", name) for name in ("X-Request-ID", "Cache-Control", *names)}


def _parameters(*names: str) -> list[Json]:
    common = ("request-timeout", "x-request-id", "traceparent")
    return [reference("parameters", name) for name in (*names, *common)]


def _json(schema: str, example: Json, description: str, *headers: str) -> Json:
    return {
        "description": description,
        "headers": _headers(*headers),
        "content": {
            "application/json": {"schema": reference("schemas", schema), "examples": {schema: {"value": example}}}
        },
    }


def _link(operation: str, description: str) -> Json:
    return {"operationId": operation, "parameters": {"id": "$response.body#/id"}, "description": description}


_LINKS: Final = {
    "state": _link("getDial", "How far the call has come."),
    "events": _link("getDialEvents", "What happens to it."),
    "release": _link("releaseDial", "Its release."),
}


def _create() -> Json:
    return {
        "operationId": "createDial",
        "summary": "Create a call",
        "description": "Has NSLB place a call. NSLB is asked once, however the request ends: it is asked again only if "
        "nothing of the first attempt reached it, or if it refused the account's token.\n\n"
        "If there is no answer at all, or one with the outcome `unknown`, the phone may ring. **Send it again only "
        "under the same `Idempotency-Key`.**",
        "parameters": _parameters("idempotency-key"),
        "requestBody": {
            "required": True,
            "description": "JSON in UTF-8, not compressed, at most 8 KiB.",
            "content": {
                "application/json": {
                    "schema": reference("schemas", "DialRequest"),
                    "examples": {
                        "voice": {"summary": "A call by voice", "value": DIAL_REQUEST["examples"][0]},
                        "account": {
                            "summary": "A call by video, on one account",
                            "value": {"media": "video", "account": "sales"},
                        },
                    },
                }
            },
        },
        "responses": {
            "201": _json("Call", EXAMPLE_CALL, "NSLB has taken the call", "Location", "Idempotency-Replayed")
            | {"links": _LINKS},
            **answers(ENDS["post", "/dial"], mapped=True, replayed=True),
        },
    }


def _state() -> Json:
    return {
        "operationId": "getDial",
        "summary": "The state of a call",
        "description": "The last that is known of a call. NSLB is not asked: only who reads its events learns more.",
        "parameters": _parameters(),
        "responses": {
            "200": _json("Call", EXAMPLE_CALL | {"status": "connected"}, "The call"),
            **answers(ENDS["get", "/dial/{id}"], mapped=False),
        },
    }


def _release() -> Json:
    return {
        "operationId": "releaseDial",
        "summary": "Release a call",
        "description": "Hangs up. A call that is over is answered likewise, and nothing is sent.",
        "parameters": _parameters(),
        "responses": {
            "200": _json("Call", EXAMPLE_CALL | {"status": "ended"}, "The call, which is over"),
            **answers(ENDS["delete", "/dial/{id}"], mapped=True),
        },
    }


def _events() -> Json:
    one = _json("Event", EXAMPLE_EVENT, "The next event, or a stream of all")
    one["headers"]["Last-Event-ID"] = reference("headers", "Last-Event-ID")
    one["content"]["text/event-stream"] = {
        "schema": reference("schemas", "ServerSentEvent"),
        "examples": {"stream": {"summary": "Its fields", "value": SERVER_SENT_EVENT["examples"][0]}},
        "x-stream": _STREAM,
    }
    return {
        "operationId": "getDialEvents",
        "summary": "What happens to a call",
        "description": "Waits for the next event. With `Accept: text/event-stream` it is a stream of them, to the end "
        "of the call.\n\nNSLB tells of the call that an account made last. Once the same account makes another one, "
        "this answers `call-superseded`.",
        "parameters": _parameters("last-event-id"),
        "responses": {
            "200": one,
            "204": {
                "description": "There was no event for as long as NSLB holds a poll, or there will be none any more",
                "headers": _headers(),
            },
            **answers(ENDS["get", "/dial/{id}/events"], mapped=True),
        },
    }


def _support() -> Json:
    return {
        "operationId": "getDialSupport",
        "summary": "What an account supports",
        "description": "Asks NSLB what an account's channel supports. No phone rings.",
        "parameters": _parameters("account"),
        "responses": {
            "200": _json("Support", SUPPORT["examples"][0], "What the channel supports"),
            **answers(ENDS["get", "/dial/support"], mapped=True),
        },
    }


def paths() -> Json:
    """The paths of the document. What is more special comes first, as it is matched."""
    of_a_call = [reference("parameters", "id")]
    return {
        "/dial": {"post": _create()},
        "/dial/support": {"get": _support()},
        "/dial/{id}": {"parameters": of_a_call, "get": _state(), "delete": _release()},
        "/dial/{id}/events": {"parameters": of_a_call, "get": _events()},
    }
