"""A line, in every state that two calls can bring it to: nothing is done on it that NSLB could not tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.calls.line import Line

CALLS = ("one", "two")
LASTS = 2.0
END = 6.0


def steps(line: Line, now: float) -> Iterator[tuple[str, Line]]:
    """What a gateway may do to a line, as `Lines` asks for it, and what comes of that."""
    for call in CALLS:
        other = CALLS[call == CALLS[0]]
        if not line.released(now):
            yield f"ask {call}", line.asked(call, now + LASTS)
        if call in line.making:
            yield f"made {call}", line.made(call, now)
        tried = {
            f"take {call}": line.taken(call, now, LASTS),
            f"give back {call}": line.given_back(call, other),
            f"not made {call}": line.settled(call),
            f"release {call}": None if line.superseded(call) else line.releasing_of(call, now, now + LASTS),
            f"released {call}": line.release_over(call, ended=True),
            f"not released {call}": line.release_over(call, ended=False),
            f"end {call}": line.freed(call, now),
        }
        for name, found in tried.items():
            if found is not None:
                yield name, found


def reachable() -> Iterator[tuple[Line, float, str, Line]]:
    """Every step from every state, until the time is over."""
    seen: set[tuple[bytes, float]] = set()
    waiting = [(Line(), 0.0)]
    while waiting:
        line, now = waiting.pop()
        if (line.encode(), now) in seen or now > END:
            continue
        seen.add((line.encode(), now))
        waiting.append((line.at(now + 1.0), now + 1.0))
        for name, after in steps(line, now):
            yield line, now, name, after
            waiting.append((after, now))


def test_nothing_is_done_that_could_mean_another_call() -> None:
    count = 0
    for line, now, name, after in reachable():
        count += 1
        verb, _, call = name.rpartition(" ")
        # A call that may be made, and one that is released, at once: NSLB could end either.
        assert not (after.making and after.released(now)), name
        if verb == "release":
            assert not line.making
            assert line.call in {None, call}
        if verb in {"take", "ask"}:
            assert not line.released(now)
        if verb == "take":
            assert not line.making
            assert line.until <= now
        if verb == "end" and line.released(now):
            assert after.until == line.releasing, "free while it is released"
        if verb == "made":
            assert after.call == call
        assert Line.decode(after.encode(), 7) == replace(after, version=7)
    assert count > 5_000


def test_a_call_that_was_not_settled_in_time_may_have_been_made() -> None:
    line = Line(call="one").asked("two", 5.0)

    assert line.at(4.9).call == "one"
    assert line.at(5.0).superseded("one")
    assert not line.at(5.0).making


def test_what_is_told_late_of_a_call_that_was_not_made_brings_back_the_one_before() -> None:
    late = Line(call="one").asked("two", 5.0).at(6.0).settled("two")

    assert late is not None
    assert late.call == "one"
    assert late.settled("two") is None


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"another": 1}', b"null"])
def test_what_no_gateway_wrote_is_no_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Line.decode(content, 1)


def test_what_a_gateway_of_another_version_wrote_is_a_line() -> None:
    line = Line(call="one", since=1.0, until=2.0, making={"two": 3.0}, version=7)
    more = line.encode()[:-1] + b',"later":[1]}'
    assert Line.decode(more, 7) == line
