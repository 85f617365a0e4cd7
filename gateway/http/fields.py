"""The header fields that a caller may set and that go on: the request id and the trace.

Owns their syntax. Refuses, by replacing it, whatever could break a log line or a field sent upstream.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.http.entropy import ENTROPY
from gateway.model import Trace

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# W3C Trace Context, 3.2: version 00 exactly; a later version may have more behind another dash.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_REQUEST_ID_BYTES: Final = 16
_TRACE_BYTES: Final = 24


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


def _continued(traceparent: str, span_id: str) -> Trace | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if (
        match is not None
        and match[1] != "ff"
        and match[2] != _NO_TRACE
        and match[3] != _NO_SPAN
        and (match[5] is None or match[1] != "00")
    ):
        return Trace(match[2], span_id, match[4] if match[1] == "00" else "00")
    return None
