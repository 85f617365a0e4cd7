"""What the answers of NSLB's web adapter mean.

Owns the one place that reads NSLB's answers (interface page, "Operations of the web adapter"). Refuses to pass on
anything that is not documented: what it can't read is `unknown`, not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from gateway import problems
from gateway.model import CallEvent, CallStatus, Operation, Outcome, Secret, can_be_token
from gateway.problems import ProblemType
from gateway.upstream.reply import Reply, json_object

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


# Interface page, "Events, told apart by resultDesc".
_HAPPENINGS: Final = {
    "call in queue": CallStatus.QUEUED,
    "call connected": CallStatus.CONNECTED,
    "call disconnected": CallStatus.ENDED,
    "call queued timeout": CallStatus.TIMED_OUT,
    "call failed": CallStatus.FAILED,
}
_MOST_DEPTH: Final = 16
_NOTHING: Final = "clicktocall polled without any events"


@dataclass(frozen=True, slots=True)
class Support:
    """What a channel supports; `date` is when NSLB says that it answered, in epoch seconds, if it does."""

    click_to_call: bool
    webrtc: bool
    date: float | None


@dataclass(slots=True)
class Verdict:
    """What an answer of NSLB means.

    `problem` is `None` exactly when it was accepted. `result_code` and `description` are NSLB's own, as far as
    they are safe to show. `unauthorised` says that the token was refused (401), so a newer one may be tried.
    `session` and `renewed` are the cookies and the token that came with it, `generation` is of the token that was
    sent, `duration` is in seconds from sending, `status` is HTTP's. An accepted `check` has its `support`, an
    accepted `events` its `event` unless the poll ended without one.
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
    status: int = 0
    support: Support | None = None
    event: CallEvent | None = None


class Reading:
    """Reads answers. `result_codes` maps, for an operation, result codes to the problem that each is."""

    def __init__(self, result_codes: Mapping[Operation, Mapping[str, ProblemType]]) -> None:
        self._result_codes = result_codes

    def read(self, operation: Operation, reply: Reply, secrets: Sequence[Secret]) -> Verdict:
        """What an answer means; never raises. The secrets are what must not come back in a description."""
        verdict = self._read(operation, reply, secrets)
        verdict.status = reply.status
        if reply.brought:
            verdict.session = _session(reply)
            verdict.renewed = _renewed(reply)
        return verdict

    def _read(self, operation: Operation, reply: Reply, secrets: Sequence[Secret]) -> Verdict:
        document = json_object(reply)
        code = document.get("resultCode") if document is not None else None
        if not isinstance(code, str) or not code:
            return _without_result(reply.status)
        shown, description = _safe(code, document or {}, secrets)
        if 200 <= reply.status < 300 and code == _SUCCESS:  # noqa: PLR2004 - HTTP's classes of status
            verdict = Verdict(Outcome.ACCEPTED, None, "", shown, description)
            return _ANSWERED[operation](verdict, reply, document or {}, secrets) if operation in _ANSWERED else verdict
        if reply.status in {401, 403}:
            return Verdict(
                Outcome.REJECTED,
                problems.UPSTREAM_CREDENTIAL_REJECTED,
                "The contact centre refused the account's token.",
                shown,
                description,
                # With success in its body it contradicts itself: not to be trusted with a second call.
                unauthorised=reply.status == 401 and code != _SUCCESS,  # noqa: PLR2004
            )
        if code == _SUCCESS and not 400 <= reply.status < 500:  # noqa: PLR2004
            # Success in the body of a redirect or a server's fault contradicts itself.
            return _undocumented()
        if 300 <= reply.status < 400:  # noqa: PLR2004
            return _undocumented()
        mapped = self._result_codes.get(operation, {}).get(code, problems.UPSTREAM_REJECTED)
        return Verdict(
            Outcome.REJECTED,
            mapped,
            "The contact centre answered that it did not do it.",
            shown,
            description,
        )


def _without_result(status: int) -> Verdict:
    """An answer without a readable `resultCode`: a 4xx says "not done", anything else does not say what was done."""
    if status in {401, 403}:
        return Verdict(
            Outcome.REJECTED,
            problems.UPSTREAM_CREDENTIAL_REJECTED,
            "The contact centre refused the account's token.",
            unauthorised=status == 401,  # noqa: PLR2004
        )
    if 400 <= status < 500:  # noqa: PLR2004
        return Verdict(
            Outcome.REJECTED,
            problems.UPSTREAM_REJECTED,
            "The contact centre answered that it did not do it.",
        )
    return _undocumented()


def _undocumented() -> Verdict:
    return Verdict(
        Outcome.UNKNOWN,
        problems.UPSTREAM_INVALID_RESPONSE,
        "The request was sent, and what was answered does not say whether it was done.",
    )


def _supported(verdict: Verdict, reply: Reply, document: dict[str, Any], _: Sequence[Secret]) -> Verdict:
    click_to_call, webrtc = document.get("clickToCallSupported"), document.get("webRTCSupported")
    if not isinstance(click_to_call, bool) or not isinstance(webrtc, bool):
        return _undocumented()
    verdict.support = Support(click_to_call, webrtc, _date(reply))
    return verdict


def _happened(verdict: Verdict, _: Reply, document: dict[str, Any], secrets: Sequence[Secret]) -> Verdict:
    told = (verdict.description or "").strip().casefold()
    event_id, content = document.get("eventId"), document.get("content")
    if isinstance(event_id, bool) or not isinstance(event_id, int | float | str):
        event_id = None
    if isinstance(event_id, str):
        event_id = _without_secrets(event_id, secrets)[:_MOST_CODE_CHARACTERS]
    if told == _NOTHING or (not told and event_id is None):
        return verdict
    content = _cleaned(content, secrets) if isinstance(content, dict) else {}
    verdict.event = CallEvent(_HAPPENINGS.get(told), event_id, verdict.description, content)
    return verdict


_ANSWERED: Final = {Operation.CHECK: _supported, Operation.EVENTS: _happened}


def _cleaned(value: Any, secrets: Sequence[Secret], depth: int = 0) -> Any:
    """A JSON value without a secret of ours; numbers in it are for the caller, and stay."""
    if isinstance(value, str):
        return _without_secrets(value, secrets)
    if not isinstance(value, list | dict):
        return value
    if depth == _MOST_DEPTH:
        return None
    if isinstance(value, list):
        return [_cleaned(item, secrets, depth + 1) for item in value]
    return {_without_secrets(name, secrets): _cleaned(item, secrets, depth + 1) for name, item in value.items()}


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
    return _masked(_without_secrets(text, secrets))


def _without_secrets(text: str, secrets: Sequence[Secret]) -> str:
    for secret in secrets:
        raw = secret.reveal()
        if _LEAST_SECRET_BYTES <= len(raw) <= _MOST_ESCAPED * len(text):
            value = raw.decode("latin-1")
            for form in (value, unquote(value)):
                text = text.replace(form, _MASK)
    return text


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
