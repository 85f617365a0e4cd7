"""Polls and the calls that they are for, in a world where each answer waits for an order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.calls import Bell, Call
from gateway.http import dial
from gateway.http.answers import Answer
from gateway.http.body import DialRequest
from gateway.model import CallStatus, Medium
from gateway.problems import ACCOUNT_BUSY, Problem
from gateway.upstream import NotSent
from tests.calls.clockwork import LIMIT_SECONDS, Order, World

LINE = "line-of-shared"


@pytest.fixture
def world() -> Iterator[World]:
    made = World(2)
    yield made
    made.close()


def dialled(world: World, number: int, identifier: str, account: str = "shared") -> None:
    exchange = world.replicas[number].exchange(world.record(identifier))
    world.finish_alone(dial._create(exchange, DialRequest(Medium.VOICE, account), identifier))


def polled(world: World, number: int, identifier: str, account: str = "shared") -> tuple[Call, Order]:
    """A call that a replica follows, and its poll, which NSLB has not answered."""
    replica = world.replicas[number]
    call = world.finish(replica.calls.find(identifier, "billing"))

    async def read() -> None:
        bell = Bell()
        with replica.followings.follow(call, replica.accounts[account], bell) as following:
            while not call.over and not following.superseded:
                await bell.wait()

    world.errand(read())
    while not (polls := [order for order in world.orders if "nslb events" in order.what]):
        world.obey(world.orders[0], "done")
    return call, polls[0]


def events(world: World, identifier: str) -> list[CallStatus]:
    return [
        happening.status
        for replica in world.replicas
        for call in (world.finish_alone(replica.calls.find(identifier, "billing")),)
        for happening in call.happenings
    ]


ONE, TWO = "1" * 22, "2" * 22


@pytest.mark.parametrize("of", [ONE, TWO])
def test_a_late_event_of_one_of_two_calls_is_told_of_neither(world: World, of: str) -> None:
    """The poll was open when another replica made a call: NSLB can have meant either."""
    dialled(world, 0, ONE)
    call, poll = polled(world, 0, ONE)
    if of == ONE:
        world.happen(LINE, CallStatus.ENDED)
        poll.perform()
    dialled(world, 1, TWO)
    if of == TWO:
        world.happen(LINE, CallStatus.ENDED)

    world.obey(poll, "done")
    world.finish(world.replicas[0].catch_up())

    assert events(world, ONE) == events(world, TWO) == []
    assert not call.over
    assert not world.finish_alone(world.replicas[1].calls.find(TWO, "billing")).over


def test_a_poll_is_ended_here_before_another_call_is_asked_for(world: World) -> None:
    dialled(world, 0, ONE)
    _, poll = polled(world, 0, ONE)

    exchange = world.replicas[0].exchange(world.record(TWO))
    dialling = world.begin(dial._create(exchange, DialRequest(Medium.VOICE, "shared"), TWO))

    assert poll.future.cancelled()
    assert not any("nslb" in order.what for order in world.orders)
    assert not dialling.done()


def test_a_poll_goes_on_after_a_call_that_was_not_made(world: World) -> None:
    dialled(world, 0, ONE)
    call, _ = polled(world, 0, ONE)
    exchange = world.replicas[0].exchange(world.record(TWO))
    dialling = world.begin(dial._create(exchange, DialRequest(Medium.VOICE, "shared"), TWO))
    while not (asked := [order for order in world.orders if "nslb create" in order.what]):
        world.obey(world.orders[0], "done")

    world.obey(asked[0], "refused")
    world.happen(LINE, CallStatus.CONNECTED)
    for _ in range(20):
        for order in world.orders[:1]:
            world.obey(order, "done")

    assert call.status is CallStatus.CONNECTED
    assert isinstance(dialling.exception(), NotSent)


# --- what is told is written


def written(world: World, identifier: str) -> Order:
    """The write of a call that the store has not answered."""
    (order,) = (order for order in world.orders if order.what == f"store write dial:{identifier}")
    return order


def until_written(world: World, identifier: str) -> Order:
    while not any(order.what == f"store write dial:{identifier}" for order in world.orders):
        world.obey(world.orders[0], "done")
    return written(world, identifier)


def connected(world: World) -> tuple[Call, Order]:
    """A call that NSLB says is connected; the store has not been able to say that it knows."""
    dialled(world, 0, ONE)
    call, poll = polled(world, 0, ONE)
    world.happen(LINE, CallStatus.CONNECTED)
    world.obey(poll, "done")
    return call, until_written(world, ONE)


def test_an_event_is_told_when_the_store_has_it(world: World) -> None:
    """A gateway that is killed before would number the next one like it, and whoever was told of it miss that one."""
    call, write = connected(world)
    assert call.last == 0

    world.obey(write, "done")

    assert (call.last, call.status) == (1, CallStatus.CONNECTED)
    assert events(world, ONE) == [CallStatus.CONNECTED] * 2


@pytest.mark.parametrize("how", ["lost", "refused"])
def test_an_event_that_the_store_can_not_take_is_told_and_written_later_once(world: World, how: str) -> None:
    call, write = connected(world)

    world.obey(write, how)

    assert call.last == 1
    world.wait(10.0)
    world.finish(world.replicas[0].catch_up())
    assert events(world, ONE) == [CallStatus.CONNECTED] * 2


def test_an_event_is_noted_once_when_another_replica_was_faster(world: World) -> None:
    call, write = connected(world)
    other = world.replicas[1]
    found = world.finish_alone(other.calls.find(ONE, "billing"))
    world.finish_alone(other.calls.change(found, lambda known: setattr(known, "told", 0)))

    world.obey(write, "done")
    assert call.last == 0
    world.obey(until_written(world, ONE), "done")

    assert events(world, ONE) == [CallStatus.CONNECTED] * 2


def test_an_event_is_not_lost_when_its_last_reader_leaves_before_it_is_written(world: World) -> None:
    dialled(world, 0, ONE)
    call, poll = polled(world, 0, ONE)
    world.happen(LINE, CallStatus.CONNECTED)
    world.obey(poll, "done")

    closing = world.begin(world.replicas[0].followings.close())
    while not closing.done():
        world.obey(world.orders[0], "done")

    assert call.last == 1
    world.finish(world.replicas[0].catch_up())
    assert events(world, ONE) == [CallStatus.CONNECTED] * 2


# --- a release, and what may not be done meanwhile


def released(world: World, number: int, identifier: str) -> tuple[asyncio.Task[Answer], Order]:
    """A release that NSLB has carried out, and not answered."""
    record = world.record(f"drop {identifier}")
    task = world.begin(dial.release(world.replicas[number].exchange(record, identifier)))
    while not (drops := [order for order in world.orders if "nslb drop" in order.what]):
        world.obey(world.orders[-1], "done")
    drops[0].perform()
    return task, drops[0]


@pytest.mark.parametrize("number", [0, 1])
def test_no_call_is_asked_for_before_a_release_is_answered(world: World, number: int) -> None:
    """Here or at another gateway: what was sent may arrive late, and end the wrong one."""
    dialled(world, 0, ONE)
    releasing, drop = released(world, 0, ONE)

    exchange = world.replicas[number].exchange(world.record(TWO))
    dialling = world.begin(dial._create(exchange, DialRequest(Medium.VOICE, "shared"), TWO))
    for _ in range(20):
        for order in [order for order in world.orders if order is not drop]:
            world.obey(order, "done")
        world.wait(0.1)
    assert not dialling.done()
    assert [ringing.request for ringing in world.rung] == [ONE]

    world.obey(drop, "done")
    assert world.finish(wait_for(releasing)).status == 200
    assert world.finish(wait_for(dialling)).status == 201
    assert [(ringing.request, ringing.live) for ringing in world.rung] == [(ONE, False), (TWO, True)]


def test_the_line_of_a_call_is_free_when_nobody_polls_for_it_any_more(world: World) -> None:
    dialled(world, 0, ONE, "alone")
    _, poll = polled(world, 0, ONE, "alone")
    _, drop = released(world, 0, ONE)

    world.obey(drop, "done")
    while not (freeing := [order for order in world.orders if order.what == "store write line:line-of-alone"]):
        world.obey(next(order for order in world.orders if order is not poll), "done")

    assert freeing
    assert poll.future.cancelled()


async def wait_for(task: asyncio.Task[Answer]) -> Answer:
    return await task


def test_calls_that_are_asked_for_at_once_do_not_race_for_their_line(world: World) -> None:
    """Each would have to read and write again for each of the others."""
    replica = world.replicas[0]
    dialling = []
    for number in range(20):
        identifier = f"{number:022d}"
        exchange = replica.exchange(world.record(identifier))
        dialling.append(world.begin(dial._create(exchange, DialRequest(Medium.VOICE, "shared"), identifier)))
    asked = 0
    while not all(task.done() for task in dialling):
        of_the_line = [order for order in world.orders if LINE in order.what]
        assert len(of_the_line) <= 1
        asked += len(of_the_line)
        for order in list(world.orders):
            world.obey(order, "done")

    assert len(world.rung) == 20
    assert asked <= 10


def test_a_call_does_not_wait_long_for_a_release_of_a_gateway_that_is_gone(world: World) -> None:
    dialled(world, 0, ONE)
    released(world, 0, ONE)
    world.kill(0)

    dialled(world, 1, TWO)

    # Not before the release must have arrived.
    assert 5.0 <= world.loop.now < LIMIT_SECONDS / 2
    assert [ringing.request for ringing in world.rung] == [ONE, TWO]


def test_a_call_waits_not_long_for_a_release_that_takes_its_time(world: World) -> None:
    dialled(world, 0, ONE)
    released(world, 0, ONE)

    with pytest.raises(Problem) as refused:
        dialled(world, 1, TWO)

    assert refused.value.type is ACCOUNT_BUSY
    assert world.loop.now < LIMIT_SECONDS / 2
    assert [ringing.request for ringing in world.rung] == [ONE]


@pytest.mark.parametrize("performed", [True, False])
def test_a_call_that_was_made_after_a_gateway_died_is_not_lost(world: World, performed: bool) -> None:
    """What that one was asking for may have been made, but not after this one."""
    exchange = world.replicas[0].exchange(world.record(ONE))
    lost = world.begin(dial._create(exchange, DialRequest(Medium.VOICE, "shared"), ONE))
    while not (asked := [order for order in world.orders if "nslb create" in order.what]):
        world.obey(world.orders[0], "done")
    if performed:
        asked[0].perform()
    world.kill(0)
    world.wait(6.0)

    dialled(world, 1, TWO)
    task, drop = released(world, 1, TWO)
    world.obey(drop, "done")

    assert world.finish(wait_for(task)).status == 200
    assert not lost.done()
    assert world.loop.now < LIMIT_SECONDS / 2
    assert [ringing.live for ringing in world.rung if ringing.request == TWO] == [False]
    assert all(ringing.live for ringing in world.rung if ringing.request == ONE)


def test_an_account_is_free_again_when_whoever_took_it_left_before_its_call_was_asked_for(world: World) -> None:
    exchange = world.replicas[0].exchange(world.record(ONE))
    dialling = world.begin(dial._create(exchange, DialRequest(Medium.VOICE, "alone"), ONE))
    while "store write line:line-of-alone" not in [order.what for order in world.orders]:
        world.obey(world.orders[0], "done")
    world.obey(world.orders[0], "performed")

    dialling.cancel()
    world.turn()
    world.finish(world.replicas[0].catch_up())

    assert dialling.cancelled()
    dialled(world, 1, TWO, "alone")
    assert [ringing.request for ringing in world.rung] == [TWO]
