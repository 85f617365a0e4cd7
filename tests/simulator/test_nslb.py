"""The web adapter behind NSLB, oddity by oddity."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Mapping

import pytest

from tests.simulator.conftest import Start
from tests.simulator.raw import (
    ADAPTER,
    CHECK,
    CREATE,
    DROP,
    EVENTS,
    TYPE,
    VOICE,
    connected,
    cookie,
    once,
    session_of,
)


async def test_the_documented_answers_to_the_byte(start: Start) -> None:
    simulator = await start()
    good = cookie(simulator.issue_token())

    async with connected(simulator) as raw:
        created = await raw.ask("POST", CREATE, good, VOICE)
        checked = await raw.ask("GET", CHECK, good)
        polled = await raw.ask("GET", EVENTS, good)
        dropped = await raw.ask("POST", DROP, good)
        dropped_again = await raw.ask("POST", DROP, good)

    assert created.body == b'{"resultCode":"0","resultDesc":"connect successfully."}'
    assert checked.body == b'{"resultCode":"0","webRTCSupported":false,"clickToCallSupported":true}'
    assert polled.body == b'{"resultCode":"0","resultDesc":"ClickToCall polled without any events"}'
    assert dropped.body == b'{"resultCode":"0","resultDesc":"disconnect successfully."}'
    assert (dropped_again.status, dropped_again.json["resultCode"]) == (200, "13")
    assert [request.status for request in simulator.received] == [200] * 5
    assert [request.operation for request in simulator.received] == ["create", "check", "events", "drop", "drop"]
    assert simulator.connections == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"mediaAbility": 0}',
        b'{"mediaAbility": "2"}',
        b'{"mediaAbility": null}',
        b'{"mediaability": "0"}',
        b'{"mediaAbility": "0", "more": 1}',
        b'{"mediaAbility": "1", "mediaAbility": "0"}',
        b'["0"]',
        b"\xff",
        b"[" * 5000,
    ],
)
async def test_bad_parameters_are_400_and_no_phone_rings(start: Start, body: bytes) -> None:
    simulator = await start()

    reply = await once(simulator, "POST", CREATE, cookie(simulator.issue_token()), body)

    assert reply.status == 400
    assert simulator.rings == 0
    assert simulator.creates()[0].refusal is not None


@pytest.mark.parametrize(
    "value", [None, "application/json", "application/json;charset=UTF-8", "application/json; charset=utf-8"]
)
async def test_the_content_type_is_exactly_the_documented_one(start: Start, value: str | None) -> None:
    simulator = await start()
    headers = {key: content for key, content in cookie(simulator.issue_token()).items() if key == "Cookie"}
    if value is not None:
        headers["Content-Type"] = value

    assert (await once(simulator, "POST", CREATE, headers, VOICE)).status == 400
    assert (await once(simulator, "GET", CHECK, headers)).status == 400


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", CREATE, 404),
        ("POST", EVENTS, 404),
        ("POST", ADAPTER, 404),
        ("POST", "/", 404),
        ("POST", CREATE + "/", 404),
        ("POST", CREATE.lower(), 404),
        ("GET", CHECK + "?channel=WEB", 400),
        ("GET", CHECK + "?", 400),
    ],
)
async def test_paths_and_queries(start: Start, method: str, target: str, status: int) -> None:
    simulator = await start()

    assert (await once(simulator, method, target, cookie(simulator.issue_token()))).status == status


async def test_get_and_drop_have_no_body(start: Start) -> None:
    simulator = await start()
    good = cookie(simulator.issue_token())

    assert (await once(simulator, "GET", CHECK, good, b"{}")).status == 400
    assert (await once(simulator, "POST", DROP, good, b"{}")).status == 400


async def test_a_token_has_what_careless_clients_spoil(start: Start) -> None:
    simulator = await start()

    for user in ("a", "ab", "abc", "gateway-sales"):
        token = simulator.issue_token(user)
        assert {"%3D", "%2B", "%2F"} <= {token[place : place + 3] for place in range(len(token))}
        content = json.loads(base64.b64decode(urllib.parse.unquote(token)))
        assert (content["tenantId"], content["channelId"], content["userId"]) == ("202300000001", "2023", user)


async def test_tokens_that_are_refused(start: Start) -> None:
    now = [1000.0]
    simulator = await start(clock=lambda: now[0], token_lifetime=3600)
    superseded = simulator.issue_token()
    token = simulator.issue_token()
    simulator.issue_token("gateway-support")  # another user's does not matter

    async def status(headers: Mapping[str, str]) -> int:
        return (await once(simulator, "GET", CHECK, headers)).status

    assert await status(cookie(token)) == 200
    assert await status(TYPE) == 401
    assert await status(cookie("")) == 401
    assert await status(cookie("nonsense")) == 401
    assert await status(cookie(superseded)) == 401
    assert await status(cookie(urllib.parse.unquote(token))) == 401
    assert await status(cookie(token.replace("%3D", "%3d"))) == 401
    assert await status(TYPE | {"ccmessaging-token": token}) == 401
    now[0] += 3599.9
    assert await status(cookie(token)) == 200
    now[0] += 0.1
    assert await status(cookie(token)) == 401
    assert simulator.received[-1].refusal == "token expired"


async def test_expire_is_of_one_user_or_of_all(start: Start) -> None:
    simulator = await start()
    sales, support = simulator.issue_token("gateway-sales"), simulator.issue_token("gateway-support")

    simulator.expire("gateway-sales")
    assert (await once(simulator, "GET", CHECK, cookie(sales))).status == 401
    assert (await once(simulator, "GET", CHECK, cookie(support))).status == 200
    simulator.expire()
    assert (await once(simulator, "GET", CHECK, cookie(support))).status == 401


async def test_the_header_is_accepted_only_when_that_is_asked_for(start: Start) -> None:
    simulator = await start(accept_header=True)
    token = simulator.issue_token()

    assert (await once(simulator, "GET", CHECK, TYPE | {"ccmessaging-token": token})).status == 200
    assert (await once(simulator, "GET", CHECK, cookie(token) | {"ccmessaging-token": token})).status == 200
    assert (await once(simulator, "GET", CHECK, cookie(token) | {"ccmessaging-token": "x"})).status == 400


async def test_cookies_that_can_be_read_in_two_ways_are_refused(start: Start) -> None:
    simulator = await start()
    token = simulator.issue_token()
    good = f"ccmessaging-token={token}"

    two_fields = TYPE | {"Cookie": good, "cookie": "a=b"}
    assert (await once(simulator, "GET", CHECK, two_fields)).status == 400
    assert simulator.received[-1].refusal == "two Cookie fields"
    assert simulator.received[-1].headers[-2:] == [("Cookie", good), ("cookie", "a=b")]
    assert (await once(simulator, "GET", CHECK, TYPE | {"Cookie": f"{good}; {good}"})).status == 400
    assert (await once(simulator, "GET", CHECK, TYPE | {"Cookie": f"{good}; nothing"})).status == 400
    assert (await once(simulator, "GET", CHECK, TYPE | {"Cookie": f"a=b; {good}"})).status == 200


async def test_a_session_belongs_to_its_user(start: Start) -> None:
    simulator = await start()
    sales, support = simulator.issue_token("gateway-sales"), simulator.issue_token("gateway-support")

    first = await once(simulator, "GET", CHECK, cookie(sales))
    session = session_of(first)
    (field,) = first.fields("set-cookie")
    assert field == f"JSESSIONID={session}; Path=/; HttpOnly; Secure"
    assert (await once(simulator, "GET", CHECK, cookie(sales, session))).fields("set-cookie") == []
    assert simulator.session_mixups == 0

    mixed = await once(simulator, "GET", CHECK, cookie(support, session))
    assert mixed.status == 400
    assert simulator.session_mixups == 1
    renewed = simulator.issue_token("gateway-sales")
    assert (await once(simulator, "GET", CHECK, cookie(renewed, session))).status == 200


@pytest.mark.parametrize("way", ["cookie", "header"])
async def test_renewal_in_band(start: Start, way: str) -> None:
    simulator = await start(renew_in_band=way)
    token = simulator.issue_token()
    session = session_of(await once(simulator, "GET", CHECK, cookie(token)))
    simulator.expire()

    assert (await once(simulator, "GET", CHECK, cookie(token))).status == 401  # not in a session
    reply = await once(simulator, "POST", CREATE, cookie(token, session), VOICE)

    assert reply.json["resultCode"] == "0"
    if way == "cookie":
        (field,) = reply.fields("set-cookie")
        fresh = field.removeprefix("ccmessaging-token=").partition(";")[0]
    else:
        (fresh,) = reply.fields("ccmessaging-token")
    assert (await once(simulator, "GET", CHECK, cookie(token, session))).status == 401
    assert (await once(simulator, "GET", CHECK, cookie(fresh, session))).status == 200


async def test_without_renewal_in_band_an_expired_token_is_401(start: Start) -> None:
    simulator = await start()
    token = simulator.issue_token()
    session = session_of(await once(simulator, "GET", CHECK, cookie(token)))
    simulator.expire()

    assert (await once(simulator, "GET", CHECK, cookie(token, session))).status == 401


async def test_agents_run_out(start: Start) -> None:
    simulator = await start(agents=1)
    sales, support = simulator.issue_token("gateway-sales"), simulator.issue_token("gateway-support")

    assert (await once(simulator, "POST", CREATE, cookie(sales), VOICE)).json["resultCode"] == "0"
    refused = await once(simulator, "POST", CREATE, cookie(support), VOICE)
    assert refused.body == b'{"resultCode":"13","resultDesc":"No agents available currently"}'
    assert (await once(simulator, "POST", DROP, cookie(sales))).json["resultCode"] == "0"
    assert (await once(simulator, "POST", CREATE, cookie(support), VOICE)).json["resultCode"] == "0"


@pytest.mark.parametrize(("policy", "code", "rings"), [("accept", "0", 2), ("reject", "13", 1)])
async def test_a_second_create_on_a_live_call(start: Start, policy: str, code: str, rings: int) -> None:
    simulator = await start(second_create=policy)
    good = cookie(simulator.issue_token())

    await once(simulator, "POST", CREATE, good, VOICE)
    again = await once(simulator, "POST", CREATE, good, b'{"mediaAbility":"1"}')

    assert again.json["resultCode"] == code
    assert simulator.rings == rings
    assert len(simulator.creates()) == 2


@pytest.mark.parametrize("option", [{"renew_in_band": "maybe"}, {"second_create": "maybe"}])
async def test_options_are_checked(start: Start, option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="maybe"):
        await start(**option)
