"""Turns that are over, in a world where each answer of the store waits for an order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.calls import Bell, Call
from gateway.calls.turns import Turn
from gateway.http import dial
from tests.calls.clockwork import World
from tests.calls.test_following import ONE, dialled

POLL, RELEASE = f"poll:{ONE}", f"release:{ONE}"


@pytest.fixture
def world() -> Iterator[World]:
    made = World(2)
    dialled(made, 0, ONE)
    yield made
    made.close()


def kept(world: World, key: str) -> bool:
    """Whether the store has that turn."""
    return world.ledger.get(key, world.wall()) is not None


def reading(world: World, number: int) -> asyncio.Task[None]:
    """A reader of the call at a replica."""
    replica = world.replicas[number]
    call: Call = world.finish_alone(replica.calls.find(ONE, "billing"))

    async def read() -> None:
        bell = Bell()
        with replica.followings.follow(call, replica.accounts["shared"], bell):
            while True:
                await bell.wait()

    return world.begin(read())


def until_asked(world: World, what: str) -> None:
    while not any(order.what == what for order in world.orders):
        world.obey(world.orders[0], "done")


def obey(world: World, what: str, how: str) -> None:
    (order,) = (order for order in world.orders if order.what == what)
    world.obey(order, how)


def left(world: World, reader: asyncio.Task[None]) -> None:
    """The last reader leaves, and the poll ends a moment later."""
    reader.cancel()
    world.turn()
    world.wait(1.0)


@pytest.mark.parametrize("how", ["lost", "refused"])
def test_a_poll_that_ended_while_the_store_was_away_keeps_no_other_replica_waiting(world: World, how: str) -> None:
    reader = reading(world, 0)
    until_asked(world, "nslb events shared")
    left(world, reader)
    assert kept(world, POLL)

    obey(world, f"store erase {POLL}", how)
    world.finish(world.replicas[0].catch_up())

    assert not kept(world, POLL)
    assert not world.replicas[0].followings.behind
    assert not reading(world, 1).done()
    until_asked(world, "nslb events shared")
    assert [order.replica for order in world.orders] == [world.replicas[1]]
    assert world.loop.now < 2.0


@pytest.mark.parametrize("how", ["lost", "performed"])
def test_a_turn_that_was_taken_without_an_answer_is_given_up(world: World, how: str) -> None:
    """The store may have it: nobody who is told nothing knows."""
    reader = reading(world, 0)
    until_asked(world, f"store write {POLL}")
    obey(world, f"store write {POLL}", how)
    left(world, reader)
    assert kept(world, POLL)

    world.finish(world.replicas[0].catch_up())

    assert not kept(world, POLL)


def test_a_release_that_ended_while_the_store_was_away_keeps_no_other_replica_waiting(world: World) -> None:
    releasing = world.begin(dial.release(world.replicas[0].exchange(world.record("drop"), ONE)))
    until_asked(world, f"store erase {RELEASE}")
    assert kept(world, RELEASE)

    obey(world, f"store erase {RELEASE}", "refused")
    assert releasing.result().status == 200
    world.finish(world.replicas[0].catch_up())

    assert not kept(world, RELEASE)


def test_a_turn_that_is_taken_here_again_is_not_given_up_by_the_one_before(world: World) -> None:
    turns = world.replicas[0].followings.turns
    former, later = Turn(turns, POLL, 100.0), Turn(turns, POLL, 100.0)
    taking = world.begin(former.take())
    obey(world, f"store write {POLL}", "lost")
    assert taking.result()
    world.finish(former.end())
    assert turns.behind
    settling = world.begin(turns.settle())

    assert world.finish_alone(later.take())
    world.finish(wait_for(settling))
    world.finish(world.replicas[0].catch_up())

    assert kept(world, POLL)
    world.finish(later.end())
    assert not kept(world, POLL)


def test_a_turn_of_another_replica_is_not_given_up_by_who_lost_it(world: World) -> None:
    turns, others = (replica.followings.turns for replica in world.replicas)
    ours, theirs = Turn(turns, POLL, 100.0), Turn(others, POLL, 100.0)
    taking = world.begin(ours.take())
    obey(world, f"store write {POLL}", "refused")
    assert taking.result()
    assert world.finish(theirs.take())

    world.finish(ours.end())
    world.finish(world.replicas[0].catch_up())

    assert not turns.behind
    assert kept(world, POLL)


async def wait_for(task: asyncio.Task[None]) -> None:
    await task
