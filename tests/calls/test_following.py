"""Polls and the calls that they are for, in a world where each answer waits for an order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.calls import Bell, Call
from gateway.http import dial
from gateway.http.body import DialRequest
from gateway.model import CallStatus, Medium
from gateway.upstream import NotSent
from tests.calls.clockwork import Order, World

LINE = "line-of-shared"


@pytest.fixture
def world() -> Iterator[World]:
    made = World(2)
    yield made
    made.close()


def dialled(world: World, number: int, identifier: str) -> None:
    exchange = world.replicas[number].exchange(world.record(identifier))
    world.finish_alone(dial._create(exchange, DialRequest(Medium.VOICE, "shared"), identifier))


def polled(world: World, number: int, identifier: str) -> tuple[Call, Order]:
    """A call that a replica follows, and its poll, which NSLB has not answered."""
    replica = world.replicas[number]
    call = world.finish(replica.calls.find(identifier, "billing"))

    async def read() -> None:
        bell = Bell()
        with replica.followings.follow(call, replica.accounts["shared"], bell) as following:
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
