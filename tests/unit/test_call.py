"""What two replicas know of one call becomes one history, whatever NSLB told either of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calls import Call
from gateway.calls.call import History, merged
from gateway.model import CallEvent, CallStatus, Medium

# Few kinds, so that both are often told alike.
EVENTS = tuple(
    CallEvent(status, None, description, {})
    for status, description in (
        (CallStatus.QUEUED, "q"),
        (CallStatus.CONNECTED, "c"),
        (None, "x"),
        (CallStatus.ENDED, "e"),
        (CallStatus.FAILED, "f"),
    )
)


def told(*histories: list[CallEvent]) -> Call:
    call = Call("1" * 22, "billing", "shared", "line", Medium.VOICE)
    for events in histories:
        for event in events:
            call.happened(event)
    return call


some = st.lists(st.sampled_from(EVENTS), max_size=5)
# More than are kept, too.
many = st.one_of(some, st.lists(st.sampled_from(EVENTS[:3]), min_size=55, max_size=70))
pairs = st.tuples(many, some, some)


def over(history: History) -> bool:
    return bool(history) and history[-1].status.over


@given(pairs)
def test_no_reader_of_either_of_two_histories_misses_the_end(pair: tuple[list[CallEvent], ...]) -> None:
    common, ours, theirs = pair
    one, other = told(common, ours), told(common, theirs)

    whole = merged(one.happenings, other.happenings)

    assert over(whole) == (one.over or other.over)
    assert not any(entry.status.over for entry in whole[:-1])
    for history in (one.happenings, other.happenings):
        heard = [0, *(entry.number for entry in history if not entry.status.over)]
        assert not over(whole) or all(whole[-1].number > number for number in heard)


@given(pairs)
def test_numbers_only_grow_and_no_event_is_lost_of_two_histories(pair: tuple[list[CallEvent], ...]) -> None:
    common, ours, theirs = pair
    one, other = told(common, ours).happenings, told(common, theirs).happenings

    whole = merged(one, other)

    assert all(before.number < after.number for before, after in pairwise(whole))
    kept = [entry.event for entry in whole]
    first = max(entry[0].number for entry in (one, other) if entry) if one or other else 0
    for history in (one, other):
        assert (
            all(entry.event in kept for entry in history if not entry.status.over and entry.number >= first)
            or len(whole) == 64
        )
    # What was told of theirs keeps its number, so that nobody is told of it again; after an end nobody asks.
    numbers = {entry.number: entry.event for entry in whole}
    assert all(numbers.get(entry.number, entry.event) == entry.event for entry in other if not entry.status.over)


@given(pairs)
def test_two_histories_come_to_be_the_same_at_both_replicas(pair: tuple[list[CallEvent], ...]) -> None:
    common, ours, theirs = pair
    one, other = told(common, ours).happenings, told(common, theirs).happenings

    whole = merged(one, other)

    assert merged(one, whole) == merged(other, whole) == merged(whole, whole) == whole


@given(many, some)
def test_what_a_replica_has_ahead_keeps_its_numbers(common: list[CallEvent], more: list[CallEvent]) -> None:
    behind, ahead = told(common), told(common, more)

    assert merged(ahead.happenings, behind.happenings) == ahead.happenings
    assert merged(behind.happenings, ahead.happenings) == ahead.happenings


@pytest.mark.parametrize("first", [True, False])
def test_an_end_that_was_told_under_a_number_of_another_event_has_one_above_both(first: bool) -> None:
    queued, connected, _, ended, _ = EVENTS
    pair = [told([queued, connected]), told([queued, ended])]
    stored, late = pair if first else reversed(pair)

    late.adopt(stored)

    assert [(entry.number, entry.status) for entry in late.happenings] == [
        (1, CallStatus.QUEUED),
        (2, CallStatus.CONNECTED),
        (3, CallStatus.ENDED),
    ]
    assert late.over
