"""The form of a request: what must hold of its start line and its framing before it means anything.

Owns the rules by which everybody on the way finds the same target and the same end of a request (RFC 9112, 3.2, 6.1
and 11.2), as far as the parser leaves them open. Refuses, and closes the connection, where two could differ.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

from gateway import problems
from gateway.problems import Problem

if TYPE_CHECKING:
    from aiohttp import web

# RFC 9110, 7.2: uri-host [ ":" port ]; it may be empty.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Za-z:.]+\])(?::[0-9]*)?")


def target(request: web.BaseRequest) -> tuple[str, str | None]:
    """The path of a request and its query, as they arrived; `None` if there is no query. Raises `Problem`."""
    path, mark, query = request.raw_path.partition("?")
    version = request.version
    headers = request.headers
    if version.major != 1:
        _refuse("The gateway speaks HTTP/1.1.")
    if not path.startswith("/"):
        _refuse("The request target must be in origin form.")
    if "Upgrade" in headers:
        # A parser that thinks the protocol has changed takes the body for the next request.
        _refuse("The gateway does not upgrade connections.")
    host = headers.get("Host")
    if host is None:
        if version.minor:
            _refuse("The Host field is missing.")
    elif not _is_host(host):
        _refuse("The Host field is not valid.")
    coding = headers.get("Transfer-Encoding")
    if coding is not None and (coding.lower() != "chunked" or not version.minor):
        # The parser takes the chunks off and leaves the other codings on.
        _refuse("The only transfer coding is chunked.")
    return path, query if mark else None


@lru_cache(maxsize=64)
def _is_host(value: str) -> bool:
    return _HOST.fullmatch(value) is not None


def _refuse(detail: str) -> NoReturn:
    raise Problem(problems.MALFORMED_REQUEST, detail, closing=True)
