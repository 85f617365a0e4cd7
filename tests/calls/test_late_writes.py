"""The store answers late, never, or with less than there was: nothing is taken for nobody, and nothing for free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.http import dial
from gateway.http.body import DialRequest
from gateway.idempotency import Begun
from gateway.model import Medium
from gateway.problems import ACCOUNT_BUSY, STORE_UNAVAILABLE, Problem
from gateway.store.ledger import Ledger
from tests.calls.clockwork import LIMIT_SECONDS, MOST_CALL_SECONDS, Order, World
from tests.calls.test_following import ONE, TWO, dialled

ALONE = "line:line-of-alone"
SHARED = "line-of-shared"


@pytest.fixture
def world() -> Iterator[World]:
    made = World(2)
    yield made
    made.close()


def dialling(world: World, number: int, identifier: str, account: str) -> object:
    exchange = world.replicas[number].exchange(world.record(identifier))
    return world.begin(dial._create(exchange, DialRequest(Medium.VOICE, account), identifier))


def until(world: World, what: str) -> Order:
    """Carry out everything before that order."""
    while not (found := [order for order in world.orders if what in order.what]):
        world.obey(world.orders[0], "done")
    return found[0]


def test_an_account_is_not_taken_by_a_write_that_comes_late(world: World) -> None:
    dialling(world, 0, ONE, "alone")
    write = until(world, f"store write {ALONE}")
    world.obey(write, "refused")
    world.finish(world.replicas[0].catch_up())

    write.perform()

    assert write.result == 0
    dialled(world, 1, TWO, "alone")
    assert [ringing.request for ringing in world.rung] == [TWO]


def test_a_key_that_is_written_late_is_free(world: World) -> None:
    """Its caller was told that nothing was sent, and that trying again is safe."""
    keys = world.replicas[0].keys
    first = world.begin(keys.begin("billing", "key", "asked", "first"))
    write = until(world, "store write key:")
    world.obey(write, "refused")
    assert isinstance(failed := first.exception(), Problem)
    assert failed.type is STORE_UNAVAILABLE
    world.finish(world.replicas[0].catch_up())

    write.perform()

    assert write.result > 0
    assert isinstance(world.finish_alone(keys.begin("billing", "key", "asked", "second")), Begun)


def test_a_key_whose_request_is_under_way_is_not_free(world: World) -> None:
    keys = world.replicas[0].keys
    assert isinstance(world.finish_alone(keys.begin("billing", "key", "asked", "first")), Begun)
    with pytest.raises(Problem) as refused:
        world.finish_alone(keys.begin("billing", "key", "asked", "second"))
    assert refused.value.type.code == "idempotency-in-progress"
    with pytest.raises(Problem) as refused:
        world.finish_alone(world.replicas[1].keys.begin("billing", "key", "asked", "third"))
    assert refused.value.type.code == "idempotency-in-progress"


def test_of_two_requests_with_a_key_at_once_one_begins(world: World) -> None:
    keys = world.replicas[0].keys
    both = [world.begin(keys.begin("billing", "key", "asked", attempt)) for attempt in ("first", "second")]
    while not all(task.done() for task in both):
        world.obey(world.orders[-1], "done")

    assert sum(isinstance(task.exception(), Problem) for task in both) == 1
    assert sum(task.exception() is None and isinstance(task.result(), Begun) for task in both) == 1


def test_of_two_calls_made_while_the_store_was_away_the_later_one_is_the_current(world: World) -> None:
    dialling(world, 0, ONE, "shared")
    create = until(world, "nslb create")
    world.obey(create, "done")
    for order in [order for order in world.orders if "store write" in order.what]:
        world.obey(order, "refused")
    dialled(world, 0, TWO, "shared")

    world.wait(5.0)
    world.finish(world.replicas[0].catch_up())

    assert [ringing.request for ringing in world.rung] == [ONE, TWO]
    lines = world.replicas[1].lines
    assert world.finish_alone(lines.current(SHARED)) == TWO
    assert not world.finish_alone(lines.records.read(SHARED)).making
    world.wait(LIMIT_SECONDS)
    assert world.finish_alone(lines.current(SHARED)) == TWO


def test_an_account_whose_call_is_over_is_free_when_the_gateway_was_killed_before_it_said_so(world: World) -> None:
    dialled(world, 0, ONE, "alone")
    record = world.record(f"drop {ONE}")
    releasing = world.begin(dial.release(world.replicas[0].exchange(record, ONE)))
    until(world, f"store write dial:{ONE}")
    world.obey(until(world, f"store write dial:{ONE}"), "done")
    until(world, f"store write {ALONE}")
    world.kill(0)
    assert not releasing.done()

    with pytest.raises(Problem) as refused:
        dialled(world, 1, TWO, "alone")  # the release may still be on its way
    assert refused.value.type is ACCOUNT_BUSY
    world.wait(LIMIT_SECONDS)

    dialled(world, 1, TWO, "alone")
    assert world.loop.now < MOST_CALL_SECONDS
    assert [(ringing.request, ringing.live) for ringing in world.rung] == [(ONE, False), (TWO, True)]


def test_an_account_is_not_free_because_the_store_was_emptied(world: World) -> None:
    dialling(world, 0, ONE, "alone")
    until(world, "nslb create")
    world.ledger = Ledger()

    with pytest.raises(Problem) as refused:
        dialled(world, 0, TWO, "alone")

    assert refused.value.type is ACCOUNT_BUSY
    assert world.rung == []


def test_an_account_is_not_free_because_nobody_can_read_of_its_call(world: World) -> None:
    dialled(world, 0, ONE, "alone")
    page = world.ledger.get(ALONE, world.wall())
    assert page is not None
    world.ledger.put(ALONE, b"\x00of another key", after=page.version, seconds=1_000_000.0, now=world.wall())

    with pytest.raises(Problem) as refused:
        dialled(world, 1, TWO, "alone")
    assert refused.value.type is STORE_UNAVAILABLE

    # Longer than that no call has an account.
    world.replicas[1].lines.records.longest = MOST_CALL_SECONDS
    world.wait(MOST_CALL_SECONDS)
    dialled(world, 1, TWO, "alone")
    assert [ringing.request for ringing in world.rung] == [ONE, TWO]
