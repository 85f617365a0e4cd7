"""The same key at several gateways at once, while one of them dies or their store goes away: one call for each key."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from typing import Self

import aiohttp
import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import Answered, Farm, until
from tests.lasting import Gateways, Lasting, RedisOfKeys, gateways, lasting, until_sampled
from tests.running import Process

CALL = "order-17"
REPLICAS = 3
EACH = 20
CALLERS = 4


@pytest.fixture(params=["sqlite", "redis"])
async def store(request: pytest.FixtureRequest, farm: Farm, unused_tcp_port: int) -> AsyncIterator[Lasting]:
    async with lasting(request.param, farm.directory, unused_tcp_port) as made:
        yield made


@pytest.fixture
async def redis(farm: Farm, unused_tcp_port: int) -> AsyncIterator[RedisOfKeys]:
    async with lasting("redis", farm.directory, unused_tcp_port) as made:
        assert isinstance(made, RedisOfKeys)
        yield made


def in_progress(answer: Answered) -> bool:
    told = answer.json
    assert answer.status != 409 or answer.headers["Retry-After"] == "1"
    return (answer.status, told.get("code"), told["outcome"]) == (409, "idempotency-in-progress", "not_sent")


async def settled(made: Gateways, process: Process, key: str) -> Answered:
    """What a gateway says of a key once nobody dials with it any more."""
    async with asyncio.timeout(20):
        while in_progress(answer := await made.dial(process, key)):
            await asyncio.sleep(0.02)
    return answer


async def test_a_key_that_comes_many_times_at_once_to_three_gateways_makes_one_call(farm: Farm, store: Lasting) -> None:
    simulator = await farm.simulator()
    async with gateways(farm, simulator, store.url, REPLICAS) as made:
        answers = await asyncio.gather(*(made.dial(process, CALL) for _ in range(EACH) for process in made.running))

        assert len(simulator.creates()) == simulator.rings == 1
        accepted = [answer for answer in answers if answer.status == 201]
        assert all(in_progress(answer) for answer in answers if answer not in accepted)
        assert len({(answer.body, answer.headers["Location"]) for answer in accepted}) == 1
        assert ["Idempotency-Replayed" in answer.headers for answer in accepted].count(False) == 1
        for process in made.running:
            later = await made.dial(process, CALL)
            assert (later.status, later.body) == (201, accepted[0].body)
        assert len(simulator.creates()) == simulator.rings == 1


async def test_a_gateway_that_others_cannot_see_takes_no_key(farm: Farm, redis: RedisOfKeys) -> None:
    simulator = await farm.simulator()
    async with gateways(farm, simulator, redis.url, 1) as made:
        (process,) = made.running
        async with redis.server.client() as client:
            await client.acl_setuser("default", enabled=True, commands=["-subscribe"])
            await client.client_kill_filter(_type="pubsub")
            # Its store answers, but nobody would know that it runs. It is a moment before it knows.
            async with asyncio.timeout(20):
                while (refused := await made.dial(process, secrets.token_hex(8))).status == 201:
                    pass
            assert (refused.status, refused.json["code"]) == (503, "store-unavailable")
            creates = len(simulator.creates())
            again = await made.dial(process, "another")
            assert (again.status, again.json["outcome"], len(simulator.creates())) == (503, "not_sent", creates)
            assert (await made.dial(process, None)).status == 201
            await client.acl_setuser("default", enabled=True, commands=["+subscribe"])
        async with asyncio.timeout(20):
            while (await made.dial(process, "later")).status != 201:
                await asyncio.sleep(0.05)
        assert simulator.rings == len(simulator.creates())


async def test_what_runs_here_is_not_forgotten_with_the_store(farm: Farm, redis: RedisOfKeys) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("delay", "create", seconds=1.0))
    async with gateways(farm, simulator, redis.url, 1) as made:
        (process,) = made.running
        first = asyncio.create_task(made.dial(process, CALL))
        await until(simulator.creates)
        await redis.server.flush()

        assert in_progress(await made.dial(process, CALL))
        other = await made.request(process, "POST", "/dial", {"Idempotency-Key": CALL}, json={"media": "video"})
        assert (other.status, other.json["code"]) == (422, "idempotency-key-reused")
        accepted = await first
        again = await made.dial(process, CALL)

        assert (accepted.status, again.status, again.body) == (201, 201, accepted.body)
        assert len(simulator.creates()) == simulator.rings == 1


async def test_many_keys_at_once_wait_for_redis_and_none_takes_it_for_gone(farm: Farm, redis: RedisOfKeys) -> None:
    simulator = await farm.simulator()
    async with gateways(farm, simulator, redis.url, 1) as made:
        (process,) = made.running
        answers = await asyncio.gather(*(made.dial(process, f"key-{number}") for number in range(150)))

        assert {(answer.status, answer.json.get("code")) for answer in answers} == {(201, None)}
        assert len(simulator.creates()) == simulator.rings == 150
        assert (await made.status(process))["store"]["available"] is True


@pytest.mark.parametrize("whose", ["the one that dials", "another one"])
async def test_a_gateway_that_is_killed_among_them_makes_no_second_call(farm: Farm, store: Lasting, whose: str) -> None:
    simulator = await farm.simulator()
    # The one that dials is killed before it has an answer, however long that takes.
    simulator.fault(Fault("delay", "create", seconds=60.0 if whose == "the one that dials" else 0.5))
    async with gateways(farm, simulator, store.url, REPLICAS) as made:
        callers = {
            asyncio.create_task(made.dial(process, CALL, f"gateway-{number}"))
            for number, process in enumerate(made.running)
            for _ in range(EACH)
        }
        await until(simulator.creates)
        dialling = int(simulator.creates()[0].fields("x-request-id")[0].removeprefix("gateway-"))
        victim = dialling if whose == "the one that dials" else (dialling + 1) % REPLICAS
        await made.kill(made.running[victim])
        done = await asyncio.gather(*callers, return_exceptions=True)

        answers = [answer for answer in done if isinstance(answer, Answered)]
        assert all(isinstance(answer, Answered | aiohttp.ClientError) for answer in done)
        assert {answer.status for answer in answers} <= {201, 409, 504}
        later = [await settled(made, process, CALL) for process in made.running]
        if whose == "the one that dials":
            assert {(answer.status, answer.json["code"]) for answer in later} == {(504, "outcome-unknown")}
            assert all(answer.status != 201 for answer in answers)
        else:
            assert [answer.status for answer in later] == [201, 201]
            told = {answer.body for answer in [*answers, *later] if answer.status == 201}
            assert len(told) == 1
            assert all(answer.status != 504 for answer in answers)
        assert len(simulator.creates()) == simulator.rings == 1


class Load:
    """Callers that dial with one key after the other, each key at all gateways at a time, until it is accepted."""

    def __init__(self, made: Gateways) -> None:
        self.made = made
        self.going = True
        self.answers: dict[str, list[Answered]] = {}
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        self._callers = [asyncio.create_task(self._call()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.going = False
        await asyncio.gather(*self._callers)

    async def _call(self) -> None:
        while self.going:
            key = f"key-{next(self._numbers)}"
            self.answers[key] = []
            await asyncio.gather(*(self._until_accepted(key, process) for process in self.made.running))

    async def _until_accepted(self, key: str, process: Process) -> None:
        async with asyncio.timeout(30):
            while True:
                answer = await self.made.dial(process, key, key)
                self.answers[key].append(answer)
                if answer.status == 201:
                    return
                await asyncio.sleep(0.05)

    def all(self) -> list[Answered]:
        return [answer for answers in self.answers.values() for answer in answers]


def creates_by_key(simulator: Simulator) -> Counter[str]:
    return Counter(create.fields("x-request-id")[0] for create in simulator.creates())


@pytest.mark.parametrize("what", ["stopped", "paused"])
async def test_whatever_becomes_of_redis_each_key_makes_one_call(farm: Farm, redis: RedisOfKeys, what: str) -> None:
    simulator = await farm.simulator()
    async with gateways(farm, simulator, redis.url, 2) as made:
        async with Load(made) as load:
            await until(lambda: len(load.all()) >= 40)
            if what == "paused":
                redis.server.pause()
                await while_it_is_away(made)
                redis.server.resume()
            else:
                redis.server.stop()
                await while_it_is_away(made)
                await redis.server.start()
            count = len(load.answers)
            await until(lambda: len(load.answers) >= count + 20, turns=4000)

        counts = creates_by_key(simulator)
        assert {key: counts[key] for key in load.answers} == dict.fromkeys(load.answers, 1)
        for answers in load.answers.values():
            assert len({answer.body for answer in answers if answer.status == 201}) == 1
        # No gateway has died, so nobody is told that its call may have been interrupted.
        assert {(answer.status, answer.json.get("code")) for answer in load.all()} <= {
            (201, None),
            (409, "idempotency-in-progress"),
            (503, "store-unavailable"),
        }


async def while_it_is_away(made: Gateways) -> None:
    """A request with a key is refused, and one without goes on."""
    with_key, without = (
        [made.dial(process, key, name) for process in made.running]
        for key, name in (("away", "with-a-key"), (None, "without"))
    )
    refused, others = await asyncio.gather(asyncio.gather(*with_key), asyncio.gather(*without))
    for answer in refused:
        told = answer.json
        assert (answer.status, told["code"], told["outcome"]) == (503, "store-unavailable", "not_sent")
        assert answer.headers["Retry-After"] == "1"
    assert {answer.status for answer in others} == {201}
    for process in made.running:
        await until_sampled(made, process, 'gateway_store_operations_total{operation="listen",result="unavailable"}')
    counts = creates_by_key(made.simulator)
    assert (counts["with-a-key"], counts["without"]) == (0, len(made.running))
