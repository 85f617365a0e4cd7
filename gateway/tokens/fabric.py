"""The API Fabric: an AccessToken for an app key, and with it tokens for users.

Owns the two requests of the interface page ("Obtaining tokens") and the reading of their answers. Refuses answers
that are not quite what is documented: half a token is none. Nothing of an answer goes into a message.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from gateway import problems
from gateway.model import MOST_TOKEN_BYTES, Secret, Trace, can_be_token
from gateway.telemetry import Record
from gateway.tokens.source import RefreshFailed
from gateway.upstream import NotSent, PeerPolicy, Pool, PoolSettings, SentUnanswered, json_object

_BY_AK_SK: Final = "/apigovernance/api/oauth/tokenByAkSk"
_APPLY: Final = "/apiaccess/ccmessaging/applyToken"
_ACCESS_SECONDS: Final = 600
# An AccessToken that ends under way costs two more requests.
_MARGIN: Final = 0.1
_SUCCESS: Final = "0"
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 30.0
_MOST_CONNECTIONS: Final = 8
_REASONS: Final = {
    problems.UPSTREAM_UNTRUSTED: "untrusted",
    problems.UPSTREAM_TIMEOUT: "timeout",
    problems.UPSTREAM_INVALID_RESPONSE: "invalid_answer",
}
_AUTH_FAIL: Final = "auth fail"
_OK, _UNAUTHORISED, _FORBIDDEN = 200, 401, 403
# RFC 6750, 2.1: what can stand behind "Bearer".
_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class User:
    """For whom a token is applied for."""

    user_id: str
    user_name: str
    channel_id: str
    locale: str


@dataclass(frozen=True, slots=True)
class App:
    """An application at the API Fabric of a host and port."""

    host: str
    port: int
    key: Secret
    secret: Secret


@dataclass(frozen=True, slots=True)
class _Access:
    value: Secret
    until: float = field(compare=False)


class ApiFabric:
    """One application at one API Fabric, for any number of users.

    `policy` verifies the fabric's certificate, `monotonic` is in seconds. The AccessToken is cached until a tenth of
    its time is left. `room` is for those who apply at once: a connection each. To be used from one event loop.
    """

    def __init__(self, app: App, policy: PeerPolicy, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._host = f"[{app.host}]:{app.port}" if ":" in app.host else f"{app.host}:{app.port}"
        self._monotonic = monotonic
        self._access: _Access | None = None
        self._asking = asyncio.Lock()
        self.room = asyncio.Semaphore(_MOST_CONNECTIONS)
        settings = PoolSettings(_CONNECT_SECONDS, connections=_MOST_CONNECTIONS, warm=0, idle_seconds=1.0)
        self._pool = Pool([(app.host, app.port, self._host)], policy, settings, asyncio.get_running_loop())

    async def apply(self, user: User) -> Secret:
        """A new token for a user, which ends the one before. Raises `RefreshFailed`."""
        access = await self.access()
        status, document = await self._apply(user, access)
        if _says_that_access_is_over(status, document):
            access = await self.access(instead_of=access)
            status, document = await self._apply(user, access)
        _expect_success(status)
        code = document.get("resultCode") if document is not None else None
        if document is None or not isinstance(code, str):
            raise RefreshFailed("invalid_answer")
        if code != _SUCCESS:
            raise RefreshFailed("rejected")
        token = document.get("token")
        if not isinstance(token, str) or not can_be_token(token.encode()):
            raise RefreshFailed("invalid_answer")
        return Secret(token)

    async def access(self, instead_of: Secret | None = None) -> Secret:
        """An AccessToken that holds, and is not the given one. Raises `RefreshFailed`."""
        async with self._asking:
            present = self._access
            if present is not None and self._monotonic() < present.until and present.value != instead_of:
                return present.value
            self._access = None
            asked = self._monotonic()
            body = {"app_key": self._app.key.reveal().decode(), "app_secret": self._app.secret.reveal().decode()}
            headers = {"Content-Type": "application/json", "X-Token-Expire": str(_ACCESS_SECONDS)}
            status, document = await self._post(_BY_AK_SK, headers, body)
            _expect_success(status)
            value, seconds = _access_of(document)
            self._access = _Access(value, asked + seconds * (1 - _MARGIN))
            return value

    def certificate_expires(self) -> float | None:
        """When the fabric's certificate expires, in epoch seconds; `None` if it was not seen lately."""
        (endpoint,) = self._pool.endpoints
        return endpoint.certificate_expires(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    async def _apply(self, user: User, access: Secret) -> tuple[int, dict[str, Any] | None]:
        headers = {
            "x-app-key": self._app.key.reveal().decode(),
            "Authorization": f"Bearer {access.reveal().decode()}",
            "Content-Type": "application/json; charset=UTF-8",
        }
        body = {
            "userId": user.user_id,
            "userName": user.user_name,
            "channelId": user.channel_id,
            "locale": user.locale,
        }
        return await self._post(_APPLY, headers, body)

    async def _post(
        self, path: str, headers: Mapping[str, str], body: Mapping[str, str]
    ) -> tuple[int, dict[str, Any] | None]:
        """The status and the JSON object of an answer, `None` if there is none."""
        content = orjson.dumps(body)
        fields = {"Host": self._host, "Accept": "application/json", "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        request = f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        # What becomes of it is told as a refresh, and not as a request of anybody.
        record = Record(self._monotonic(), "", Trace("", "", ""))
        try:
            _, reply, _ = await self._pool.exchange(lambda _: request, _ANSWER_SECONDS, record)
        except (NotSent, SentUnanswered) as failure:
            raise RefreshFailed(_REASONS.get(failure.problem, "unreachable")) from None
        return reply.status, json_object(reply)


def _expect_success(status: int) -> None:
    if status != _OK:
        raise RefreshFailed("refused" if status in {_UNAUTHORISED, _FORBIDDEN} else "wrong_status")


def _says_that_access_is_over(status: int, document: Mapping[str, Any] | None) -> bool:
    """401, and 403 with the documented text, ask for a new AccessToken; any other 403 does not."""
    if status == _UNAUTHORISED:
        return True
    text = document.get("exceptionInfo") if document is not None else None
    return status == _FORBIDDEN and isinstance(text, str) and text.lower().startswith(_AUTH_FAIL)


def _access_of(document: Mapping[str, Any] | None) -> tuple[Secret, float]:
    """The AccessToken of an answer, and for how many seconds it holds. Raises `RefreshFailed`."""
    value = document.get("AccessToken") if document is not None else None
    if document is None or not isinstance(value, str) or len(value) > MOST_TOKEN_BYTES or not _BEARER.fullmatch(value):
        raise RefreshFailed("invalid_answer")
    try:
        seconds = float(document.get("Expires", ""))
    except (TypeError, ValueError):
        raise RefreshFailed("invalid_answer") from None
    if not 0 < seconds <= 86_400:  # noqa: PLR2004 - a day
        raise RefreshFailed("invalid_answer")
    return Secret(value), seconds
