"""The API Fabric: access tokens, users' tokens, and its own way to the four operations."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from gateway.simulator import Fault, Simulator
from tests.simulator.conftest import Start
from tests.simulator.raw import CHECK, TYPE, Reply, connected, cookie, once

BY_AK_SK = "/apigovernance/api/oauth/tokenByAkSk"
APPLY = "/apiaccess/ccmessaging/applyToken"
V1 = "/apiaccess/ccmessaging/v1/"
APP = {"app_key": "key-1", "app_secret": "secret-1"}
USER = {"userId": "gateway-support", "userName": "Support", "channelId": "2023", "locale": "en"}
FIRST = {"Content-Type": "application/json", "X-Token-Expire": "600"}


async def ask(
    simulator: Simulator, method: str, target: str, headers: Mapping[str, str], content: object = None
) -> Reply:
    body = b"" if content is None else json.dumps(content).encode()
    async with connected(simulator, simulator.fabric_url) as raw:
        return await raw.ask(method, target, headers, body)


async def access(simulator: Simulator) -> dict[str, str]:
    reply = await ask(simulator, "POST", BY_AK_SK, FIRST, APP)
    return TYPE | {"x-app-key": "key-1", "Authorization": f"Bearer {reply.json['AccessToken']}"}


async def test_both_steps(start: Start) -> None:
    simulator = await start(apps={"key-1": "secret-1"}, clock=lambda: 1_700_000_000.5)

    first = await ask(simulator, "POST", BY_AK_SK, FIRST, APP)
    assert first.json.keys() == {"AccessToken", "ApplyType", "CreateTime", "Expires", "Scope", "AppKey", "UserID"}
    fields = [first.json[name] for name in ("ApplyType", "CreateTime", "Expires", "AppKey")]
    assert fields == ["Bearer", "1700000000", "600", "key-1"]
    second = await ask(simulator, "POST", APPLY, await access(simulator), USER)
    assert second.json.keys() == {"token", "resultCode", "resultDesc"}
    assert second.json["resultCode"] == "0"

    assert (await once(simulator, "GET", CHECK, cookie(second.json["token"]))).status == 200
    assert (simulator.fabric.token_by_ak_sk_requests, simulator.fabric.apply_token_requests) == (2, 1)
    assert [request.operation for request in simulator.fabric_received] == ["tokenByAkSk", "tokenByAkSk", "applyToken"]
    assert len(simulator.received) == 1


async def test_applying_again_makes_the_first_token_invalid(start: Start) -> None:
    simulator = await start(apps={"key-1": "secret-1"})
    headers = await access(simulator)

    tokens = [(await ask(simulator, "POST", APPLY, headers, USER)).json["token"] for _ in range(2)]

    assert (await once(simulator, "GET", CHECK, cookie(tokens[0]))).status == 401
    assert (await once(simulator, "GET", CHECK, cookie(tokens[1]))).status == 200


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        (FIRST, APP | {"app_secret": "wrong"}, 401),
        (FIRST, APP | {"app_key": "wrong"}, 401),
        (FIRST, {"app_key": "key-1"}, 400),
        (FIRST, APP | {"more": ""}, 400),
        (FIRST, [], 400),
        ({"Content-Type": "application/json"}, APP, 400),
        (FIRST | {"X-Token-Expire": "3601"}, APP, 400),
        (FIRST | {"X-Token-Expire": "0"}, APP, 400),
        (FIRST | {"X-Token-Expire": "ten"}, APP, 400),
        (FIRST | {"Content-Type": "text/plain"}, APP, 400),
    ],
)
async def test_access_tokens_refused(start: Start, headers: Mapping[str, str], content: object, status: int) -> None:
    simulator = await start(apps={"key-1": "secret-1"})

    reply = await ask(simulator, "POST", BY_AK_SK, headers, content)

    assert reply.status == status
    assert reply.json.keys() == {"errorCode", "exceptionInfo"}


async def test_an_access_token_expires(start: Start) -> None:
    now = [1000.0]
    simulator = await start(apps={"key-1": "secret-1"}, clock=lambda: now[0])
    headers = await access(simulator)

    now[0] += 599.9
    assert (await ask(simulator, "POST", APPLY, headers, USER)).status == 200
    now[0] += 0.1
    reply = await ask(simulator, "POST", APPLY, headers, USER)
    assert (reply.status, reply.json["exceptionInfo"]) == (403, "auth fail! illegal or expired token info")
    headers = await access(simulator)
    simulator.fabric.expire_access_tokens()
    assert (await ask(simulator, "POST", APPLY, headers, USER)).status == 403


async def test_headers_of_apply_token(start: Start) -> None:
    simulator = await start(apps={"key-1": "secret-1"})
    good = await access(simulator)

    for change, status in (
        ({"x-app-key": "other"}, 403),
        ({"Authorization": good["Authorization"].removeprefix("Bearer ")}, 403),
        ({"Content-Type": "application/json"}, 400),
    ):
        assert (await ask(simulator, "POST", APPLY, good | change, USER)).status == status
    assert (await ask(simulator, "GET", APPLY, good)).status == 404
    assert (await ask(simulator, "GET", "/", good)).status == 404


@pytest.mark.parametrize("change", [{"userId": ""}, {"userId": "u" * 33}, {"channelId": ""}, {"locale": "xx"}])
async def test_failures_with_status_200_have_result_code_1(start: Start, change: dict[str, str]) -> None:
    simulator = await start(apps={"key-1": "secret-1"})

    reply = await ask(simulator, "POST", APPLY, await access(simulator), USER | change)

    assert (reply.status, reply.json["resultCode"]) == (200, "1")
    assert "token" not in reply.json


async def test_faults_are_ordered_by_the_name_of_the_request(start: Start) -> None:
    simulator = await start(apps={"key-1": "secret-1"})
    simulator.fault(Fault("status", status=503, times=None))  # for the four operations
    simulator.fault(Fault("status", "tokenByAkSk", status=500))
    simulator.fault(Fault("result-code", "applyToken", code="1"))
    simulator.fault(Fault("expire-now", "applyToken"))

    assert (await ask(simulator, "POST", BY_AK_SK, FIRST, APP)).status == 500
    headers = await access(simulator)
    assert (await ask(simulator, "POST", APPLY, headers, USER)).json["resultCode"] == "1"
    assert (await ask(simulator, "POST", APPLY, headers, USER)).status == 403


async def test_the_four_operations_by_this_way(start: Start) -> None:
    simulator = await start(apps={"key-1": "secret-1"})
    token = simulator.issue_token()
    good = await access(simulator) | {"ccmessaging-token": token}
    voice = {"mediaAbility": "0", "channel": "WEB"}

    assert (await ask(simulator, "POST", V1 + "createClickToCall", good, voice)).json["resultCode"] == "0"
    assert (await ask(simulator, "GET", V1 + "checkClickToCallSupport?channel=WEB", good)).json["resultCode"] == "0"
    assert (await ask(simulator, "GET", V1 + "getClickToCallEvents?channel=WEB", good)).json["resultCode"] == "0"
    assert (await ask(simulator, "POST", V1 + "dropClickToCall", good, {"channel": "WEB"})).json["resultCode"] == "0"
    assert simulator.rings == 1
    assert simulator.creates() == []  # these are NSLB's

    create = V1 + "createClickToCall"
    assert (await ask(simulator, "POST", create, good, {"mediaAbility": "0"})).status == 400
    assert (await ask(simulator, "GET", V1 + "checkClickToCallSupport", good)).status == 400
    assert (await ask(simulator, "POST", V1 + "dropClickToCall", good, {"channel": "APP"})).status == 400
    assert (await ask(simulator, "POST", create, good | {"ccmessaging-token": "x"}, voice)).status == 401
    by_cookie = await access(simulator) | {"Cookie": f"ccmessaging-token={token}"}
    assert (await ask(simulator, "POST", create, by_cookie, voice)).status == 401
    assert (await ask(simulator, "POST", V1 + "other", good, voice)).status == 404
