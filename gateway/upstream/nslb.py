"""The operations of NSLB's web adapter: the bytes that are sent, and what the answers mean.

Owns the wire form of a request (interface page, "Operations of the web adapter") and the one place that reads
NSLB's answers. Refuses to pass on anything that is not documented: what it can't read is `unknown`, not a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import orjson

from gateway import problems
from gateway.model import Medium, Operation, Outcome, Secret
from gateway.problems import ProblemType
from gateway.telemetry import Attempt, Record
from gateway.upstream.connection import Reply
from gateway.upstream.pool import Endpoint, Pool

_BASE: Final = b"/service-cloud/rest/webadapter/v1/webadapterfacade/"
_SUCCESS: Final = "0"
_MASK: Final = "***"
_LEAST_SECRET_BYTES: Final = 6
_MOST_ESCAPED: Final = 3  # a percent-encoded byte is three
_MOST_CODE_CHARACTERS: Final = 32
_MOST_DESCRIPTION_CHARACTERS: Final = 256

# RFC 6265, 4.1.1: what may stand in the name and the value of a cookie.
_SESSION_COOKIE: Final = re.compile(
    rb"(JSESSION[A-Za-z0-9_.-]{0,24})=([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{0,1024})$"
)
# Seven digits and more, however they are grouped, may be somebody's number.
_NUMBER: Final = re.compile(r"\+?\d(?:[\s()./-]*\d){6,}")
# A token or a session of whomever, whole or in part, in whichever case: too long for a word, and with figures in it.
_CODED: Final = re.compile(r"(?=[A-Za-z_~-]*[0-9%=+/])[A-Za-z0-9%=+/_~-]{24,}")
_RESULT_CODE: Final = b'"resultCode"'


@dataclass(slots=True)
class Verdict:
    """What an answer of NSLB means.

    `problem` is `None` exactly when it was accepted. `result_code` and `description` are NSLB's own, as far as
    they are safe to show. `unauthorised` says that the token was refused (401), so a newer one may be tried.
    """

    outcome: Outcome
    problem: ProblemType | None
    detail: str
    result_code: str | None = None
    description: str | None = None
    unauthorised: bool = False
    session: Mapping[bytes, bytes] | None = None


class Nslb:
    """The web adapter behind a pool of endpoints.

    `timeout` is in seconds, for an answer; `result_codes` maps, for an operation, result codes to the problem
    that each is; `token_header` also sends the token as a field of its own.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        timeout: float,
        result_codes: Mapping[Operation, Mapping[str, ProblemType]],
        token_header: bool = False,
    ) -> None:
        self.pool = pool
        self._timeout = timeout
        self._result_codes = result_codes
        self._token_header = token_header
        self._heads = {endpoint.name: _create_head(endpoint) for endpoint in pool.endpoints}
        self._bodies = {medium: _create_tail(medium) for medium in Medium}

    async def create(self, medium: Medium, cookie: bytes, secrets: Sequence[Secret], record: Record) -> Verdict:
        """Create a call (`POST createClickToCall`) with the account's `Cookie` value.

        `secrets` are what is in it, the token first. Of the caller's request goes on what the record has of it: its
        id, its trace, and its own address, if it has one. Notes each attempt in the record. Raises `NotSent` and
        `SentUnanswered`, like `Pool.exchange`.
        """
        told = f"\r\nX-Request-ID: {record.request_id}\r\ntraceparent: {record.trace.traceparent()}"
        if record.client_address is not None:
            told += f"\r\nX-Forwarded-For: {record.client_address}"
        rest = cookie + told.encode("ascii")
        if self._token_header:
            rest += b"\r\nccmessaging-token: " + secrets[0].reveal()
        rest += self._bodies[medium]
        endpoint, reply, duration = await self.pool.exchange(self._heads, rest, self._timeout, record)
        verdict = self.read(Operation.CREATE, reply, secrets)
        record.tried(
            Attempt(endpoint.name, verdict.outcome, verdict.result_code, duration),
            endpoint.host,
            endpoint.port,
        )
        return verdict

    def read(self, operation: Operation, reply: Reply, secrets: Sequence[Secret]) -> Verdict:
        """What an answer means; never raises. The secrets are what must not come back in a description."""
        session = _session(reply)
        document = _document(reply)
        code = document.get("resultCode") if document is not None else None
        if not isinstance(code, str) or not code:
            return _without_result(reply.status, session)
        shown, description = _safe(code, document or {}, secrets)
        if 200 <= reply.status < 300 and code == _SUCCESS:  # noqa: PLR2004 - HTTP's classes of status
            return Verdict(Outcome.ACCEPTED, None, "", shown, description, session=session)
        if reply.status in {401, 403}:
            return Verdict(
                Outcome.REJECTED,
                problems.UPSTREAM_CREDENTIAL_REJECTED,
                "The contact centre refused the account's token.",
                shown,
                description,
                # With success in its body it contradicts itself: not to be trusted with a second call.
                unauthorised=reply.status == 401 and code != _SUCCESS,  # noqa: PLR2004
                session=session,
            )
        if code == _SUCCESS and not 400 <= reply.status < 500:  # noqa: PLR2004
            # Success in the body of a redirect or a server's fault contradicts itself.
            return _undocumented(session)
        if 300 <= reply.status < 400:  # noqa: PLR2004
            return _undocumented(session)
        mapped = self._result_codes.get(operation, {}).get(code, problems.UPSTREAM_REJECTED)
        return Verdict(
            Outcome.REJECTED,
            mapped,
            "The contact centre answered that it did not do it.",
            shown,
            description,
            session=session,
        )


def _without_result(status: int, session: Mapping[bytes, bytes] | None) -> Verdict:
    """An answer without a readable `resultCode`: a 4xx says "not done", anything else does not say what was done."""
    if status in {401, 403}:
        return Verdict(
            Outcome.REJECTED,
            problems.UPSTREAM_CREDENTIAL_REJECTED,
            "The contact centre refused the account's token.",
            unauthorised=status == 401,  # noqa: PLR2004
            session=session,
        )
    if 400 <= status < 500:  # noqa: PLR2004
        return Verdict(
            Outcome.REJECTED,
            problems.UPSTREAM_REJECTED,
            "The contact centre answered that it did not do it.",
            session=session,
        )
    return _undocumented(session)


def _undocumented(session: Mapping[bytes, bytes] | None) -> Verdict:
    return Verdict(
        Outcome.UNKNOWN,
        problems.UPSTREAM_INVALID_RESPONSE,
        "The request was sent, and what was answered does not say whether it was done.",
        session=session,
    )


def _create_head(endpoint: Endpoint) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return (
        b"POST " + _BASE + b"createClickToCall HTTP/1.1\r\n"
        b"Host: " + f"{host}:{endpoint.port}".encode("ascii") + b"\r\n"
        b"Content-Type: application/json; charset=UTF-8\r\n"
        b"Accept: application/json\r\n"
        b"Cookie: "
    )


def _create_tail(medium: Medium) -> bytes:
    body = b'{"mediaAbility": "0"}' if medium is Medium.VOICE else b'{"mediaAbility": "1"}'
    return b"\r\nContent-Length: " + str(len(body)).encode("ascii") + b"\r\n\r\n" + body


def _document(reply: Reply) -> dict[str, Any] | None:
    """The JSON object of an answer, if it is one, plain, and said to be one (or said to be nothing).

    One that says twice what came of the request says nothing.
    """
    for name, value in reply.fields:
        if name == b"content-encoding" and value.lower() != b"identity":
            return None
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
            if media_type != b"application/json" and not media_type.endswith(b"+json"):
                return None
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    if (reply.body.count(_RESULT_CODE) > 1 or b"\\u" in reply.body) and _says_it_twice(reply.body):
        return None
    return document


def _says_it_twice(body: bytes) -> bool:
    """Whether the result code is there more than once; the last would win unseen."""
    outermost: list[tuple[str, Any]] = []

    def members(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs

    try:
        json.loads(body, object_pairs_hook=members)
    except (ValueError, RecursionError):
        return True
    return sum(name == "resultCode" for name, _ in outermost) > 1


def _safe(code: str, document: dict[str, Any], secrets: Sequence[Secret]) -> tuple[str, str | None]:
    """NSLB's code and description without a token, a session or anything like a telephone number."""
    description = document.get("resultDesc")
    return (
        _shown(code, secrets)[:_MOST_CODE_CHARACTERS],
        _shown(description, secrets)[:_MOST_DESCRIPTION_CHARACTERS] if isinstance(description, str) else None,
    )


def _shown(text: str, secrets: Sequence[Secret]) -> str:
    if len(text) * _MOST_ESCAPED < _LEAST_SECRET_BYTES:
        return text
    for secret in secrets:
        raw = secret.reveal()
        if _LEAST_SECRET_BYTES <= len(raw) <= _MOST_ESCAPED * len(text):
            value = raw.decode("latin-1")
            for form in (value, unquote(value)):
                text = text.replace(form, _MASK)
    return _masked(text)


@lru_cache(maxsize=256)
def _masked(text: str) -> str:
    """What may be anybody's secret or number, masked. NSLB has a handful of texts, and says them over and over."""
    return _NUMBER.sub(_MASK, _CODED.sub(_MASK, text))


def _session(reply: Reply) -> Mapping[bytes, bytes] | None:
    """The session cookies that an answer sets (interface page: `JSESSION…`); those that could break a field are not."""
    found: dict[bytes, bytes] | None = None
    for name, value in reply.fields:
        if name == b"set-cookie":
            pair, _, attributes = value.partition(b";")
            match = _SESSION_COOKIE.match(pair.strip())
            if match is not None:
                expired = re.search(rb"(?i);\s*max-age=(?:0|-\d+)\s*(?:;|$)", b";" + attributes)
                found = found or {}
                found[match[1]] = b"" if expired else match[2]
    return found
