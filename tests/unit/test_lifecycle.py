"""The life of a token: what may be sent, when it is refreshed, and how often that can be tried."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Secret, Token
from gateway.tokens.lifecycle import (
    BURST,
    ELSEWHERE,
    REFILL_SECONDS,
    Last,
    Lifecycle,
    State,
    Trigger,
    backoff,
    next_generation,
)

HOUR = 3600.0


def token(generation: int, obtained: float, lasts: float | None = HOUR) -> Token:
    return Token(Secret(f"t{generation}"), generation, obtained, None if lasts is None else obtained + lasts)


def fresh(now: float = 0.0) -> Lifecycle:
    """A life in which a token has just been obtained."""
    life = Lifecycle(HOUR, renews=True)
    life.begin(Trigger.START, now)
    life.take(token(1, now))
    life.succeed(now)
    return life


def test_an_account_without_a_token_is_to_get_one_at_once() -> None:
    life = Lifecycle(HOUR, renews=True)

    assert life.state(5.0) is State.ABSENT
    assert life.usable(5.0) is None
    assert life.due(5.0) is Trigger.START
    assert life.next(5.0) == 0.0


def test_it_is_refreshed_when_half_of_its_life_is_over_and_not_before() -> None:
    life = fresh(100.0)

    assert life.state(100.0) is State.FRESH
    assert life.due(100.0 + HOUR / 2 - 0.001) is None
    assert life.next(100.0) == HOUR / 2
    assert life.due(100.0 + HOUR / 2) is Trigger.EARLY
    assert life.usable(100.0 + HOUR / 2) is not None


def test_those_that_began_at_once_go_on_a_little_apart_and_none_after_half_of_its_life() -> None:
    lives = [Lifecycle(HOUR, renews=True, spread=0.05) for _ in range(200)]
    for life in lives:
        life.take(token(1, 0.0))

    waits = [life.next(0.0) or 0.0 for life in lives]

    assert len(set(waits)) > 100
    assert min(waits) >= HOUR * 0.45
    assert max(waits) <= HOUR / 2
    assert [life.due(HOUR * 0.45 - 0.001) for life in lives] == [None] * 200
    assert [life.due(HOUR / 2) for life in lives] == [Trigger.EARLY] * 200
    # Each keeps to what it has drawn.
    assert [life.next(0.0) for life in lives] == waits


def test_it_is_used_to_its_last_moment_and_not_in_the_next() -> None:
    life = fresh()

    assert life.usable(HOUR - 0.001) is not None
    assert life.usable(HOUR) is None
    assert life.due(HOUR) is Trigger.EXPIRED
    assert life.state(HOUR) is State.EXPIRED


def test_a_refresh_under_way_is_not_begun_again_and_the_token_goes_on() -> None:
    life = fresh()
    life.begin(Trigger.EARLY, HOUR / 2)

    assert life.state(HOUR / 2) is State.REFRESHING
    assert life.due(HOUR / 2) is None
    assert life.due(2 * HOUR) is None
    assert life.next(HOUR / 2) is None
    assert life.usable(HOUR / 2) is not None


def test_a_refused_token_is_not_sent_and_a_refusal_of_a_former_one_says_nothing() -> None:
    life = fresh()
    life.take(token(7, 10.0))
    life.refuse(1)
    assert life.usable(10.0) is not None

    life.refuse(7)

    assert life.usable(10.0) is None
    assert life.due(10.0) is Trigger.REFUSED
    assert life.state(10.0) is State.EXPIRED
    assert life.take(token(8, 11.0))
    assert life.usable(11.0) is not None
    assert life.due(11.0) is None


def test_what_is_no_newer_is_not_taken() -> None:
    life = fresh()
    life.take(token(5, 0.0))

    assert not life.take(token(5, 9.0))
    assert not life.take(token(4, 9.0))
    assert life.generation == 5


def test_a_failure_is_told_waited_for_and_forgotten_with_the_next_success() -> None:
    life = fresh()
    half = HOUR / 2
    life.begin(Trigger.EARLY, half)
    life.fail(half, "unreachable", 8.0)

    assert life.state(half) is State.FRESH
    assert life.last is not None
    assert (life.last.trigger, life.last.failure, life.failures) == (Trigger.EARLY, "unreachable", 1)
    assert life.next(half) == 8.0
    assert life.due(half + 7.9) is None
    assert life.due(half + 8.0) is Trigger.EARLY
    assert life.state(HOUR) is State.FAILED
    life.wait(half)
    life.begin(Trigger.EARLY, half + 8.0)
    life.take(token(2, half + 8.0))
    life.succeed(half + 8.0)
    assert life.failures == 0
    assert life.last.failure is None
    assert life.state(half + 8.0) is State.FRESH


def test_what_fails_at_another_replica_is_told_as_far_as_it_is_known_here() -> None:
    life = Lifecycle(HOUR, renews=True)
    life.begin(Trigger.START, 5.0)
    life.postpone(5.0, 4.0)
    # Another one is at work, and nothing has failed.
    assert (life.last, life.state(5.0)) == (None, State.ABSENT)
    life.begin(Trigger.START, 9.0)
    life.postpone(9.0, 4.0, failures=2)

    assert life.last == Last(9.0, Trigger.START, ELSEWHERE)
    assert life.state(9.0) is State.FAILED

    life.begin(Trigger.START, 13.0)
    life.fail(13.0, "refused", 8.0)
    life.begin(Trigger.START, 21.0)
    life.postpone(21.0, 8.0, failures=4)
    assert life.last == Last(13.0, Trigger.START, "refused")


def alone(generation: int, now: float, life: Lifecycle) -> None:
    """It applies for a token without the store."""
    life.begin(Trigger.REFUSED, now)
    assert life.take(token(generation, now), alone=True)
    life.succeed(now)


def test_who_is_displaced_while_it_is_alone_waits_longer_each_time_up_to_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda _least, most: most)
    life, now, waits = fresh(), 10.0, []
    life.refuse(1)
    # What was known to all may be refused for any reason: nobody is known to have ended it.
    assert life.wait_alone(now) == 0.0
    for generation in range(2, 11):
        alone(generation, now, life)
        life.refuse(generation)
        waits.append(life.wait_alone(now))
        assert life.displaced == len(waits)
        # Asked again, it is the same one.
        assert life.wait_alone(now + 0.5) == waits[-1] - 0.5
        assert life.displaced == len(waits)
        life.begin(Trigger.REFUSED, now)
        life.fail(now, "displaced", 1.0)
        # The first time the next token is worth waiting for, and later it is not.
        assert (life.second_try(now) is not None) is (len(waits) == 1)
        now += waits[-1]
        assert life.wait_alone(now) == 0.0
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]


@pytest.mark.parametrize("end", ["by itself", "known to all"])
def test_who_is_not_displaced_any_more_waits_for_nothing_alone(end: str) -> None:
    life = fresh()
    for generation in (2, 3):
        alone(generation, 10.0, life)
        life.refuse(generation)
        assert life.wait_alone(10.0) > 0.0
    alone(4, 100.0, life)
    now = 100.0
    if end == "by itself":
        now += HOUR
    else:
        life.take(token(5, 100.0))
        life.refuse(5)

    assert life.wait_alone(now) == 0.0
    assert life.displaced == 0


def test_what_nslb_makes_of_a_token_that_nobody_else_knows_is_as_little_known() -> None:
    life = fresh()
    alone(2, 10.0, life)
    life.take(token(3, 11.0), in_band=True)
    life.refuse(3)

    assert life.wait_alone(11.0) > 0.0


def test_the_second_try_is_worth_waiting_for_and_the_third_is_not() -> None:
    life = fresh()
    life.refuse(1)
    assert life.second_try(0.0) is None
    life.begin(Trigger.REFUSED, 0.0)
    assert life.second_try(0.0) is None
    life.fail(0.0, "timeout", 1.5)
    assert life.second_try(0.5) == 1.0
    life.begin(Trigger.REFUSED, 1.5)
    life.fail(1.5, "timeout", 3.0)
    assert life.second_try(1.5) is None


def test_the_second_try_is_as_much_worth_after_a_failure_of_another_replica() -> None:
    life = fresh()
    life.refuse(1)
    life.begin(Trigger.REFUSED, 0.0)
    life.postpone(0.0, 1.5, failures=1)
    assert life.second_try(0.5) == 1.0
    life.begin(Trigger.REFUSED, 1.5)
    life.postpone(1.5, 3.0, failures=2)
    assert life.second_try(1.5) is None
    # What came of it here does not matter when there is a token.
    life.take(token(2, 1.6))
    life.refuse(2)
    life.begin(Trigger.REFUSED, 10.0)
    life.fail(10.0, "timeout", 1.0)
    assert life.second_try(10.0) == 1.0


def test_what_was_not_tried_is_no_failure_and_costs_nothing() -> None:
    life = fresh()
    for _ in range(3 * BURST):
        life.begin(Trigger.EARLY, HOUR / 2)
        life.postpone(HOUR / 2, 0.0)

    assert life.due(HOUR / 2) is Trigger.EARLY
    assert life.failures == 0
    life.postpone(HOUR / 2, 3.0)
    assert life.due(HOUR / 2) is None
    assert life.wait(HOUR / 2) == 3.0


def test_a_token_that_nslb_brought_is_told_apart() -> None:
    life = fresh()
    life.take(token(2, 5.0), in_band=True)
    assert life.state(5.0) is State.RENEWED
    life.take(token(3, 6.0))
    assert life.state(6.0) is State.FRESH


def test_what_nslb_sends_is_taken_from_an_answer_to_the_present_token_alone() -> None:
    life = fresh()

    assert life.renewed(Secret("next"), 0, 5.0, 6.0) is None
    assert life.renewed(Secret("next"), 2, 5.0, 6.0) is None
    assert life.renewed(Secret("t1"), 1, 5.0, 6.0) is None
    assert life.renewed(Secret("next"), 1, 5.0, 6.0) == Token(Secret("next"), 2, 6.0, 5.0 + HOUR)
    assert Lifecycle(HOUR, renews=True).renewed(Secret("next"), 0, 5.0, 6.0) is None


@given(st.integers(1, 2**52), st.floats(0, 4e9), st.floats(0, 4e9))
def test_what_nslb_sent_is_never_newer_than_what_was_applied_for_since(first: int, here: float, there: float) -> None:
    """Whatever the clocks of two replicas say."""
    life = Lifecycle(HOUR, renews=True)
    life.take(token(first, here))

    late = life.renewed(Secret("late"), first, here, here + 10.0)

    assert late is not None
    assert first < late.generation < next_generation(first, there)


def test_a_token_that_cannot_be_renewed_is_tried_again_only_for_a_request_or_after_a_reload() -> None:
    life = Lifecycle(HOUR, renews=False)
    life.take(token(1, 0.0, lasts=None))
    assert life.usable(1e9) is not None
    assert life.next(1e9) is None
    life.refuse(1)
    assert life.next(0.0) is None
    for _ in range(5 * BURST):
        assert life.due(0.0) is Trigger.REFUSED
        life.begin(Trigger.REFUSED, 0.0)
        life.fail(0.0, "unchanged", 0.0)
    assert life.usable(0.0) is None
    life.hurry()
    assert life.usable(0.0) is not None


def test_hurrying_lets_the_next_try_come_at_once_but_a_refused_token_stay_refused() -> None:
    life = fresh()
    life.refuse(1)
    life.begin(Trigger.REFUSED, 0.0)
    life.fail(0.0, "refused", 60.0)
    assert life.due(1.0) is None

    life.hurry()

    assert life.due(1.0) is Trigger.REFUSED
    assert life.usable(1.0) is None


def test_a_clock_that_is_set_back_puts_nothing_off() -> None:
    life = fresh(1000.0)
    life.refuse(1)
    life.begin(Trigger.REFUSED, 1000.0)
    life.fail(1000.0, "timeout", 4.0)
    assert life.wait(1000.0) == 4.0

    assert life.wait(100.0) == 4.0
    assert life.wait(103.0) == 1.0
    assert life.due(104.0) is Trigger.REFUSED


@pytest.mark.parametrize("failures", [1, 2, 3, 4, 5, 6, 7, 50, 100_000])
def test_the_backoff_grows_is_capped_and_scattered(failures: int) -> None:
    random.seed(failures)
    waits = [backoff(failures) for _ in range(2000)]

    longest = min(60.0, 2.0 ** min(failures, 6))
    assert 1.0 <= min(waits) < 1.0 + longest / 10
    assert 0.9 * longest < max(waits) <= max(1.0, longest)
    assert len({round(wait, 6) for wait in waits}) > 900


def test_tokens_that_are_refused_at_once_are_obtained_so_often_and_no_oftener() -> None:
    life = Lifecycle(HOUR, renews=True)
    begun = []
    for step in range(1000):
        now = step * 0.05
        life.refuse(life.generation)
        trigger = life.due(now)
        if trigger is not None:
            begun.append(now)
            life.begin(trigger, now)
            life.take(token(life.generation + 1, now))
            life.succeed(now)

    assert begun[BURST - 1] < 1.0
    assert len(begun) == pytest.approx(BURST + 50.0 / REFILL_SECONDS, abs=1)
    assert life.wait(50.0) <= REFILL_SECONDS


@given(st.lists(st.tuples(st.floats(0.0, 0.4), st.booleans(), st.booleans()), max_size=400))
def test_however_refreshes_end_there_are_only_so_many(steps: list[tuple[float, bool, bool]]) -> None:
    """The bound that the README documents, over every stretch of time."""
    life = Lifecycle(HOUR, renews=True)
    now, generation = 0.0, 0
    begun: list[float] = []
    for seconds, succeeds, refuses in steps:
        now += seconds
        if refuses:
            life.refuse(life.generation)
        trigger = life.due(now)
        if trigger is None:
            continue
        begun.append(now)
        life.begin(trigger, now)
        if succeeds:
            generation += 1
            life.take(token(generation, now))
            life.succeed(now)
        else:
            life.fail(now, "timeout", backoff(life.failures + 1))

    for first, start in enumerate(begun):
        for last in range(first, len(begun)):
            allowed = BURST + (begun[last] - start) / REFILL_SECONDS
            assert last - first + 1 <= allowed + 1e-6


@given(st.integers(0, 2**53), st.floats(0, 4e9))
def test_the_next_generation_is_greater_than_any_before(after: int, now: float) -> None:
    following = next_generation(after, now)

    assert following > after
    assert following >= int(now * 1000)
