"""Owns the web adapter behind NSLB: the four operations, their checks, and the session cookies.

Source: interface page, "Operations of the web adapter" and "The token". Refuses what the documents do not show: another
content type, a body where there is none, a parameter that is unknown, cookies that could be read in two ways.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from email.utils import formatdate

from gateway.simulator.calls import EMPTY, Calls
from gateway.simulator.tokens import Holder, Tokens, Verdict
from gateway.simulator.wire import Answer, Received, json_answer, parse_object

BASE = "/service-cloud/rest/webadapter/v1/webadapterfacade/"
CONTENT_TYPE = "application/json; charset=UTF-8"
CREDENTIAL = "ccmessaging-token"
SESSION = "JSESSIONID"
PATHS = {
    "createClickToCall": ("POST", "create"),
    "checkClickToCallSupport": ("GET", "check"),
    "getClickToCallEvents": ("GET", "events"),
    "dropClickToCall": ("POST", "drop"),
}


class RefusedError(Exception):
    """A request that is answered with an HTTP status other than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class Adapter:
    """What NSLB and the API Fabric have in common: the operations themselves, once it is known whose they are.

    `poll_seconds` is how long a poll with nothing to say is held.
    """

    tokens: Tokens
    calls: Calls
    poll_seconds: float
    webrtc_supported: bool = False
    click_to_call_supported: bool = True

    async def perform(
        self, operation: str, holder: Holder, media: str, gone: asyncio.Future[None]
    ) -> dict[str, object]:
        """The content of the documented answer."""
        if operation == "create":
            problem = self.calls.create(holder, media)
            if problem is not None:
                return {"resultCode": "13", "resultDesc": problem}
            return {"resultCode": "0", "resultDesc": "connect successfully."}
        if operation == "drop":
            if self.calls.drop(holder):
                return {"resultCode": "0", "resultDesc": "disconnect successfully."}
            return {"resultCode": "13", "resultDesc": "disconnect failed"}
        return self._support() if operation == "check" else await self._event(holder, gone)

    def _support(self) -> dict[str, object]:
        return {
            "resultCode": "0",
            "webRTCSupported": self.webrtc_supported,
            "clickToCallSupported": self.click_to_call_supported,
        }

    async def _event(self, holder: Holder, gone: asyncio.Future[None]) -> dict[str, object]:
        event = await self.calls.poll(holder, self.poll_seconds, gone)
        if event is None:
            return {"resultCode": "0", "resultDesc": EMPTY}
        return {
            "resultCode": "0",
            "resultDesc": event.description,
            "eventId": event.identifier,
            "content": event.content,
        }


class Nslb:
    """NSLB as its clients see it; one state, however many listeners.

    `accept_header`: the token is taken from a `ccmessaging-token` header as well (otherwise from the cookie alone).
    `renew_in_band` is `off`, `cookie` or `header`: an expired but otherwise current token that arrives in a session
    is served, and the answer carries the new token there. With `off` it is answered 401.
    """

    def __init__(self, adapter: Adapter, *, accept_header: bool, renew_in_band: str) -> None:
        if renew_in_band not in ("off", "cookie", "header"):
            raise ValueError(f"renew_in_band is off, cookie or header, not {renew_in_band!r}")
        self.place = "*"
        self.accept_header = accept_header
        self.renew_in_band = renew_in_band
        self.session_mixups = 0
        self.renewals = 0
        self._adapter = adapter
        self._sessions: dict[str, Holder] = {}

    def operation(self, received: Received) -> str | None:
        """Which operation the path names; None for any other path."""
        if not received.path.startswith(BASE):
            return None
        return PATHS.get(received.path.removeprefix(BASE), ("", None))[1]

    def expire(self, received: Received) -> None:
        """Ends the token of that request's user."""
        _, holder = self._adapter.tokens.check(received.cookies().get(CREDENTIAL) or received.header(CREDENTIAL))
        if holder is not None:
            self._adapter.tokens.expire(holder.user)

    async def answer(self, received: Received, gone: asyncio.Future[None]) -> Answer:
        """Checks the request, carries it out, and answers it. The refusal, if any, is noted in `received`."""
        try:
            return await self._serve(received, gone)
        except RefusedError as refusal:
            received.refusal = str(refusal)
            return json_answer(refusal.status, {"errorCode": str(refusal.status), "exceptionInfo": str(refusal)})

    async def _serve(self, received: Received, gone: asyncio.Future[None]) -> Answer:
        operation = self.operation(received)
        if operation is None or received.method != PATHS[received.path.removeprefix(BASE)][0]:
            raise RefusedError(404, "wrong path, or wrong method for it")
        cookies = _cookies(received)
        holder, expired = self._authorise(received, cookies)
        headers = self._session(cookies.get(SESSION), holder, expired=expired)
        received.user = holder.user
        if received.fields("content-type") != [CONTENT_TYPE]:
            raise RefusedError(400, "the Content-Type is not the documented one")
        if received.query or "?" in received.target:
            raise RefusedError(400, "a query")
        media = media_of(received.body) if operation == "create" else ""
        if operation != "create" and received.body:
            raise RefusedError(400, "a body where there is none")
        headers.append(("Date", formatdate(self._adapter.tokens.now(), usegmt=True)))
        return json_answer(200, await self._adapter.perform(operation, holder, media, gone), headers)

    def _authorise(self, received: Received, cookies: dict[str, str]) -> tuple[Holder, bool]:
        value = cookies.get(CREDENTIAL)
        if self.accept_header:
            values = set(received.fields(CREDENTIAL)) | ({value} if value is not None else set())
            if len(values) > 1:
                raise RefusedError(400, "two tokens")
            value = values.pop() if values else None
        verdict, holder = self._adapter.tokens.check(value)
        if holder is None or verdict not in (Verdict.CURRENT, Verdict.EXPIRED):
            raise RefusedError(401, f"token {verdict.value}")
        received.user = holder.user
        if verdict is Verdict.EXPIRED and (self.renew_in_band == "off" or cookies.get(SESSION) not in self._sessions):
            raise RefusedError(401, "token expired")
        return holder, verdict is Verdict.EXPIRED

    def _session(self, session: str | None, holder: Holder, *, expired: bool) -> list[tuple[str, str]]:
        owner = self._sessions.get(session) if session is not None else None
        if owner not in (None, holder):
            self.session_mixups += 1
            raise RefusedError(400, "a session of another user")
        headers = []
        if owner is None:
            session = secrets.token_hex(16).upper()
            self._sessions[session] = holder
            headers.append(("Set-Cookie", f"{SESSION}={session}; Path=/; HttpOnly; Secure"))
        if expired:
            self.renewals += 1
            value = self._adapter.tokens.issue(holder)
            if self.renew_in_band == "cookie":
                headers.append(("Set-Cookie", f"{CREDENTIAL}={value}; Path=/; HttpOnly; Secure"))
            else:
                headers.append((CREDENTIAL, value))
        return headers


def media_of(body: bytes, *, channel: bool = False) -> str:
    """The `mediaAbility` of a create's body, `"0"` or `"1"`; with `channel`, beside a `channel` of `WEB`."""
    try:
        content = parse_object(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not a JSON object") from None
    if channel and content.pop("channel", None) != "WEB":
        raise RefusedError(400, "the channel is not WEB")
    media = content.pop("mediaAbility", None)
    if not isinstance(media, str) or media not in ("0", "1"):
        raise RefusedError(400, 'mediaAbility is neither "0" nor "1"')
    if content:
        raise RefusedError(400, "an unknown parameter")
    return media


def _cookies(received: Received) -> dict[str, str]:
    if len(received.fields("cookie")) > 1:
        raise RefusedError(400, "two Cookie fields")
    pairs = received.cookie_pairs()
    if any(not name for name, _ in pairs):
        raise RefusedError(400, "a cookie without a name")
    if len(dict(pairs)) != len(pairs):
        raise RefusedError(400, "two cookies of one name")
    return dict(pairs)
