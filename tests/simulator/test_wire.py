"""Requests are recorded byte for byte, and what is not HTTP/1.1 is refused."""

from __future__ import annotations

import pytest

from gateway.simulator.wire import MalformedError, Received, parse_head, parse_object
from tests.simulator.conftest import Start
from tests.simulator.raw import CHECK, CREATE, VOICE, connected, cookie


async def test_a_request_is_recorded_as_it_was_sent(start: Start) -> None:
    simulator = await start(nslb_ports=(0, 0), clock=lambda: 1234.5)
    good = cookie(simulator.issue_token()) | {"X-oDD": "a  b", "x-odd": ""}

    async with connected(simulator, simulator.endpoints[1]) as raw:
        sent = raw.send("POST", CREATE, good, VOICE)
        await raw.reply()

    (received,) = simulator.creates()
    assert received.raw == sent
    assert (received.method, received.target, received.body) == ("POST", CREATE, VOICE)
    assert received.headers[-3:] == [("X-oDD", "a  b"), ("x-odd", ""), ("Content-Length", str(len(VOICE)))]
    assert (received.header("X-ODD"), received.header("x-none")) == ("a  b", None)
    assert received.cookies() == {"ccmessaging-token": good["Cookie"].partition("=")[2]}
    assert (received.endpoint, received.at, received.status, received.user) == (1, 1234.5, 200, "gateway-sales")
    assert good["Cookie"].partition("=")[2] not in repr(received)


async def test_a_chunked_request_keeps_its_framing_in_raw(start: Start) -> None:
    simulator = await start()
    head = f"POST {CREATE} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in cookie(simulator.issue_token()).items())
    data = head.encode() + b"\r\n5\r\n" + VOICE[:5] + b"\r\n%x\r\n" % (len(VOICE) - 5) + VOICE[5:] + b"\r\n0\r\n\r\n"

    async with connected(simulator) as raw:
        raw.writer.write(data)
        assert (await raw.reply()).status == 200

    assert (simulator.creates()[0].raw, simulator.creates()[0].body) == (data, VOICE)


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    simulator = await start()
    good = cookie(simulator.issue_token())

    async with connected(simulator) as raw:
        raw.send("GET", CHECK, good)
        raw.send("POST", CREATE, good, VOICE)
        assert "webRTCSupported" in (await raw.reply()).json
        assert "webRTCSupported" not in (await raw.reply()).json


async def test_continue_is_sent_when_it_is_expected_and_close_is_obeyed(start: Start) -> None:
    simulator = await start()
    good = cookie(simulator.issue_token()) | {"Expect": "100-continue", "Connection": "close"}

    async with connected(simulator) as raw:
        raw.send("POST", CREATE, good, VOICE)
        seen = await raw.rest()

    assert seen.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in seen


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    ],
)
async def test_what_is_malformed_is_400_recorded_and_the_end(start: Start, data: bytes) -> None:
    simulator = await start()

    async with connected(simulator) as raw:
        raw.writer.write(data)
        assert (await raw.reply()).status == 400
        assert await raw.rest() == b""

    (received,) = simulator.received
    assert received.raw.startswith(data.partition(b"\r\n\r\n")[0])
    assert (received.status, received.refusal is None) == (400, False)


async def test_a_head_without_end(start: Start) -> None:
    simulator = await start()

    async with connected(simulator) as raw:
        raw.writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000)
        assert (await raw.reply()).status == 431
    assert simulator.received == []


async def test_a_request_that_breaks_off_in_its_body_is_recorded(start: Start) -> None:
    simulator = await start()

    async with connected(simulator) as raw:
        raw.writer.write(f"POST {CREATE} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab".encode())
        await simulator.until(simulator.creates)

    assert (simulator.creates()[0].body, simulator.creates()[0].status) == (b"", None)


def test_a_head_is_parsed_alone() -> None:
    received = Received(raw=b"GET /a?b HTTP/1.1\r\nHost:a \r\n\r\n")
    parse_head(received)
    assert (received.path, received.query, received.headers) == ("/a", "b", [("Host", "a")])
    with pytest.raises(MalformedError):
        parse_head(Received(raw=b"GET /\r\n\r\n"))


def test_a_json_object_has_each_name_once() -> None:
    assert parse_object(b'{"a": {"b": 1}}') == {"a": {"b": 1}}
    for text in (b'{"a": 1, "a": 1}', b"[]", b'"a"', b"{", b"\xff"):
        with pytest.raises(ValueError, match=r".+"):
            parse_object(text)
