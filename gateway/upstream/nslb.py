"""The operations of NSLB's web adapter: the bytes that are sent, and what the answers mean.

Owns the wire form of a request (interface page, "Operations of the web adapter") and the one place that reads
NSLB's answers. Refuses to pass on anything that is not documented: what it can't read is `unknown`, not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from gateway import problems
from gateway.model import Credential, Medium, Operation, Outcome, Secret, can_be_token
from gateway.problems import ProblemType
from gateway.telemetry import Attempt, Record
from gateway.upstream.pool import Endpoint, Pool
from gateway.upstream.reply import Reply, json_object

_BASE: Final = b"/service-cloud/rest/webadapter/v1/webadapterfacade/"
_LINES: Final = {
    Operation.CREATE: b"POST " + _BASE + b"createClickToCall",
    Operation.CHECK: b"GET " + _BASE + b"checkClickToCallSupport",
}
_NO_BODY: Final = b"\r\n\r\n"
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
_TOKEN: Final = b"ccmessaging-token"
# RFC 6265, 5.2.2: what deletes a cookie.
_DELETES: Final = re.compile(rb"(?i);\s*max-age=(?:0|-\d+)\s*(?:;|$)")
# Seven digits and more, however they are grouped, may be somebody's number.
_NUMBER: Final = re.compile(r"\+?\d(?:[\s()./-]*\d){6,}")
# A token or a session of whomever, whole or in part, in whichever case: too long for a word, and with figures in it.
_CODED: Final = re.compile(r"(?=[A-Za-z_~-]*[0-9%=+/])[A-Za-z0-9%=+/_~-]{24,}")


@dataclass(slots=True)
class Verdict:
    """What an answer of NSLB means.

    `problem` is `None` exactly when it was accepted. `result_code` and `description` are NSLB's own, as far as
    they are safe to show. `unauthorised` says that the token was refused (401), so a newer one may be tried.
    `session` and `renewed` are the cookies and the token that came with it, `generation` is of the token that was
    sent, `duration` is in seconds from sending, `reply` is the whole answer.
    """

    outcome: Outcome
    problem: ProblemType | None
    detail: str
    result_code: str | None = None
    description: str | None = None
    unauthorised: bool = False
    session: Mapping[bytes, bytes] | None = None
    renewed: Secret | None = None
    generation: int = 0
    duration: float = 0.0
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """What a channel supports; `date` is when NSLB says that it answered, in epoch seconds, if it does."""

    click_to_call: bool
    webrtc: bool
    date: float | None


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
        self._heads = {
            operation: {endpoint.name: _head(line, endpoint) for endpoint in pool.endpoints}
            for operation, line in _LINES.items()
        }
        self._bodies = {medium: _create_tail(medium) for medium in Medium}

    def create(
        self, medium: Medium, credential: Callable[[], Credential | None], record: Record
    ) -> Coroutine[Any, Any, Verdict]:
        """Create a call (`POST createClickToCall`).

        The `credential` is asked for when a connection is there, since it may have changed until then. Of the
        caller's request goes on what the record has of it: its id, its trace, and its own address, if it has one.
        Notes each attempt in the record. Raises `NotSent`, `CredentialGone` and `SentUnanswered`, like
        `Pool.exchange`.
        """
        return self._ask(Operation.CREATE, self._bodies[medium], credential, record)

    async def check(
        self, credential: Callable[[], Credential | None], record: Record
    ) -> tuple[Verdict, Support | None]:
        """Ask what the channel supports (`GET checkClickToCallSupport`); raises like `create`."""
        verdict = await self._ask(Operation.CHECK, _NO_BODY, credential, record)
        document = json_object(verdict.reply) if verdict.reply is not None and verdict.problem is None else None
        if document is None or verdict.reply is None:
            return verdict, None
        click_to_call, webrtc = document.get("clickToCallSupported"), document.get("webRTCSupported")
        if not isinstance(click_to_call, bool) or not isinstance(webrtc, bool):
            return _undocumented(verdict.session), None
        return verdict, Support(click_to_call, webrtc, _date(verdict.reply))

    async def _ask(
        self, operation: Operation, tail: bytes, credential: Callable[[], Credential | None], record: Record
    ) -> Verdict:
        told = f"\r\nX-Request-ID: {record.request_id}\r\ntraceparent: {record.trace.traceparent()}"
        if record.client_address is not None:
            told += f"\r\nX-Forwarded-For: {record.client_address}"
        rest = told.encode("ascii")
        heads = self._heads[operation]
        sent: Credential | None = None

        def written(endpoint: Endpoint) -> bytes | None:
            nonlocal sent
            sent = credential()
            if sent is None:
                return None
            field = b"\r\nccmessaging-token: " + sent.secrets[0].reveal() if self._token_header else b""
            return b"".join((heads[endpoint.name], sent.cookie, rest, field, tail))

        endpoint, reply, duration = await self.pool.exchange(written, self._timeout, record)
        assert sent is not None  # noqa: S101 - nothing is answered that was not written
        verdict = self.read(operation, reply, sent.secrets)
        verdict.generation = sent.generation
        verdict.duration = duration
        verdict.reply = reply
        if reply.brought:
            verdict.renewed = _renewed(reply)
        record.tried(
            Attempt(endpoint.name, verdict.outcome, verdict.result_code, duration),
            endpoint.host,
            endpoint.port,
        )
        return verdict

    def read(self, operation: Operation, reply: Reply, secrets: Sequence[Secret]) -> Verdict:
        """What an answer means; never raises. The secrets are what must not come back in a description."""
        session = _session(reply) if reply.brought else None
        document = json_object(reply)
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


def _head(line: bytes, endpoint: Endpoint) -> bytes:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return (
        line + b" HTTP/1.1\r\n"
        b"Host: " + f"{host}:{endpoint.port}".encode("ascii") + b"\r\n"
        b"Content-Type: application/json; charset=UTF-8\r\n"
        b"Accept: application/json\r\n"
        b"Cookie: "
    )


def _create_tail(medium: Medium) -> bytes:
    body = b'{"mediaAbility": "0"}' if medium is Medium.VOICE else b'{"mediaAbility": "1"}'
    return b"\r\nContent-Length: " + str(len(body)).encode("ascii") + b"\r\n\r\n" + body


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
    for name, value in reply.brought:
        if name == b"set-cookie":
            pair, _, attributes = value.partition(b";")
            match = _SESSION_COOKIE.match(pair.strip())
            if match is not None:
                found = found or {}
                found[match[1]] = b"" if _DELETES.search(b";" + attributes) else match[2]
    return found


def _renewed(reply: Reply) -> Secret | None:
    """The token that an answer brings, as a cookie or as a field (interface page, "The token"); the cookie counts."""
    found = None
    for name, value in reply.brought:
        if name == _TOKEN:
            found = found or value.strip()
        elif name == b"set-cookie":
            pair, _, attributes = value.partition(b";")
            cookie, equals, token = pair.strip().partition(b"=")
            if cookie == _TOKEN and equals and not _DELETES.search(b";" + attributes):
                found = token
    return Secret(found) if found is not None and can_be_token(found) else None


def _date(reply: Reply) -> float | None:
    for name, value in reply.fields:
        if name == b"date":
            try:
                return parsedate_to_datetime(value.decode("ascii", "replace")).timestamp()
            except ValueError:
                return None
    return None
