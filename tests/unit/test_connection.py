"""One connection knows its phase: each failure is what it must be, and no answer is taken for another's."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.upstream import NotSent, Reply, SentUnanswered
from gateway.upstream.connection import MOST_ANSWER_BYTES, Connection, Phase
from tests.harness import until

BODY = b'{"resultCode":"0"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Other: 1\r\n"
WHOLE = HEAD + b"Content-Length: 18\r\n\r\n" + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\nd\r\n" + BODY[5:] + b"\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nSet-Cookie: x=1\r\n\r\n"
REPLY = Reply(200, [(b"content-type", b"application/json")], BODY)


class Wire:
    """A connection and the other end of it, which a test writes by hand."""

    def __init__(self) -> None:
        self.closed: list[Connection] = []
        self.connection = Connection(asyncio.get_running_loop(), self.closed.append)
        self.server: asyncio.Server | None = None
        self.peers: list[asyncio.StreamWriter] = []
        self.readers: list[asyncio.StreamReader] = []

    async def open(self) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.readers.append(reader)
            self.peers.append(writer)

        self.server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        await asyncio.get_running_loop().create_connection(lambda: self.connection, "127.0.0.1", port)
        await until(lambda: self.peers)

    async def close(self) -> None:
        self.connection.close()
        for peer in self.peers:
            peer.close()
        assert self.server is not None
        self.server.close()
        await self.server.wait_closed()

    async def asks(self, timeout: float = 5) -> asyncio.Future[Reply]:
        """Send a request, and let the turn end in which it is written."""
        answer = self.connection.send(b"request", timeout)
        await asyncio.sleep(0)
        assert self.connection.phase is Phase.SENT
        return answer

    async def says(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.peers[0].write(piece)
            await self.peers[0].drain()
            await asyncio.sleep(0)

    def resets(self) -> None:
        opened: socket.socket = self.peers[0].get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peers[0].transport.abort()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    await wire.open()
    yield wire
    await wire.close()


async def unanswered(answer: asyncio.Future[Reply]) -> str:
    with pytest.raises(SentUnanswered) as raised:
        await answer
    return raised.value.problem.code


@pytest.mark.parametrize("data", [WHOLE, CHUNKED, INTERIM + WHOLE])
async def test_every_form_of_an_answer_gives_the_same_reply_and_keeps_the_connection(wire: Wire, data: bytes) -> None:
    for _ in range(3):
        answer = await wire.asks()
        await wire.says(data)
        assert await answer == REPLY
        assert wire.connection.phase is Phase.READY
        assert wire.connection.usable()
    assert wire.closed == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(CHUNKED) - 1), max_size=6, unique=True), chunked=st.booleans())
def test_however_an_answer_is_cut_it_is_the_same(cuts: list[int], chunked: bool) -> None:
    async def once() -> None:
        data = CHUNKED if chunked else INTERIM + WHOLE
        bounds = [0, *sorted(cuts), len(data)]
        connection = Connection(asyncio.get_running_loop(), lambda _: None)
        wire = Wire()
        wire.connection = connection
        await wire.open()
        answer = await wire.asks()
        for begin, end in pairwise(bounds):
            if data[begin:end] and not answer.done():
                connection.data_received(data[begin:end])
        assert await answer == REPLY
        await wire.close()

    asyncio.run(once())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=60) | st.sampled_from([WHOLE[:40], HEAD, b"\r\n\r\n"]), max_size=4)
)
def test_whatever_bytes_come_end_in_a_reply_or_in_not_knowing(pieces: list[bytes]) -> None:
    async def once() -> None:
        wire = Wire()
        await wire.open()
        answer = await wire.asks()
        for piece in pieces:
            wire.connection.data_received(piece)
        wire.connection.eof_received()
        (outcome,) = await asyncio.gather(answer, return_exceptions=True)
        if isinstance(outcome, SentUnanswered):
            assert outcome.problem.code in {"upstream-invalid-response", "upstream-disconnected"}
        else:
            assert isinstance(outcome, Reply)
        await wire.close()

    asyncio.run(once())


async def test_an_answer_that_ends_with_the_connection_is_taken_once(wire: Wire) -> None:
    answer = await wire.asks()
    await wire.says(HEAD + b"\r\n" + BODY)
    # Closing on unread bytes would be a reset.
    await wire.readers[0].readexactly(len(b"request"))
    assert not answer.done()
    wire.peers[0].close()

    assert await answer == REPLY
    assert wire.connection.phase is Phase.CLOSED
    assert wire.closed == [wire.connection]


@pytest.mark.parametrize("data", [b"", HEAD[:30], HEAD + b"Content-Length: 18\r\n\r\n" + BODY[:9], CHUNKED[:-5]])
@pytest.mark.parametrize("reset", [False, True])
async def test_half_an_answer_is_none(wire: Wire, data: bytes, reset: bool) -> None:
    answer = await wire.asks()
    await wire.says(data)
    if reset:
        wire.resets()
    else:
        wire.peers[0].close()

    assert await unanswered(answer) == "upstream-disconnected"
    assert wire.closed == [wire.connection]


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/2.0\r\n\r\n",
     b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
)  # fmt: skip
async def test_what_is_no_answer_is_not_known(wire: Wire, data: bytes) -> None:
    answer = await wire.asks()
    await wire.says(data)

    assert await unanswered(answer) == "upstream-invalid-response"


async def test_answers_are_taken_up_to_the_bound_and_not_over_it(wire: Wire) -> None:
    head = HEAD + b"Content-Length: %d\r\n\r\n" % (MOST_ANSWER_BYTES - len(HEAD) - 25)
    largest = head + b"x" * (MOST_ANSWER_BYTES - len(head))
    head = HEAD + b"Content-Length: %d\r\n\r\n" % (len(largest) - len(head))
    answer = await wire.asks()
    await wire.says(largest)
    assert len((await answer).body) == len(largest) - len(head)

    again = await wire.asks()
    await wire.says(HEAD + b"Content-Length: %d\r\n\r\n" % MOST_ANSWER_BYTES + b"x" * MOST_ANSWER_BYTES)
    assert await unanswered(again) == "upstream-invalid-response"


@pytest.mark.parametrize("extra", [WHOLE, b"x", b"HTTP/1.1 5"])
async def test_more_than_was_asked_for_costs_the_connection_and_not_the_answer(wire: Wire, extra: bytes) -> None:
    answer = await wire.asks()
    wire.connection.data_received(WHOLE + extra)

    assert await answer == REPLY
    assert not wire.connection.usable()
    with pytest.raises(NotSent):
        await wire.connection.send(b"request", 5)


async def test_what_comes_unasked_costs_the_connection(wire: Wire) -> None:
    await wire.says(WHOLE)
    await until(lambda: wire.closed)

    assert not wire.connection.usable()


async def test_a_connection_whose_peer_closed_unnoticed_is_not_used(wire: Wire) -> None:
    wire.connection.idle_since -= 60
    assert wire.connection.usable()
    # Without a turn of the loop, which would tell it.
    opened: socket.socket = wire.peers[0].get_extra_info("socket")
    with socket.socket(fileno=opened.fileno()) as borrowed:
        borrowed.shutdown(socket.SHUT_WR)
        borrowed.detach()

    assert not wire.connection.usable()
    with pytest.raises(NotSent):
        await wire.connection.send(b"request", 5)


async def test_without_an_answer_in_time_the_outcome_is_not_known(wire: Wire) -> None:
    first = await wire.asks(30)
    await wire.says(WHOLE)
    await first

    assert await unanswered(wire.connection.send(b"request", 0.02)) == "upstream-timeout"
    assert wire.closed == [wire.connection]


async def test_the_timer_of_an_earlier_request_does_not_end_a_later_one(wire: Wire) -> None:
    first = await wire.asks(0.05)
    await wire.says(WHOLE)
    await first
    second = await wire.asks(30)
    await asyncio.sleep(0.08)
    assert not second.done()
    await wire.says(WHOLE)

    assert await second == REPLY


async def test_closing_it_leaves_what_was_sent_unknown_and_says_so_once(wire: Wire) -> None:
    answer = await wire.asks()
    wire.connection.close()
    wire.connection.close()

    assert await unanswered(answer) == "upstream-disconnected"
    assert wire.closed == [wire.connection]


async def test_closing_it_before_the_turn_ends_leaves_nothing_sent(wire: Wire) -> None:
    answer = wire.connection.send(b"request", 5)
    assert wire.connection.phase is Phase.QUEUED
    wire.connection.close()

    with pytest.raises(NotSent) as raised:
        await answer
    assert raised.value.problem.code == "upstream-unreachable"
    assert await wire.readers[0].read() == b""


async def test_what_comes_before_the_request_was_written_is_no_answer_to_it(wire: Wire) -> None:
    answer = wire.connection.send(b"request", 5)
    wire.connection.data_received(WHOLE)

    with pytest.raises(NotSent):
        await answer
    assert await wire.readers[0].read() == b""


async def test_a_request_that_was_handed_to_the_transport_may_have_left_whatever_that_says(wire: Wire) -> None:
    class Failing(asyncio.Transport):
        def write(self, data: object) -> None:
            raise RuntimeError(data)

        def is_closing(self) -> bool:
            return False

        def abort(self) -> None:
            """Nothing is to be closed."""

    connection = Connection(asyncio.get_running_loop(), wire.closed.append)
    connection.connection_made(Failing({"socket": wire.peers[0].get_extra_info("socket")}))
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))

    assert await unanswered(connection.send(b"request", 5)) == "upstream-disconnected"
    assert [type(fault) for fault in faults] == [RuntimeError]
    loop.set_exception_handler(None)


async def test_a_connection_that_has_gone_takes_nothing(wire: Wire) -> None:
    wire.connection.retire()

    with pytest.raises(NotSent) as raised:
        await wire.connection.send(b"request", 5)
    assert raised.value.problem.code == "upstream-unreachable"
