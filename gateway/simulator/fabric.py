"""Owns the API Fabric: access tokens for app keys, tokens for users, and its own way to the four operations.

Source: interface page, "Obtaining tokens (the API Fabric, another host)". Refuses requests without the documented
header fields. What a failure looks like there is documented; which status it has, beside 403, is not.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.simulator.nslb import CONTENT_TYPE, CREDENTIAL, PATHS, Adapter, RefusedError, media_of
from gateway.simulator.tokens import TENANT, Holder, Verdict
from gateway.simulator.wire import Answer, Received, json_answer, parse_object

BY_AK_SK = "/apigovernance/api/oauth/tokenByAkSk"
APPLY = "/apiaccess/ccmessaging/applyToken"
BASE = "/apiaccess/ccmessaging/v1/"
LONGEST_LIFETIME = 3600
LONGEST_USER_ID = 32
LOCALES = ("zh", "en", "zh_CN", "en_US", "es", "fr", "pt", "ar", "th", "ru")


@dataclass(slots=True)
class _Access:
    app: str
    expires: float


class Fabric:
    """The API Fabric. `apps` are the secrets by app key.

    `token_by_ak_sk_requests` and `apply_token_requests` count every request to those two, also those that failed.
    """

    def __init__(self, adapter: Adapter, *, apps: Mapping[str, str], clock: Callable[[], float]) -> None:
        self.place = "fabric"
        self.apps = dict(apps)
        self.token_by_ak_sk_requests = 0
        self.apply_token_requests = 0
        self._adapter = adapter
        self._clock = clock
        self._access: dict[str, _Access] = {}

    def expire_access_tokens(self) -> None:
        """Every access token has expired now."""
        for access in self._access.values():
            access.expires = float("-inf")

    def operation(self, received: Received) -> str | None:
        """`tokenByAkSk`, `applyToken`, or one of the four; None for any other path."""
        if received.path == BY_AK_SK:
            return "tokenByAkSk"
        if received.path == APPLY:
            return "applyToken"
        if received.path.startswith(BASE):
            return PATHS.get(received.path.removeprefix(BASE), ("", None))[1]
        return None

    def expire(self, received: Received) -> None:
        """Ends what that request brings: its access token, and on one of the four the user's token instead."""
        _, holder = self._adapter.tokens.check(received.header(CREDENTIAL))
        if holder is not None:
            self._adapter.tokens.expire(holder.user)
        elif (access := self._access.get(_bearer(received))) is not None:
            access.expires = float("-inf")

    async def answer(self, received: Received, gone: asyncio.Future[None]) -> Answer:
        """Checks the request, carries it out, and answers it. The refusal, if any, is noted in `received`."""
        operation = self.operation(received)
        self.token_by_ak_sk_requests += operation == "tokenByAkSk"
        self.apply_token_requests += operation == "applyToken"
        try:
            if operation is None:
                raise RefusedError(404, "wrong path")
            expected = "POST" if operation in ("tokenByAkSk", "applyToken") else PATHS[received.path[len(BASE) :]][0]
            if received.method != expected:
                raise RefusedError(404, "wrong method")
            if operation == "tokenByAkSk":
                return self._token_by_ak_sk(received)
            self._authorise(received)
            if received.fields("content-type") != [CONTENT_TYPE]:
                raise RefusedError(400, "the Content-Type is not the documented one")
            if operation == "applyToken":
                return self._apply_token(received)
            return await self._perform(operation, received, gone)
        except RefusedError as refusal:
            received.refusal = str(refusal)
            return json_answer(refusal.status, {"errorCode": f"{refusal.status}01", "exceptionInfo": str(refusal)})

    def _token_by_ak_sk(self, received: Received) -> Answer:
        if received.fields("content-type") != ["application/json"]:
            raise RefusedError(400, "the Content-Type is not the documented one")
        lifetimes = received.fields("x-token-expire")
        if len(lifetimes) != 1 or not lifetimes[0].isdecimal() or not 1 <= int(lifetimes[0][:9]) <= LONGEST_LIFETIME:
            raise RefusedError(400, "X-Token-Expire is not 1 to 3600 seconds")
        lifetime = int(lifetimes[0])
        content = _strings(received.body, {"app_key", "app_secret"})
        expected = self.apps.get(content["app_key"])
        if expected is None or not hmac.compare_digest(expected.encode(), content["app_secret"].encode()):
            raise RefusedError(401, "app_key or app_secret is wrong")
        now = self._clock()
        value = secrets.token_urlsafe(32)
        self._access[value] = _Access(content["app_key"], now + lifetime)
        return json_answer(
            200,
            {
                "AccessToken": value,
                "ApplyType": "Bearer",
                "CreateTime": str(int(now)),
                "Expires": str(lifetime),
                "Scope": "",
                "AppKey": content["app_key"],
                "UserID": "simulator",
            },
        )

    def _apply_token(self, received: Received) -> Answer:
        content = _strings(received.body, {"userId", "userName", "channelId", "locale"})
        if not 1 <= len(content["userId"]) <= LONGEST_USER_ID:
            return json_answer(200, {"resultCode": "1", "resultDesc": "userId is not of 1 to 32 characters"})
        if not content["channelId"]:
            return json_answer(200, {"resultCode": "1", "resultDesc": "channelId does not exist"})
        if content["locale"] not in LOCALES:
            return json_answer(200, {"resultCode": "1", "resultDesc": "locale is not supported"})
        received.user = content["userId"]
        token = self._adapter.tokens.issue(Holder(TENANT, content["channelId"], content["userId"]))
        return json_answer(200, {"token": token, "resultCode": "0", "resultDesc": "apply token successfully."})

    async def _perform(self, operation: str, received: Received, gone: asyncio.Future[None]) -> Answer:
        values = received.fields(CREDENTIAL)
        verdict, holder = self._adapter.tokens.check(values[0] if len(values) == 1 else None)
        if holder is None or verdict is not Verdict.CURRENT:
            raise RefusedError(401, f"token {verdict.value}")
        received.user = holder.user
        media = ""
        if received.method == "GET":
            if received.query != "channel=WEB" or received.body:
                raise RefusedError(400, "the channel is not WEB, or there is a body")
        elif operation == "create":
            media = media_of(received.body, channel=True)
        elif _strings(received.body, {"channel"})["channel"] != "WEB":
            raise RefusedError(400, "the channel is not WEB")
        return json_answer(200, await self._adapter.perform(operation, holder, media, gone))

    def _authorise(self, received: Received) -> None:
        access = self._access.get(_bearer(received))
        if access is None or self._clock() >= access.expires:
            raise RefusedError(403, "auth fail! illegal or expired token info")
        if received.fields("x-app-key") != [access.app]:
            raise RefusedError(403, "x-app-key is not the access token's")


def _bearer(received: Received) -> str:
    values = received.fields("authorization")
    return values[0].removeprefix("Bearer ") if len(values) == 1 and values[0].startswith("Bearer ") else ""


def _strings(body: bytes, names: set[str]) -> dict[str, str]:
    try:
        content = parse_object(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not a JSON object") from None
    found = {name: value for name, value in content.items() if name in names and isinstance(value, str)}
    if found.keys() != names or content.keys() != names:
        raise RefusedError(400, "a parameter is missing, unknown, or not a string")
    return found
