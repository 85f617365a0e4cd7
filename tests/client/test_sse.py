"""The parser of server-sent events: the standard's own examples, and any splitting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.sse import MOST_BYTES, Message, SseParser


def parsed(*pieces: bytes) -> tuple[list[Message], str | None, float | None]:
    """The events in these pieces, and what the parser remembers after them."""
    parser = SseParser()
    return [message for piece in pieces for message in parser.feed(piece)], parser.last_id, parser.retry_seconds


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Message("message", "YHOO\n+2\n10", None)]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
            [Message("message", "first event", "1"), Message("message", "second event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Message("message", "", None), Message("message", "\n", None)]),
        (b"data:test\n\ndata: test\n\n", [Message("message", "test", None)] * 2),
        (b"\xef\xbb\xbfevent: a\r\ndata: b\r\n\r\n", [Message("a", "b", None)]),
        (b"event: a\rdata: b\r\rdata: c\r\r", [Message("a", "b", None), Message("message", "c", None)]),
        (b"event: a\n\ndata: b\n\n", [Message("message", "b", None)]),
        (b"more: x\nDATA: y\ndata: \xff\n\n", [Message("message", "\ufffd", None)]),
        (b"id: a\0b\ndata: c\n\n", [Message("message", "c", None)]),
        (b"data: a:b\n\n", [Message("message", "a:b", None)]),
    ],
)
def test_streams_are_read_as_the_standard_says(stream: bytes, messages: list[Message]) -> None:
    assert parsed(stream)[0] == messages


def test_the_last_id_is_that_of_the_last_whole_event_even_one_without_data() -> None:
    assert parsed(b"id: 7\ndata: x\n\nid: 8\n\nid: 9\ndata: y\n")[1] == "8"


@pytest.mark.parametrize(
    ("told", "seconds"), [(b"1500", 1.5), (b"0", 0.0), (b"1s", None), (b"-1", None), (b"9" * 5000, None)]
)
def test_the_time_to_wait_is_in_digits(told: bytes, seconds: float | None) -> None:
    assert parsed(b"retry: " + told + b"\n")[2] == seconds


def test_a_line_ended_by_cr_is_not_held_back() -> None:
    parser = SseParser()

    assert parser.feed(b"data: x\r\n\r") == [Message("message", "x", None)]
    assert parser.feed(b"\ndata: y\r\r") == [Message("message", "y", None)]


@pytest.mark.parametrize("piece", [b"x", b"data: x\n", b": x"])
def test_an_event_without_end_is_a_fault(piece: bytes) -> None:
    with pytest.raises(ValueError, match="too long"):
        parsed(*[piece] * (MOST_BYTES + 1))


@pytest.mark.parametrize("heartbeat", [b": heartbeat\n", b": heartbeat\n\n", b":\r\n"])
def test_many_heartbeats_are_not_one_event(heartbeat: bytes) -> None:
    assert parsed(*[heartbeat] * MOST_BYTES, b"data: x\n\n")[0] == [Message("message", "x", None)]


LINES = st.lists(
    st.one_of(
        st.builds(
            lambda name, colon, value: name + colon + value,
            st.sampled_from([b"data", b"event", b"id", b"retry", b"", b"other", b"\xef\xbb\xbf"]),
            st.sampled_from([b":", b": ", b""]),
            st.sampled_from([b"", b"1", b"23", b"x", "ü€😀".encode(), b"a:b", b"\0", b"\xc3"]),
        ),
        st.just(b""),
    ),
    max_size=20,
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(st.data())
def test_any_splitting_gives_the_same_events(data: st.DataObject) -> None:
    lines = data.draw(LINES)
    whole = b"".join(line + data.draw(ENDS) for line in lines)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert parsed(*pieces) == parsed(whole)


@given(st.lists(st.binary()))
def test_any_bytes_are_read_as_something(pieces: list[bytes]) -> None:
    assert parsed(*pieces) == parsed(b"".join(pieces))
