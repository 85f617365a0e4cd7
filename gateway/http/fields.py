"""The header fields that a caller may set: the request id and the trace, which go on, and what it wants of us.

Owns their syntax. Refuses, by replacing it, whatever could break a log line or a field sent upstream, and, with a
problem, what would otherwise be understood as something else than was meant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

from gateway import problems
from gateway.http.entropy import ENTROPY
from gateway.model import Trace
from gateway.problems import Problem
from gateway.telemetry import Record, Telemetry

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# W3C Trace Context, 3.2: version 00 exactly; a later version may have more behind another dash.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 1
_RANDOM: Final = 2
_REQUEST_ID_BYTES: Final = 16
_TRACE_BYTES: Final = 24
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
# Longer than anything here lasts is no shorter than our own limits, and nobody's mistake.
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


def identify(claimed: str | None, traceparent: str | None) -> tuple[str, Trace]:
    """The id of a request and its trace, from what the caller's `X-Request-ID` and `traceparent` say.

    The id is the caller's, or a new one if it has none that is well formed; the trace is our place in the
    caller's, or the beginning of a new, unsampled one.
    """
    fresh = ENTROPY.take(_REQUEST_ID_BYTES + _TRACE_BYTES).hex()
    if claimed is None or not _REQUEST_ID.fullmatch(claimed):
        claimed = fresh[:32]
    if traceparent is None:
        return claimed, Trace(fresh[32:64], fresh[64:], "00")
    return claimed, _continued(traceparent, fresh[64:]) or Trace(fresh[32:64], fresh[64:], "00")


def new_record(telemetry: Telemetry) -> Record:
    """The record of a request that is nobody's but our own."""
    return telemetry.begin(*identify(None, None))


def _continued(traceparent: str, span_id: str) -> Trace | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if (
        match is not None
        and match[1] != "ff"
        and match[2] != _NO_TRACE
        and match[3] != _NO_SPAN
        and (match[5] is None or match[1] != "00")
    ):
        # Of a later version only the sampled flag is known to mean the same (W3C Trace Context, 3.2.4); of this one the
        # random flag goes on as well (Level 2, 3.2.2.5.2), and what no version defines yet is 0.
        flags = int(match[4], 16) & (_SAMPLED | _RANDOM if match[1] == "00" else _SAMPLED)
        return Trace(match[2], span_id, f"{flags:02x}", match[3])
    return None


def idempotency_key(headers: CIMultiDictProxy[str]) -> str | None:
    """The key of a request (contract, "Idempotency-Key"), if it has one. Raises `Problem`."""
    key = _only(headers, "Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        _refuse("The Idempotency-Key field must be 1 to 255 visible ASCII characters.")
    return key


def request_timeout(headers: CIMultiDictProxy[str]) -> float | None:
    """For how many seconds the caller waits, if it says. Raises `Problem`."""
    text = _only(headers, "Request-Timeout")
    if text is None:
        return None
    if not _SECONDS.fullmatch(text) or not float(text):
        _refuse(
            "The Request-Timeout field must be a positive number of seconds: 1 to 9 digits, and up to 6 after a point."
        )
    return float(text)


def last_event_id(headers: CIMultiDictProxy[str]) -> int | None:
    """The number of the last event that the caller has, if it says. Raises `Problem`."""
    text = _only(headers, "Last-Event-ID")
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        _refuse("The Last-Event-ID field must be the number of an event: 1 to 9 digits.")
    return int(text)


def _only(headers: CIMultiDictProxy[str], name: str) -> str | None:
    values = headers.getall(name, ())
    if len(values) > 1:
        _refuse(f"There is more than one {name} field.")
    return values[0] if values else None


def _refuse(detail: str) -> NoReturn:
    raise Problem(problems.MALFORMED_REQUEST, detail)
