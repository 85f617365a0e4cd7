"""The OpenAPI document, put together.

Owns what is said of the API as a whole, and how one authenticates. Refuses to know where the gateway listens: whoever
reads the document says that.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import orjson

from gateway import __version__, problems
from gateway.openapi import failures, operations, schemas

_DESCRIPTION: Final = """Places click-to-dial calls through the contact centre's load balancer (NSLB), and says what became of them.

Every answer has an **outcome**, by which to decide whether to send a request again: `accepted` (it was done), `not_sent` and `rejected` (a retry is safe), `unknown` (**a retry may ring twice**). No answer at all is `unknown` as well. A create with an `Idempotency-Key` can be sent again under the same key after any of them, if the gateway's store lasts (SQLite, Redis): with `memory:` a restart forgets the keys.

Paths are matched as they are written. Unknown members, and a query where there is none, are refused. Every error is `application/problem+json` (RFC 9457)."""  # noqa: E501 - a line is a paragraph


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document; not to be changed."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Dial gateway",
            "version": __version__,
            "summary": "Click-to-dial calls, and never two for one",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "{gateway}",
                "description": "The callers' listener",
                "variables": {
                    "gateway": {
                        "default": "http://127.0.0.1:8080",
                        "description": "The address of `listen.address`, as it is reached from here.",
                    }
                },
            }
        ],
        "security": [{"bearer": []}, {"key": []}],
        "tags": [{"name": "calls", "description": "Calls, from their creation to their end."}],
        "paths": _tagged(operations.paths()),
        "components": {
            "schemas": {
                "DialRequest": schemas.DIAL_REQUEST,
                "Call": schemas.CALL,
                "Event": schemas.EVENT,
                "ServerSentEvent": schemas.SERVER_SENT_EVENT,
                "Support": schemas.SUPPORT,
                "Problem": schemas.PROBLEM,
                **failures.schemas(),
            },
            "parameters": schemas.PARAMETERS,
            "headers": schemas.HEADERS,
            "responses": {
                "Mapped": failures.mapped_answer(),
                # Of every other path, and of every other method.
                "NoSuchRoute": failures.answer(404, [problems.NOT_FOUND]),
                "NoSuchMethod": failures.answer(405, [problems.METHOD_NOT_ALLOWED]),
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The service's key. Exactly one credential: two are refused.",
                },
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "The same key, for clients that can't send the other field.",
                },
            },
        },
    }


@cache
def document_json() -> bytes:
    """The document as it is served and printed."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _tagged(paths: dict[str, Any]) -> dict[str, Any]:
    for item in paths.values():
        for method, operation in item.items():
            if method != "parameters":
                operation["tags"] = ["calls"]
    return paths
