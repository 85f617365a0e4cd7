"""Two replicas that poll while the store is away: what either was told becomes one history when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.calls import Bell, Call
from gateway.model import CallStatus
from gateway.problems import INTERNAL, Problem
from tests.calls.clockwork import Order, World
from tests.calls.test_following import ONE, dialled


class Replicated:
    """A reader of the call at a replica: what it has heard, by number, as a stream tells it."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.replica = world.replicas[number]
        self.call: Call = world.finish_alone(self.replica.calls.find(ONE, "billing"))
        self.heard: list[tuple[int, CallStatus]] = []
        self.reading: asyncio.Task[None] = world.begin(self._read())

    async def _read(self) -> None:
        bell, number = Bell(), 0
        with self.replica.followings.follow(self.call, self.replica.accounts["shared"], bell):
            while True:
                while (happening := self.call.after(number)) is not None:
                    number = happening.number
                    self.heard.append((number, happening.status))
                if self.call.over:
                    return
                await bell.wait()

    def poll(self) -> None:
        """Go on until it polls; the store can't say that another one does."""
        while not any("nslb" in order.what for order in self.orders):
            order = self.orders[0]
            self.world.obey(order, "refused" if "poll:" in order.what else "done")

    @property
    def orders(self) -> list[Order]:
        return [order for order in self.world.orders if order.replica is self.replica]

    def told(self, status: CallStatus) -> None:
        """NSLB tells it of an event, which the store can't take."""
        (poll,) = (order for order in self.orders if "nslb" in order.what)
        self.world.happen("line-of-shared", status)
        self.world.obey(poll, "done")
        while not self.heard or self.heard[-1][1] is not status:
            self.world.obey(self.orders[0], "refused")


@pytest.fixture
def world() -> Iterator[World]:
    made = World(2)
    dialled(made, 0, ONE)
    yield made
    made.close()


@pytest.mark.parametrize("first", [0, 1])
def test_who_was_told_of_one_event_by_one_replica_hears_of_the_end_that_another_was_told(
    world: World, first: int
) -> None:
    one, other = Replicated(world, 0), Replicated(world, 1)
    one.poll()
    other.poll()
    one.told(CallStatus.CONNECTED)
    other.told(CallStatus.ENDED)
    assert (one.heard, other.heard) == ([(1, CallStatus.CONNECTED)], [(1, CallStatus.ENDED)])
    world.wait(5.0)

    for number in (first, 1 - first):
        world.finish(world.replicas[number].catch_up())
    for replica in world.replicas:
        replica.followings.vault.tell_all()
    world.wait(5.0)
    while not one.reading.done():
        world.obey(world.orders[0], "done")

    assert one.heard == [(1, CallStatus.CONNECTED), (2, CallStatus.ENDED)]
    assert other.heard == [(1, CallStatus.ENDED)]
    known = [world.finish(replica.calls.find(ONE, "billing")).happenings for replica in world.replicas]
    assert known[0] == known[1]
    assert [(entry.number, entry.status) for entry in known[0]] == one.heard


# --- what can't be read


def test_a_record_that_can_not_be_read_is_looked_at_now_and_then_until_it_can_be(world: World) -> None:
    replica = world.replicas[0]
    vault = replica.followings.vault
    call: Call = world.finish(replica.calls.find(ONE, "billing"))
    failures = []

    async def read() -> None:
        bell = Bell()
        with replica.followings.follow(call, replica.accounts["shared"], bell) as following:
            while not call.happenings:
                failures.append(following.failure)
                following.poll()  # as a stream does
                await bell.wait()

    async def spoil(content: bytes) -> None:
        kept = await vault.record("line:line-of-shared")
        assert kept is not None
        assert await vault.write("line:line-of-shared", content, after=kept.version, seconds=1000.0)
        good.append(kept.content or b"")

    def faults() -> int:
        return b"".join(replica.lines_of_log).count(b'"internal.fault"')

    good: list[bytes] = []
    world.finish(spoil(b"no line"))
    reading = world.begin(read())
    world.finish(asyncio.sleep(10.0))

    assert 5 <= faults() <= 10
    assert isinstance(failures[-1], Problem)
    assert failures[-1].type is INTERNAL
    assert not reading.done()

    world.finish(spoil(good[0]))
    world.happen("line-of-shared", CallStatus.CONNECTED)
    world.finish(asyncio.sleep(3.0))

    assert reading.done()
    assert call.status is CallStatus.CONNECTED
    assert faults() <= 11
