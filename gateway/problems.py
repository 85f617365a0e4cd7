"""Every way in which a request can fail, what each tells the caller, and the one form it takes in HTTP.

Owns the table of problem types (contract, "The callers' API") and their rendering as RFC 9457 documents.
Refuses free text from anywhere else: a detail is a sentence written in this code base, never the words of
an inner error, because inner errors quote what they choked on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.model import Outcome

_SERVER_ERROR: Final = 500
MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A row of the contract's table of errors.

    `retry_after` is in seconds: when trying again may help, for those answers that carry `Retry-After`.
    """

    code: str
    status: int
    title: str
    outcome: Outcome
    retry_after: int | None = None


MALFORMED_REQUEST: Final = ProblemType("malformed-request", 400, "The request is malformed", Outcome.NOT_SENT)
UNAUTHENTICATED: Final = ProblemType("unauthenticated", 401, "Not authenticated", Outcome.NOT_SENT)
FORBIDDEN: Final = ProblemType("forbidden", 403, "Not allowed for this service", Outcome.NOT_SENT)
NOT_FOUND: Final = ProblemType("not-found", 404, "No such route", Outcome.NOT_SENT)
UNKNOWN_DIAL: Final = ProblemType("unknown-dial", 404, "No such call of this service", Outcome.NOT_SENT)
METHOD_NOT_ALLOWED: Final = ProblemType("method-not-allowed", 405, "The route has no such method", Outcome.NOT_SENT)
IDEMPOTENCY_IN_PROGRESS: Final = ProblemType(
    "idempotency-in-progress", 409, "The first request with this key is still running", Outcome.NOT_SENT, retry_after=1
)
CALL_SUPERSEDED: Final = ProblemType(
    "call-superseded", 409, "A later call has taken this one's place", Outcome.NOT_SENT
)
PAYLOAD_TOO_LARGE: Final = ProblemType("payload-too-large", 413, "The body is too large", Outcome.NOT_SENT)
URI_TOO_LONG: Final = ProblemType("uri-too-long", 414, "The request target is too long", Outcome.NOT_SENT)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemType(
    "unsupported-media-type", 415, "The body must be plain JSON", Outcome.NOT_SENT
)
IDEMPOTENCY_KEY_REUSED: Final = ProblemType(
    "idempotency-key-reused", 422, "The key belongs to another request", Outcome.NOT_SENT
)
HEADERS_TOO_LARGE: Final = ProblemType("headers-too-large", 431, "The header section is too large", Outcome.NOT_SENT)
INTERNAL: Final = ProblemType("internal", 500, "A fault of the gateway", Outcome.NOT_SENT)
INTERNAL_AFTER_SENDING: Final = ProblemType("internal", 500, "A fault of the gateway", Outcome.UNKNOWN)
UPSTREAM_REJECTED: Final = ProblemType("upstream-rejected", 502, "The contact centre did not do it", Outcome.REJECTED)
UPSTREAM_INVALID_RESPONSE: Final = ProblemType(
    "upstream-invalid-response", 502, "The contact centre's answer is not a documented one", Outcome.UNKNOWN
)
UPSTREAM_UNTRUSTED: Final = ProblemType(
    "upstream-untrusted", 502, "The contact centre's certificate failed verification", Outcome.NOT_SENT
)
UPSTREAM_CREDENTIAL_REJECTED: Final = ProblemType(
    "upstream-credential-rejected", 502, "The contact centre refused the account's token", Outcome.REJECTED
)
UPSTREAM_DISCONNECTED: Final = ProblemType(
    "upstream-disconnected", 502, "The connection was lost after the request was sent", Outcome.UNKNOWN
)
UPSTREAM_TIMEOUT: Final = ProblemType(
    "upstream-timeout", 504, "The contact centre did not answer in time", Outcome.UNKNOWN
)
UPSTREAM_UNREACHABLE: Final = ProblemType(
    "upstream-unreachable", 503, "The contact centre can't be reached", Outcome.NOT_SENT, retry_after=1
)
TOKEN_UNAVAILABLE: Final = ProblemType(
    "token-unavailable", 503, "There is no token to send for the account", Outcome.NOT_SENT, retry_after=1
)
ACCOUNT_BUSY: Final = ProblemType("account-busy", 503, "The account has a call", Outcome.NOT_SENT, retry_after=1)
STORE_UNAVAILABLE: Final = ProblemType(
    "store-unavailable", 503, "What must be remembered can't be", Outcome.NOT_SENT, retry_after=1
)
OVERLOADED: Final = ProblemType("overloaded", 503, "Too much at once", Outcome.NOT_SENT, retry_after=1)
SHUTTING_DOWN: Final = ProblemType(
    "shutting-down", 503, "The gateway is shutting down", Outcome.NOT_SENT, retry_after=1
)
OUTCOME_UNKNOWN: Final = ProblemType(
    "outcome-unknown", 504, "What became of the first request isn't known", Outcome.UNKNOWN
)

_FIXED: Final = [value for value in list(globals().values()) if isinstance(value, ProblemType)]
FIXED_CODES: Final = frozenset(kind.code for kind in _FIXED)
# Those that are not the caller's.
FAILURE_CODES: Final = tuple(sorted({kind.code for kind in _FIXED if kind.status >= _SERVER_ERROR}))

_RETRY_AFTER_REJECTION: Final = 5


def rejection(code: str, status: int) -> ProblemType:
    """The type for a `resultCode` that the configuration maps to a status and a code of its own."""
    if code == UPSTREAM_REJECTED.code and status == UPSTREAM_REJECTED.status:
        return UPSTREAM_REJECTED
    title = "No agent is available" if code == "no-agent-available" else "The contact centre did not do it"
    retry_after = _RETRY_AFTER_REJECTION if status in {429, 503} else None
    return ProblemType(code, status, title, Outcome.REJECTED, retry_after)


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it a problem
    """A request ends here, with the answer that `type` says.

    `detail` is a sentence for the caller; `errors` are pairs of a JSON pointer (RFC 6901) and a sentence;
    `result_code` and `result_description` are the contact centre's own, already made safe to show.
    `allow` names the methods of the route for a 405, `closing` asks for the connection to be closed, `replayed` says
    that an earlier request ended so, `retry_after` is in seconds, where more is known than the type says.
    """

    def __init__(  # noqa: PLR0913 - each is a member of the document that comes out
        self,
        type_: ProblemType,
        detail: str,
        *,
        errors: tuple[tuple[str, str], ...] = (),
        result_code: str | None = None,
        result_description: str | None = None,
        allow: str | None = None,
        closing: bool = False,
        replayed: bool = False,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(type_.code)
        self.type = type_
        self.detail = detail
        self.errors = errors
        self.result_code = result_code
        self.result_description = result_description
        self.allow = allow
        self.closing = closing
        self.replayed = replayed
        self.retry_after = type_.retry_after if retry_after is None else retry_after

    def document(self, request_id: str) -> bytes:
        """The `application/problem+json` body (RFC 9457) of this problem for the request of that id."""
        kind = self.type
        document: dict[str, Any] = {
            "type": f"urn:dial-gateway:problem:{kind.code}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "instance": request_id,
            "code": kind.code,
            "outcome": kind.outcome.value,
        }
        if self.errors:
            document["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in self.errors]
        if self.result_code is not None:
            document["result_code"] = self.result_code
        if self.result_description is not None:
            document["result_description"] = self.result_description
        if self.retry_after is not None:
            document["retry_after"] = self.retry_after
        return orjson.dumps(document)
