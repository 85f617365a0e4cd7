"""Polls without a number, in a world where each answer of the store waits for an order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.http import events
from gateway.http.answers import Answer
from gateway.model import CallEvent, CallStatus
from tests.calls.clockwork import World
from tests.calls.test_following import ONE, dialled

WRITE = f"store write dial:{ONE}"


@dataclass
class Caller:
    """The connection of a caller, and a request on it."""

    left: bool = False

    @property
    def protocol(self) -> Caller:
        return self

    @property
    def headers(self) -> CIMultiDict[str]:
        return CIMultiDict()

    def watch(self, gone: Callable[[], None] | None) -> None:
        """It leaves unheard."""


@pytest.fixture
def world() -> Iterator[World]:
    """A call that is known to be connected."""
    made = World(2)
    dialled(made, 0, ONE)
    calls = made.replicas[0].calls
    call = made.finish_alone(calls.find(ONE, "billing"))
    connected = CallEvent(CallStatus.CONNECTED, 1, "connected", {})
    made.finish_alone(calls.change(call, lambda known: known.happened(connected)))
    yield made
    made.close()


def polling(world: World, number: int, caller: Caller) -> asyncio.Task[Answer]:
    """A poll, as far as it goes when the store can be read and not be written."""
    request: Any = caller
    exchange = replace(world.replicas[number].exchange(world.record("poll"), ONE), request=request)
    task = world.begin(events.events(exchange))
    while reads := [order for order in world.orders if order.what.startswith("store get dial:")]:
        world.obey(reads[0], "done")
    return task


def number_of(answer: Answer) -> bytes:
    """The number of the event that is in it."""
    return answer._data.partition(b"Last-Event-ID: ")[2].partition(b"\r\n")[0]


def test_a_poll_without_a_number_is_answered_while_the_store_is_slow_and_tells_an_event_once(world: World) -> None:
    """Its caller would give up, and the event be taken for told."""
    poll = polling(world, 0, Caller())
    assert not poll.done()
    (write,) = (order for order in world.orders if order.what == WRITE)

    world.wait(0.5)

    assert (poll.result().status, number_of(poll.result())) == (200, b"1")
    assert not polling(world, 0, Caller()).done()
    world.obey(write, "done")
    assert not polling(world, 1, Caller()).done()


def test_an_event_is_not_taken_for_told_when_its_caller_has_left(world: World) -> None:
    gone = polling(world, 0, Caller(left=True))
    assert gone.result().status == 204
    assert world.orders == []

    poll = polling(world, 1, Caller())
    (write,) = (order for order in world.orders if order.what == WRITE)
    world.obey(write, "done")

    assert (poll.result().status, number_of(poll.result())) == (200, b"1")
