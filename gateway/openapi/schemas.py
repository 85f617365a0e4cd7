"""What goes in and comes out: the schemas, the parameters and the header fields of the OpenAPI document.

Owns their words and their bounds. Refuses to promise more than the gateway holds: a set of values is closed here only
if it is closed there.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gateway.model import CallStatus, Medium, Outcome

Json = dict[str, Any]

EXAMPLE_ID: Final = "Zk3v0pTqR8mYc1xWn5LdAg"
EXAMPLE_REQUEST_ID: Final = "5f0c7a1e9b3d4c62a8e4f1d07b96c3e5"

EXAMPLE_CALL: Final[Json] = {
    "id": EXAMPLE_ID,
    "status": "accepted",
    "media": "voice",
    "account": "sales",
    "outcome": "accepted",
    "result_code": "0",
    "result_description": "connect successfully.",
}
EXAMPLE_EVENT: Final[Json] = {
    "id": EXAMPLE_ID,
    "status": "connected",
    "event_id": 168101,
    "description": "Call connected",
    "content": {"accessCode": "1001"},
}


def reference(kind: str, name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


_STATUS: Final[Json] = {
    "type": "string",
    "enum": [status.value for status in CallStatus],
    "description": "How far the call has come. `ended`, `timed_out` and `failed` are ends: nothing comes after them.",
}
_ID: Final[Json] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]{22}$",
    "description": "The call, for the service that made it and for no other.",
}

OUTCOME: Final[Json] = {
    "type": "string",
    "enum": [outcome.value for outcome in Outcome],
    "description": "What has to be known before a retry. `accepted`: it was done. `not_sent`: nothing of it reached "
    "NSLB, a retry is safe. `rejected`: NSLB said that it did not do it, a retry is safe once the cause is gone. "
    "`unknown`: it was sent and no valid answer came back, **a retry may ring twice**.",
}

DIAL_REQUEST: Final[Json] = {
    "type": "object",
    "required": ["media"],
    "additionalProperties": False,
    "properties": {
        "media": {
            "type": "string",
            "enum": [medium.value for medium in Medium],
            "description": "What the call carries.",
        },
        "account": {
            "type": "string",
            "description": "The account to call on. Without it the service's accounts are used in turn.",
        },
    },
    "description": "The call that is wanted. Other members, and members that stand there twice, are refused.",
    "examples": [{"media": "voice"}],
}

CALL: Final[Json] = {
    "type": "object",
    "required": ["id", "status", "media", "account", "outcome", "result_code", "result_description"],
    "properties": {
        "id": _ID,
        "status": _STATUS,
        "media": {"type": "string", "enum": [medium.value for medium in Medium], "description": "What it carries."},
        "account": {"type": "string", "description": "The account that it was made on."},
        "outcome": {"const": "accepted", "description": "A call that can be shown was accepted."},
        "result_code": {"type": ["string", "null"], "description": "NSLB's `resultCode` for the creation."},
        "result_description": {
            "type": ["string", "null"],
            "description": "NSLB's own words with it, if it had any, without numbers and secrets.",
        },
    },
    "description": "A call as far as it is known.",
    "examples": [EXAMPLE_CALL],
}

EVENT: Final[Json] = {
    "type": "object",
    "required": ["id", "status", "event_id", "description", "content"],
    "properties": {
        "id": _ID,
        "status": _STATUS | {"description": "How far the call had come with this event."},
        "event_id": {
            "type": ["number", "string", "null"],
            "description": "NSLB's id of the kind of event. It sends numbers and texts; there is none for a release.",
        },
        "description": {"type": ["string", "null"], "description": "NSLB's own words for the event."},
        "content": {"type": "object", "description": "What NSLB sent along; its members are NSLB's."},
    },
    "description": "Something that happened to a call.",
    "examples": [EXAMPLE_EVENT],
}

SERVER_SENT_EVENT: Final[Json] = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "The number of the event, from 1."},
        "event": _STATUS | {"description": "The `status` of the event."},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": reference("schemas", "Event"),
            "description": "The event, as JSON in one line.",
        },
    },
    "description": "One of the events of a stream (HTML, 9.2). A comment comes every 15 seconds without one. The "
    "stream ends with the call; a gateway that stops ends it with a comment and a `retry:`.",
    "examples": [{"id": "2", "event": "connected", "data": json.dumps(EXAMPLE_EVENT, separators=(",", ":"))}],
}

SUPPORT: Final[Json] = {
    "type": "object",
    "required": ["click_to_call", "webrtc", "account"],
    "properties": {
        "click_to_call": {"type": "boolean", "description": "Whether calls can be made."},
        "webrtc": {"type": "boolean", "description": "Whether they can be made with WebRTC."},
        "account": {"type": "string", "description": "The account that was asked for."},
    },
    "description": "What an account's channel supports.",
    "examples": [{"click_to_call": True, "webrtc": False, "account": "sales"}],
}

PROBLEM: Final[Json] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "outcome"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri",
            "pattern": "^urn:dial-gateway:problem:[a-z0-9-]+$",
            "description": "`urn:dial-gateway:problem:` and the code.",
        },
        "title": {"type": "string", "description": "The kind of problem in a few words, for people."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The status of the answer."},
        "detail": {"type": "string", "description": "What it was this time, for people."},
        "instance": {"type": "string", "description": "The request's id, as in `X-Request-ID`."},
        "code": {
            "type": "string",
            "pattern": "^[a-z0-9-]+$",
            "description": "The kind of problem, for programs. The set is open: an operator may give a `resultCode` of "
            "NSLB a code of its own, whose outcome is `rejected`. Decide by `outcome`.",
        },
        "outcome": OUTCOME,
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "pattern": "^(/|$)",
                        "description": "Where in the body it is (RFC 6901); empty for the body itself.",
                    },
                    "detail": {"type": "string", "description": "What is wrong there."},
                },
            },
            "description": "What is wrong in the body, member by member.",
        },
        "result_code": {"type": "string", "description": "NSLB's `resultCode`, if it sent one."},
        "result_description": {
            "type": "string",
            "description": "NSLB's own words with it, without numbers and secrets.",
        },
        "retry_after": {
            "type": "integer",
            "minimum": 0,
            "description": "Seconds after which trying again may help, as in `Retry-After`.",
        },
    },
    "description": "Why a request ended without success (RFC 9457). Decide by `outcome` whether to send it again.",
}

PARAMETERS: Final[dict[str, Json]] = {
    "id": {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"},
        "description": "The `id` of the call, from the answer that created it.",
        "example": EXAMPLE_ID,
    },
    "account": {
        "name": "account",
        "in": "query",
        "schema": {"type": "string"},
        "description": "The account to ask for; without it the service's next one.",
        "example": "sales",
    },
    "idempotency-key": {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "description": "One for each call that is wanted: at most one call is made for a key, whatever fails, crashes "
        "or is repeated, if the gateway's store lasts (with `memory:` a restart forgets the keys). It belongs to the "
        "service, and is kept for a day. An operator may make it mandatory.",
        "example": "order-17",
    },
    "request-timeout": {
        "name": "Request-Timeout",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[0-9]{1,9}(\\.[0-9]{1,6})?$", "not": {"pattern": "^[0.]*$"}},
        "description": "For how many seconds the answer is waited for: more than 0, with up to 9 digits before a point "
        "and up to 6 behind it. It can only shorten the gateway's own limits. What can't be sent by then is not sent; "
        "what was sent is awaited all the same, for the log and the key.",
        "example": "5",
    },
    "last-event-id": {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
        "description": "The number of the last event that is known, of up to 9 digits: the answer begins behind it. A "
        "stream without it "
        "begins with the first event; polls without it go from one event to the next.",
        "example": 1,
    },
    # Any value is taken; what is not well formed is replaced, not refused. So their schemas are open.
    "x-request-id": {
        "name": "X-Request-ID",
        "in": "header",
        "schema": {"type": "string"},
        "description": "An id for this request, 1 to 128 of `A-Za-z0-9._-`. It comes back, stands in the log and goes "
        "to NSLB. Anything else is replaced by a new one.",
        "example": EXAMPLE_REQUEST_ID,
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "schema": {"type": "string"},
        "description": "W3C Trace Context, which is continued. Anything else begins a new trace.",
        "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    },
}

HEADERS: Final[dict[str, Json]] = {
    "X-Request-ID": {
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "description": "The request's id: the caller's, or a new one.",
        "example": EXAMPLE_REQUEST_ID,
    },
    "Location": {
        "required": True,
        "schema": {"type": "string", "pattern": "^/dial/[A-Za-z0-9_-]{22}$"},
        "description": "The call.",
        "example": f"/dial/{EXAMPLE_ID}",
    },
    "Idempotency-Replayed": {
        "schema": {"type": "string", "const": "true"},
        "description": "An earlier request with this `Idempotency-Key` ended so; nothing was sent now.",
        "example": "true",
    },
    # Of a single event; a stream has the numbers inside.
    "Last-Event-ID": {
        "schema": {"type": "integer", "minimum": 1},
        "description": "The number of the event, if it is a single one.",
        "example": 2,
    },
    "Cache-Control": {
        "required": True,
        "schema": {"type": "string", "const": "no-store"},
        "description": "No answer waits in anybody's cache.",
        "example": "no-store",
    },
    "Retry-After": {
        "schema": {"type": "integer", "minimum": 0},
        "description": "Seconds after which trying again may help.",
        "example": 1,
    },
    "WWW-Authenticate": {
        "required": True,
        "schema": {"type": "string"},
        "description": "How to authenticate (RFC 9110, 11.6.1).",
        "example": 'Bearer realm="dial-gateway"',
    },
    "Allow": {
        "required": True,
        "schema": {"type": "string"},
        "description": "The methods of the route.",
        "example": "GET, DELETE",
    },
}
