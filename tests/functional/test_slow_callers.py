"""Callers that are slow hold nothing for long, and others do not feel them."""

from __future__ import annotations

import asyncio
import socket

from tests.functional.test_refusals import BODY, HEAD, post
from tests.harness import Farm, until


async def test_a_head_that_never_ends_closes_the_connection(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"listen": {"timeouts": {"head": 0.1}}})
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /dial HTTP/1.1\r\nHost: a\r\n")

    assert await reader.read() == b""
    assert (await gateway.dial()).status == 201
    writer.close()


async def test_a_head_that_begins_with_the_connection_and_never_ends(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator(), {"listen": {"timeouts": {"head": 0.1}}})
    host, _, port = gateway.server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(b"GET / HTTP")
        await until(lambda: gateway.server._callers.connections)
        await asyncio.sleep(0.15)
        gateway.server.tend()

        await until(lambda: not gateway.server._callers.connections)
        assert caller.recv(1) == b""
    assert gateway.lines.requests() == []


async def test_a_connection_that_says_nothing_is_closed_when_idle_too_long(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"listen": {"timeouts": {"idle": 0.1}}})
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    assert await reader.read() == b""
    writer.close()


async def test_a_request_in_many_pieces_is_understood(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in post():
        writer.write(bytes([byte]))
        await writer.drain()

    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
    assert len(simulator.creates()) == 1
    writer.close()


async def test_pipelined_requests_are_answered_in_turn(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"".join(post(b"X-Request-ID: p%d\r\n" % number) for number in range(5)))

    for number in range(5):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"X-Request-ID: p%d\r\n" % number in head
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    assert len(simulator.creates()) == 5
    writer.close()


async def test_a_body_is_asked_for_when_the_caller_waits_to_be_asked(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /dial HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 17\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)

    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 201 ")
    writer.close()


async def test_what_is_written_at_once_does_not_overtake_an_earlier_answer(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    waiting = b"POST /dial HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 17\r\n\r\n"
    writer.write(post() + waiting)

    begin = await reader.readuntil(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert begin.startswith(b"HTTP/1.1 201 ")
    writer.write(BODY + b"POST http://a/dial HTTP/1.1\r\n" + HEAD + b"Content-Length: 0\r\n\r\n")
    rest = await reader.read()
    assert rest.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nConnection: close\r\n" in rest.partition(b"HTTP/1.1 400 ")[2]
    writer.close()


async def test_a_caller_that_reads_no_answer_is_not_answered_without_end_and_holds_nobody(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator, {"listen": {"timeouts": {"head": 0.2}}, "log": {"level": "info"}})
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    asked = 0
    while writer.transport.get_write_buffer_size() == 0 or asked < 20_000:
        writer.write(request * 500)
        asked += 500
        assert (await gateway.dial()).status == 201
        if asked > 200_000:
            break
    while gateway.lines.raw:  # until nothing more is answered
        gateway.lines.raw = b""
        await asyncio.sleep(0.05)
    (held,) = [c for c in gateway.server._callers.connections if c.writing_paused]
    gateway.server.tend()
    await asyncio.sleep(0.25)
    gateway.server.tend()
    await until(lambda: held not in gateway.server._callers.connections)

    assert asked <= 200_000
    assert (await gateway.dial()).status == 201
    assert len(held._messages) < 100
    writer.transport.abort()
    del reader


async def test_a_caller_that_reads_late_gets_every_answer(farm: Farm) -> None:
    gateway = await farm.gateway(await farm.simulator(), {"log": {"level": "error"}})
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    asked = 20_000
    writer.write(request * (asked - 1) + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    await until(lambda: any(c.writing_paused for c in gateway.server._callers.connections))

    answered = 0
    tail = b""
    while piece := await reader.read(1 << 20):
        tail += piece
        answered += tail.count(b"HTTP/1.1 404 ")
        tail = tail[-12:]

    assert answered == asked
    writer.close()


async def test_a_caller_that_has_said_all_and_closed_its_half_gets_its_answer(farm: Farm) -> None:
    simulator = await farm.simulator()
    gateway = await farm.gateway(simulator)
    host, _, port = gateway.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(post())
    writer.write_eof()

    answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.endswith(b"}")
    assert len(simulator.creates()) == 1
    writer.close()
