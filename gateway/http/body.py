"""The body of a caller's request: taking it in, and reading it strictly.

Owns the limits of a body and the grammar of a `POST /dial`. Refuses what two readers could understand in two ways:
unknown and repeated members, other encodings, anything but exactly one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, cast

from aiohttp.web import RequestPayloadError

from gateway import problems
from gateway.model import Medium
from gateway.problems import Problem

if TYPE_CHECKING:
    from aiohttp import StreamReader, web

    from gateway.http.listener import CallerConnection

MOST_BODY_BYTES: Final = 8 * 1024
_MOST_ERRORS: Final = 16
_MOST_REMEMBERED_BYTES: Final = 256
_ABSENT: Final = object()
_MEDIA: Final = {medium.value: medium for medium in Medium}
# A name is shown in an answer only if it can't be a key, a token or a number that strayed into the wrong place.
_SHOWABLE: Final = re.compile(r"[A-Za-z][A-Za-z_]{0,23}")


class DialRequest(NamedTuple):
    """What a caller asks for; without an account the gateway chooses one."""

    medium: Medium
    account: str | None


async def take(request: web.BaseRequest, timeout: float) -> bytes:
    """The body of a request: JSON, plain, at most `MOST_BODY_BYTES`, within `timeout` seconds.

    Raises `Problem`.
    """
    headers = request.headers
    if not _is_json(headers.get("Content-Type", "")):
        raise Problem(problems.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json, in UTF-8.")
    encoding = headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise Problem(problems.UNSUPPORTED_MEDIA_TYPE, "Send the body without compression.")
    content = request.content
    if not content.is_eof():
        length = headers.get("Content-Length")
        if length is not None and int(length) > MOST_BODY_BYTES:
            _too_large()
        _expect(request)
        try:
            async with asyncio.timeout(timeout):
                return await _collect(content)
        except TimeoutError:
            raise Problem(problems.MALFORMED_REQUEST, "The body did not arrive in time.", closing=True) from None
        except (OSError, RequestPayloadError):
            raise Problem(problems.MALFORMED_REQUEST, "The body did not arrive whole.", closing=True) from None
    body = content.read_nowait()
    if len(body) > MOST_BODY_BYTES:
        _too_large()
    return body


def dial_request(body: bytes) -> DialRequest:
    """Read the body of a `POST /dial`. Raises `Problem` with every fault that it has."""
    return _remembered(body) if len(body) <= _MOST_REMEMBERED_BYTES else _read(body)


def _read(body: bytes) -> DialRequest:
    try:
        document = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Problem(problems.MALFORMED_REQUEST, "The body is not valid JSON, or repeats a member.") from None
    if not isinstance(document, dict):
        raise Problem(
            problems.MALFORMED_REQUEST,
            "The body must be a JSON object.",
            errors=(("", "must be an object with the member media"),),
        )
    errors: list[tuple[str, str]] = []
    medium = document.pop("media", None)
    account = document.pop("account", _ABSENT)
    if not isinstance(medium, str) or medium not in _MEDIA:
        errors.append(("/media", 'is mandatory, and either "voice" or "video"'))
    if account is not _ABSENT and not isinstance(account, str):
        errors.append(("/account", "must be a string"))
    errors += [
        (f"/{name}" if _SHOWABLE.fullmatch(name) else "", "is not a known member")
        for name in islice(document, _MOST_ERRORS)
    ]
    if errors:
        raise Problem(problems.MALFORMED_REQUEST, "The body is not a valid dial request.", errors=tuple(errors))
    return DialRequest(_MEDIA[medium], None if account is _ABSENT else account)


# Callers send the same few bodies over and over. Only valid ones are remembered: a refusal raises.
_remembered = lru_cache(maxsize=256)(_read)


async def _collect(content: StreamReader) -> bytes:
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            _too_large()
    return bytes(body)


def _expect(request: web.BaseRequest) -> None:
    """Ask for the body if the caller waits to be asked (RFC 9110, 10.1.1)."""
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise Problem(problems.MALFORMED_REQUEST, "The Expect field asks for something unknown.", closing=True)
    cast("CallerConnection", request.protocol).put(b"HTTP/1.1 100 Continue\r\n\r\n", at_once=True)


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    media_type, _, parameters = content_type.partition(";")
    return media_type.strip().lower() == "application/json" and _is_utf8(parameters)


def _is_utf8(parameters: str) -> bool:
    """Whether the parameters of a content type name no charset but UTF-8 (RFC 8259, 8.1)."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset" and value.strip('"').lower() not in {"utf-8", "utf8"}:
            return False
    return True


def _too_large() -> NoReturn:
    raise Problem(problems.PAYLOAD_TOO_LARGE, f"The body may have {MOST_BODY_BYTES} bytes at most.", closing=True)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "repeated member"
        raise ValueError(msg)
    return members


def _no_constant(_: str) -> NoReturn:
    msg = "NaN and Infinity are not JSON"
    raise ValueError(msg)


# `json.loads` with these hooks would make a new decoder each time.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)
