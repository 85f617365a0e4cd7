"""What is refused before anything is sent: the answer, its code, and that NSLB received nothing."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator

import pytest

from gateway.simulator import Simulator
from tests.harness import KEY, Farm, Harness, digest, merge

HEAD = b"Host: gateway\r\nAuthorization: Bearer " + KEY.encode() + b"\r\nContent-Type: application/json\r\n"
BODY = b'{"media":"voice"}'
EXPIRED = "dgw_" + "e" * 43


@pytest.fixture
async def simulator(farm: Farm) -> Simulator:
    return await farm.simulator()


@pytest.fixture
async def gateway(farm: Farm, simulator: Simulator) -> AsyncIterator[Harness]:
    yesterday = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)).date()
    gateway = await farm.gateway(
        simulator,
        {
            "listen": {"timeouts": {"head": 0.2, "body": 0.2}},
            "services": {
                "billing": {
                    "credentials": [
                        {"api_key": digest(KEY)},
                        {"api_key": digest(EXPIRED), "not_after": yesterday},
                    ],
                    "allow": {"media": ["voice"]},
                },
                "reader": {
                    "accounts": ["sales"],
                    "credentials": [{"api_key": digest("dgw_reader")}],
                    "allow": {"operations": ["check"]},
                },
            },
        },
    )
    yield gateway
    assert simulator.received == []
    requests = gateway.lines.requests()
    assert requests
    assert {line["event"] for line in requests} == {"request.refused"}
    assert {line["outcome"] for line in requests} == {"not_sent"}


async def raw(gateway: Harness, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are, and read one answer until the connection is idle or closed."""
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(fields["content-length"]))
    writer.close()
    await writer.wait_closed()
    return int(first.split(" ")[1]), fields, body


def post(fields: bytes = b"", body: bytes = BODY, target: bytes = b"/dial", version: bytes = b"1.1") -> bytes:
    length = str(len(body)).encode()
    line = b"POST " + target + b" HTTP/" + version + b"\r\n"
    return line + HEAD + fields + b"Content-Length: " + length + b"\r\n\r\n" + body


BODIES = [
    (b"", ""),
    (b"{", ""),
    (b"[]", ""),
    (b'"voice"', ""),
    (b"{}", "/media"),
    (b'{"media":"fax"}', "/media"),
    (b'{"media":0}', "/media"),
    (b'{"media":null}', "/media"),
    (b'{"media":["voice"]}', "/media"),
    (b'{"media":"voice","account":null}', "/account"),
    (b'{"media":"voice","account":7}', "/account"),
    (b'{"media":"voice","acount":"sales"}', "/acount"),
    (b'{"media":"voice","media":"video"}', ""),
    (b'{"media":"voice"}{"media":"voice"}', ""),
    (b'{"media":"voice"} x', ""),
    (b'\xef\xbb\xbf{"media":"voice"}', ""),
    ('{"media":"voice"}'.encode("utf-16"), ""),
    (b'{"media":"voice","x":NaN}', ""),
    (b'{"media":"\xff"}', ""),
    (b"[" * 8000, ""),
    (b'{"media":' + b"9" * 6000 + b"}", ""),
]


@pytest.mark.parametrize(("body", "pointer"), BODIES, ids=[repr(body[:24]) for body, _ in BODIES])
async def test_a_body_that_is_not_exactly_a_dial_request(gateway: Harness, body: bytes, pointer: str) -> None:
    answer = await gateway.dial(data=body)

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (400, "malformed-request", "not_sent")
    assert answer.headers["Content-Type"] == "application/problem+json"
    if pointer:
        assert [error["pointer"] for error in answer.json["errors"]] == [pointer]


async def test_every_fault_of_a_body_is_told_at_once(gateway: Harness) -> None:
    answer = await gateway.dial({"media": "fax", "account": 1, "nmber": "+49 170 1234567", "+491701234567": 1})

    assert [error["pointer"] for error in answer.json["errors"]] == ["/media", "/account", "/nmber", ""]
    assert b"1234567" not in answer.body


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        ({"Content-Type": "application/json; charset=latin-1"}, 415, "unsupported-media-type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        ({"Expect": "the-unexpected"}, 400, "malformed-request"),
    ],
)
async def test_a_body_in_another_form(gateway: Harness, fields: dict[str, str], status: int, code: str) -> None:
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields.items())
    head = HEAD.replace(b"Content-Type: application/json\r\n", b"") if "Content-Type" in fields else HEAD
    got, _, body = await raw(gateway, b"POST /dial HTTP/1.1\r\n" + head + lines + b"Content-Length: 17\r\n\r\n")

    assert (got, json.loads(body)["code"]) == (status, code)


async def test_a_body_without_a_type(gateway: Harness) -> None:
    head = HEAD.replace(b"Content-Type: application/json\r\n", b"")
    got, _, body = await raw(gateway, b"POST /dial HTTP/1.1\r\n" + head + b"Content-Length: 17\r\n\r\n" + BODY)

    assert (got, json.loads(body)["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_eight_kibibytes(gateway: Harness, chunked: bool) -> None:
    if chunked:
        piece = b"1000\r\n" + b" " * 4096 + b"\r\n"
        data = b"POST /dial HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 3 + b"0\r\n\r\n"
    else:
        data = post(body=b" " * 8193)
    status, fields, body = await raw(gateway, data)

    assert (status, json.loads(body)["code"]) == (413, "payload-too-large")
    assert json.loads(body)["instance"] == fields["x-request-id"]


async def test_credentials_that_do_not_hold_get_the_same_answer_byte_for_byte(gateway: Harness) -> None:
    tries: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer dgw_unknown"},
        {"Authorization": f"Bearer {EXPIRED}"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEY} {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": ""},
        {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"},
        {"X-API-Key": "dgw_unknown", "Authorization": f"Bearer {KEY}"},
    ]
    answers = [await gateway.dial(key=None, headers={"X-Request-ID": "same"} | fields) for fields in tries]

    assert {answer.status for answer in answers} == {401}
    assert len({answer.body for answer in answers}) == 1
    assert all("Bearer" in answer.headers["WWW-Authenticate"] for answer in answers)
    assert all("Content-Length" in answer.headers for answer in answers)
    assert all("service" not in line for line in gateway.lines.requests())


@pytest.mark.parametrize("name", [b"Authorization: Bearer ", b"X-API-Key: "])
async def test_a_credential_twice_is_refused_even_if_both_are_right(gateway: Harness, name: bytes) -> None:
    status, _, body = await raw(gateway, post(name + KEY.encode() + b"\r\n" + name + KEY.encode() + b"\r\n"))

    assert (status, json.loads(body)["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("key", "wanted"),
    [(KEY, {"media": "video"}), (KEY, {"media": "voice", "account": "other"}), ("dgw_reader", {"media": "voice"})],
)
async def test_what_a_service_was_not_given(gateway: Harness, key: str, wanted: dict[str, str]) -> None:
    answer = await gateway.dial(wanted, key=key)

    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (403, "forbidden", "not_sent")


@pytest.mark.parametrize(
    "target",
    [
        b"/", b"/dial/", b"//dial", b"/./dial", b"/x/../dial", b"/dial%2F", b"/%64ial", b"/DIAL", b"/dialx",
        b"/dial/1/2", b"/dial//events", b"/dial/support/", b"/dial/1/events/", b"/livez", b"/metrics",
        b"/status", b"/dial;x=1", b"/dial%00", b"/dial#x",
    ],
)  # fmt: skip
async def test_a_path_that_is_not_exactly_a_route(gateway: Harness, target: bytes) -> None:
    status, _, body = await raw(gateway, post(target=target))

    assert (status, json.loads(body)["code"]) == (404, "not-found")


@pytest.mark.parametrize("target", [b"http://gateway/dial", b"*", b"dial", b"/dial?x=1", b"/dial?"])
async def test_a_target_in_another_form(gateway: Harness, target: bytes) -> None:
    status, _, body = await raw(gateway, post(target=target))

    assert (status, json.loads(body)["code"]) == (400, "malformed-request")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_another_method(gateway: Harness, method: str) -> None:
    answer = await gateway.request(method, "/dial", headers={"Authorization": f"Bearer {KEY}"})

    assert (answer.status, answer.json["code"]) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"


async def test_a_head_request_gets_no_body(gateway: Harness) -> None:
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HEAD /dial HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.endswith(b"\r\n\r\n")


CHUNKED = b"11\r\n" + BODY + b"\r\n0\r\n\r\n"
MALFORMED = [
    b"NONSENSE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls to a plain port\r\n\r\n",
    b"POST /dial HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST /dial HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    b"POST /dial HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /dial HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /dial HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n",
    b"POST /dial HTTP/1.1\r\n" + HEAD.replace(b"Host: gateway\r\n", b"") + b"Content-Length: 0\r\n\r\n",
    b"POST /dial HTTP/1.1\r\n" + HEAD + b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
    b"POST /dial HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    b"POST /dial HTTP/1.0\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    b"POST /dial HTTP/2.0\r\n" + HEAD + b"Content-Length: 17\r\n\r\n" + BODY,
    b"POST /dial HTTP/1.1\r\n" + HEAD.replace(b"gateway", b"a b") + b"Content-Length: 17\r\n\r\n" + BODY,
    b"POST /dial HTTP/1.1\r\n" + HEAD.replace(b"gateway", b"a/b") + b"Content-Length: 17\r\n\r\n" + BODY,
]


@pytest.mark.parametrize("data", MALFORMED, ids=[repr(data[-30:]) for data in MALFORMED])
async def test_what_is_no_proper_request_gets_a_problem_without_its_bytes(gateway: Harness, data: bytes) -> None:
    status, fields, body = await raw(gateway, data)

    assert (status, json.loads(body)["code"]) == (400, "malformed-request")
    assert fields["content-type"] == "application/problem+json"
    assert fields["connection"] == "close"
    assert b"NONSENSE" not in body
    assert b"NONSENSE" not in gateway.lines.raw
    assert len(gateway.lines.requests()) == 1


@pytest.mark.parametrize("host", [b"", b"gateway", b"gateway:8080", b"gateway:", b"10.0.0.1", b"[::1]:8080", b"a%20b"])
async def test_every_valid_host_is_as_good_as_another(gateway: Harness, host: bytes) -> None:
    status, _, _ = await raw(gateway, b"POST /dial HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 0\r\n\r\n")

    assert status == 401


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"POST /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri-too-long"),
        (b"POST /dial HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000 + b"\r\n\r\n", 431, "headers-too-large"),
        (post(b"".join(b"X%d: %s\r\n" % (n, b"y" * 1000) for n in range(17))), 431, "headers-too-large"),
        (post(b"".join(b"X%d: y\r\n" % n for n in range(200))), 431, "headers-too-large"),
    ],
)
async def test_a_head_that_is_too_large(gateway: Harness, data: bytes, status: int, code: str) -> None:
    got, _, body = await raw(gateway, data)

    assert (got, json.loads(body)["code"]) == (status, code)


async def test_a_body_that_does_not_come_ends_the_wait(gateway: Harness) -> None:
    status, fields, body = await raw(gateway, b"POST /dial HTTP/1.1\r\n" + HEAD + b"Content-Length: 17\r\n\r\n{")

    assert (status, json.loads(body)["code"]) == (400, "malformed-request")
    assert fields["connection"] == "close"


async def test_a_caller_that_hangs_up_in_its_body_is_logged(gateway: Harness) -> None:
    host, _, port = gateway.server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /dial HTTP/1.1\r\n" + HEAD + b"Content-Length: 17\r\n\r\n{")
    await writer.drain()
    writer.close()
    while not gateway.lines.requests():
        await asyncio.sleep(0.005)

    assert gateway.lines.requests()[0]["code"] == "malformed-request"


async def test_request_ids_that_are_not_well_formed_are_replaced(gateway: Harness) -> None:
    for claimed in ("a b", "x" * 129, "ä", 'a"b', ""):
        answer = await gateway.dial(key=None, headers={"X-Request-ID": claimed})
        assert answer.headers["X-Request-ID"] != claimed
        assert answer.json["instance"] == answer.headers["X-Request-ID"]
    kept = await gateway.dial(key=None, headers={"X-Request-ID": "A-z_0.9"})
    assert kept.headers["X-Request-ID"] == "A-z_0.9"


def test_merging_settings_replaces_lists_and_keeps_siblings() -> None:
    settings: dict[str, object] = {"a": {"b": 1, "c": [1]}}
    merge(settings, {"a": {"c": [2]}})
    assert settings == {"a": {"b": 1, "c": [2]}}
