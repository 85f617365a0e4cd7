"""Log lines leave without waiting for their reader; what it can't take is kept, and then counted."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway.telemetry import Output

LINE = b"x" * 99 + b"\n"
MUCH = LINE * 1000  # more than a pipe takes


@dataclass
class Pipe:
    """A pipe into which nothing is written but by an output, and which a test reads by hand."""

    reading: int
    writing: int

    def taken(self, size: int = 1 << 22) -> bytes:
        """What has come through so far."""
        found = b""
        while len(found) < size:
            try:
                piece = os.read(self.reading, size - len(found))
            except BlockingIOError:
                break
            found += piece
            if not piece:
                break
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 65536)
    made = Pipe(reading, writing)
    yield made
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_what_a_reader_takes_is_written_at_once(pipe: Pipe) -> None:
    output = Output(pipe.writing)
    output.write(LINE * 3)
    output.flush()

    assert pipe.taken() == LINE * 3
    assert output.take_lost() == 0


async def test_a_reader_that_stands_still_holds_nobody_and_gets_all_later(pipe: Pipe) -> None:
    output = Output(pipe.writing)
    output.write(MUCH)
    output.flush()
    output.write(LINE)
    output.flush()
    found = pipe.taken()
    assert 0 < len(found) < len(MUCH)

    while len(found) < len(MUCH) + len(LINE):
        await asyncio.sleep(0.001)
        found += pipe.taken()

    assert found == MUCH + LINE


def test_lines_for_which_there_is_no_room_are_counted_and_told_of_when_there_is(pipe: Pipe) -> None:
    output = Output(pipe.writing)
    for _ in range(60):
        output.write(MUCH)
        output.flush()
    assert output.take_lost() == 0

    found = b""
    while piece := pipe.taken():
        found += piece
        output.flush()

    lost = output.take_lost()
    assert lost > 0
    assert lost + found.count(b"\n") == 60_000
    assert set(found.splitlines()) == {LINE.rstrip()}
    assert output.take_lost() == 0


def test_the_last_lines_are_written_in_time_or_not_at_all(pipe: Pipe) -> None:
    output = Output(pipe.writing)
    output.write(MUCH)

    output.finish(0.01)

    assert 0 < len(pipe.taken()) < len(MUCH)
    output.finish(0.01)
    assert pipe.taken()


def test_a_pipe_that_says_it_is_full_is_believed(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    os.write(pipe.writing, b"y" * 61_440)
    output = Output(pipe.writing)
    output.write(b"z" * 8191 + b"\n")
    output.flush()
    pipe.taken()
    output.flush()

    assert pipe.taken().endswith(b"z\n")


def test_a_reader_that_went_away_is_told_of_and_nothing_is_kept_for_it() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    output = Output(writing)
    output.write(MUCH)

    with pytest.raises(BrokenPipeError):
        output.flush()
    output.flush()
    os.close(writing)


async def test_a_reader_that_goes_away_while_lines_wait_stops_nothing(pipe: Pipe) -> None:
    output = Output(pipe.writing)
    output.write(MUCH)
    output.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, pipe.reading)
    os.close(nothing)

    await asyncio.sleep(0.05)

    output.write(LINE)
    with pytest.raises(BrokenPipeError):
        output.flush()
