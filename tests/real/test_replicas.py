"""Several gateway processes that share one account by a real store, and never take its token from each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography.fernet import Fernet

from gateway.simulator import Fault, Simulator
from tests.harness import KEY, Farm, merge, settings, until
from tests.redis_server import RedisProcess, redis_server
from tests.running import Process

HEADERS = {"Authorization": f"Bearer {KEY}"}


class Replicas:
    """Gateways on one store, with one configuration."""

    def __init__(self, farm: Farm, simulator: Simulator, url: str, **account: Any) -> None:
        self.farm = farm
        self.simulator = simulator
        self.running: list[Process] = []
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self.keys = [farm.directory / "key-1"]
        self.keys[0].write_bytes(Fernet.generate_key())
        self.settings = settings(simulator, farm.directory / "unused")
        merge(self.settings, farm.applied(simulator, **account))
        merge(self.settings, {"store": {"url": url, "encryption_keys": [{"file": str(self.keys[0])}]}})
        self.path = farm.directory / "gateway.yaml"
        self.write()

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.settings))

    async def start(self, count: int) -> Sequence[Process]:
        """So many more, all at once."""
        started = await asyncio.gather(*(Process.serve(self.path) for _ in range(count)))
        self.running += started
        return started

    async def dial(self, process: Process) -> tuple[int, dict[str, Any]]:
        async with self.session.post(f"{process.base}/dial", json={"media": "voice"}, headers=HEADERS) as answer:
            return answer.status, await answer.json(content_type=None)

    async def dial_all(self, times: int = 1) -> list[int]:
        """So many calls at each, all at once; their statuses."""
        calls = (self.dial(process) for _ in range(times) for process in self.running)
        return [status for status, _ in await asyncio.gather(*calls)]

    async def status(self, process: Process) -> dict[str, Any]:
        async with self.session.get(f"{process.admin}/status") as answer:
            document = await answer.json()
        assert isinstance(document, dict)
        return document

    async def account(self, process: Process) -> dict[str, Any]:
        (account,) = (await self.status(process))["accounts"]
        assert isinstance(account, dict)
        return account

    async def agree(self, after: int = 0) -> int:
        """Wait until all have the same usable token, newer than that; its generation."""
        accounts: list[dict[str, Any]] = []
        for _ in range(2000):
            accounts = [await self.account(process) for process in self.running]
            generations = {account["generation"] for account in accounts}
            if all(account["usable"] for account in accounts) and len(generations) == 1 and min(generations) > after:
                return int(generations.pop())
            await asyncio.sleep(0.01)
        raise AssertionError(f"they do not agree: {accounts}")

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for process in self.running for line in process.of(event)]

    async def close(self) -> None:
        await self.session.close()
        await asyncio.gather(*(process.ended() for process in self.running))


@pytest.fixture
async def redis(farm: Farm, unused_tcp_port: int) -> AsyncIterator[RedisProcess]:
    async with redis_server(farm.directory / "redis", unused_tcp_port) as server:
        yield server


@contextlib.asynccontextmanager
async def replicas(farm: Farm, simulator: Simulator, url: str, count: int, **account: Any) -> AsyncIterator[Replicas]:
    made = Replicas(farm, simulator, url, **account)
    try:
        await made.start(count)
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def load(made: Replicas) -> AsyncIterator[list[tuple[int, dict[str, Any]]]]:
    """Calls at every replica, one after the other, all the time; what was answered."""
    answers: list[tuple[int, dict[str, Any]]] = []
    done = False

    async def call(process: Process) -> None:
        while not done:
            answers.append(await made.dial(process))
            await asyncio.sleep(0.005)

    callers = [asyncio.create_task(call(process)) for process in made.running for _ in range(2)]
    try:
        yield answers
    finally:
        done = True
        await asyncio.gather(*callers)


async def settled(made: Replicas, turns: int = 300) -> None:
    """Wait until one call at each replica is accepted; what is answered until then says that nothing was sent."""
    for _ in range(turns):
        statuses = await made.dial_all()
        if set(statuses) == {201}:
            return
        assert set(statuses) <= {201, 503}
        await asyncio.sleep(0.1)
    raise AssertionError("there is no token")


def applications(simulator: Simulator) -> int:
    return sum(request.operation == "applyToken" for request in simulator.fabric_received)


def sent(simulator: Simulator) -> list[str]:
    return [request.cookies()["ccmessaging-token"] for request in simulator.creates()]


def no_call_was_lost(answers: list[tuple[int, dict[str, Any]]], least: int = 20) -> None:
    assert len(answers) >= least
    assert [answer for answer in answers if answer[0] != 201] == []


async def test_replicas_that_start_at_once_apply_for_one_token(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator()
    async with replicas(farm, simulator, redis.url, 3) as made:
        assert set(await made.dial_all(5)) == {201}

        assert applications(simulator) == 1
        assert len(set(sent(simulator))) == 1
        assert len(made.lines("token.refreshed")) == 1
        await made.start(1)
        assert set(await made.dial_all()) == {201}
        assert applications(simulator) == 1


async def test_many_requests_meet_a_refused_token_in_all_replicas_and_one_application_serves_them(
    farm: Farm, redis: RedisProcess
) -> None:
    simulator = await farm.simulator()
    async with replicas(farm, simulator, redis.url, 3) as made:
        before = await made.agree()
        simulator.expire()

        statuses = await made.dial_all(20)

        assert set(statuses) == {201}
        assert applications(simulator) == 2
        assert simulator.rings == 60
        assert len(simulator.creates()) <= 120
        assert {line["attempts"] for line in made.lines("request.forwarded")} <= {1, 2}
        assert len(set(sent(simulator))) == 2
        await made.agree(before)
        seen = len(simulator.creates())
        assert set(await made.dial_all(5)) == {201}
        # The superseded token is never seen again.
        assert len(set(sent(simulator)[seen:])) == 1
        assert len(simulator.creates()) == seen + 15


async def test_many_requests_meet_a_token_whose_time_is_over_and_none_sends_it(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator(token_lifetime=3.0)
    async with replicas(farm, simulator, redis.url, 3, lifetime_seconds=3.0, timeout_seconds=5) as made:
        before = await made.agree()
        simulator.fault(Fault("status", "applyToken", None, status=500))
        for process in made.running:
            for _ in range(1000):
                if not (await made.account(process))["usable"]:
                    break
                await asyncio.sleep(0.01)
        former = simulator.tokens.current("gateway-sales")
        simulator.clear_faults()

        # What failed before is not tried again at once, so the first calls may be told that there is no token yet.
        await settled(made)
        assert set(await made.dial_all(20)) == {201}

        assert former not in sent(simulator)
        after = await made.agree(before)
        await until(lambda: after in {line["generation"] for line in made.lines("token.refreshed")})
        refreshed = [line for line in made.lines("token.refreshed") if line["generation"] > before]
        # One replica applied for all of them. On a slow machine half of the new token's life may have passed since.
        assert [line["trigger"] for line in refreshed].count("early") == len(refreshed) - 1
        assert len({line["generation"] for line in refreshed}) == len(refreshed)
        # A replica that has not heard of such a refresh yet may send the token before it, once.
        statuses = {request.status for request in simulator.creates()}
        assert statuses == {200} or (statuses == {200, 401} and len(refreshed) > 1)


async def test_replicas_refresh_in_turn_through_many_lives_under_load(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator(token_lifetime=2.0)
    async with replicas(farm, simulator, redis.url, 3, lifetime_seconds=2.0) as made:
        await made.agree()
        async with load(made) as answers:
            await until(lambda: applications(simulator) >= 7, turns=4000)
        no_call_was_lost(answers, least=100)

        await made.agree()
        refreshed = made.lines("token.refreshed")
        # Each token was applied for once, by one of them, and for no other reason than its age.
        assert len({line["generation"] for line in refreshed}) == len(refreshed) == applications(simulator)
        assert {line["trigger"] for line in refreshed[1:]} <= {"early", "start"}
        assert [line for line in made.lines("token.refresh_failed") if line["reason"] != "too_late"] == []
        assert "token expired" not in {request.refusal for request in simulator.creates()}


async def test_under_load_no_request_waits_for_a_refresh_that_takes_long(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator(token_lifetime=600.0)
    async with replicas(farm, simulator, redis.url, 2, lifetime_seconds=16.0, timeout_seconds=30) as made:
        await made.agree()
        # The fabric keeps the refresh waiting until all calls are done: who waited for it would never be answered.
        simulator.fault(Fault("silence", "applyToken", None))
        await until(lambda: applications(simulator) == 2, turns=4000)

        statuses = await made.dial_all(50)

        assert set(statuses) == {201}
        assert applications(simulator) == 2
        assert {request.status for request in simulator.creates()} == {200}
        assert {(await made.account(process))["state"] for process in made.running} >= {"refreshing"}
        assert {line["attempts"] for line in made.lines("request.forwarded")} == {1}


@pytest.mark.parametrize("what", ["stopped", "flushed", "paused"])
async def test_whatever_becomes_of_redis_no_call_is_lost_and_no_wrong_token_sent(
    farm: Farm, redis: RedisProcess, what: str
) -> None:
    simulator = await farm.simulator(token_lifetime=6.0)
    async with replicas(farm, simulator, redis.url, 2, lifetime_seconds=6.0) as made:
        before = await made.agree()
        async with load(made) as answers:
            for times in (1, 2):
                if what == "flushed":
                    await redis.flush()
                else:
                    (redis.stop if what == "stopped" else redis.pause)()
                    for process in made.running:
                        await until(lambda: len(process.of("store.unavailable")) == times, turns=4000)  # noqa: B023
                        async with made.session.get(f"{process.admin}/metrics") as answer:
                            assert "gateway_store_available 0.0" in await answer.text()
                    if what == "stopped":
                        await redis.start()
                    else:
                        redis.resume()
                    for process in made.running:
                        await until(lambda: len(process.of("store.available")) == times, turns=4000)  # noqa: B023
                count = len(answers)
                await until(lambda: len(answers) > count + 20, turns=4000)  # noqa: B023
            before = await made.agree(before)
        no_call_was_lost(answers)

        # What was lost is there again, from those that had it, and from then on all go on together.
        await made.agree()
        assert any(key.startswith(b"dial-gateway:token:") for key in await redis.content())
        assert {request.status for request in simulator.creates()} <= {200, 401}
        assert {request.refusal for request in simulator.creates()} <= {None, "", "token superseded"}
        # Of the calls under way one of each caller may meet the end of a token, and no token is ended but by the next.
        superseded = [request for request in simulator.creates() if request.refusal == "token superseded"]
        assert len(superseded) <= 4 * applications(simulator)
        if what != "flushed":
            for process in made.running:
                told = [line for line in process.lines if line["event"].startswith("store.")]
                lines = [line["event"] for line in told]
                # One line when it goes, one when it is back.
                assert lines[:2] == ["store.unavailable", "store.available"]
                assert lines == ["store.unavailable", "store.available"] * (len(lines) // 2), json.dumps(told)
                assert len(lines) <= 4, json.dumps(told)


async def test_a_replica_starts_without_redis_and_shares_when_it_comes(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator()
    redis.stop()
    async with replicas(farm, simulator, redis.url, 1) as made:
        (first,) = made.running
        for _ in range(1000):
            async with made.session.get(f"{first.admin}/readyz") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.01)
        assert (await made.account(first))["usable"]
        assert set(await made.dial_all(3)) == {201}
        assert not (await made.status(first))["store"]["available"]

        await redis.start()

        for _ in range(1000):
            if any(key.startswith(b"dial-gateway:token:") for key in await redis.content()):
                break
            await asyncio.sleep(0.01)
        await made.start(1)
        assert set(await made.dial_all(3)) == {201}
        assert applications(simulator) == 1
        assert {request.status for request in simulator.creates()} == {200}


async def test_while_redis_is_gone_nobody_refreshes_alone_before_its_token_is_over(
    farm: Farm, redis: RedisProcess
) -> None:
    simulator = await farm.simulator(token_lifetime=4.0)
    async with replicas(farm, simulator, redis.url, 1, lifetime_seconds=4.0) as made:
        before = await made.agree()
        (only,) = made.running
        redis.stop()
        async with load(made) as answers:
            await made.agree(before)
        no_call_was_lost(answers)

        (refreshed,) = [line for line in only.of("token.refreshed") if line["generation"] > before]
        assert refreshed["trigger"] == "expired"
        assert applications(simulator) == 2


async def test_another_replica_takes_over_when_the_one_that_refreshes_is_killed(
    farm: Farm, redis: RedisProcess
) -> None:
    simulator = await farm.simulator()
    simulator.fault(Fault("silence", "applyToken"))
    async with replicas(farm, simulator, redis.url, 1, timeout_seconds=0.8) as made:
        await until(lambda: applications(simulator) == 1)
        (dead,) = made.running
        await dead.ended(signal.SIGKILL)
        made.running.clear()
        await made.start(1)

        # They wait to the end of the dead one's lease, and are served then.
        assert set(await made.dial_all(3)) == {201}

        assert applications(simulator) == 2
        assert {request.status for request in simulator.creates()} == {200}


async def test_an_answer_of_the_fabric_that_gets_lost_costs_no_call_at_any_replica(
    farm: Farm, redis: RedisProcess
) -> None:
    simulator = await farm.simulator()
    async with replicas(farm, simulator, redis.url, 2) as made:
        await made.agree()
        # The fabric has made a token, which ended theirs, and nobody gets it.
        simulator.fault(Fault("truncated", "applyToken"))
        simulator.expire()

        assert set(await made.dial_all(20)) == {201}

        assert applications(simulator) == 3
        reasons = [line["reason"] for line in made.lines("token.refresh_failed")]
        assert reasons.count("unreachable") == 1
        assert set(reasons) <= {"unreachable", "elsewhere"}
        assert {line["attempts"] for line in made.lines("request.forwarded")} <= {1, 2}


async def test_the_calls_behind_a_replica_that_is_stopped_while_it_applies_get_a_token_when_its_lease_is_over(
    farm: Farm, redis: RedisProcess
) -> None:
    simulator = await farm.simulator()
    async with replicas(farm, simulator, redis.url, 2, timeout_seconds=1) as made:
        await made.agree()
        one, other = made.running
        simulator.expire()
        simulator.fault(Fault("silence", "applyToken"))
        first = asyncio.create_task(made.dial(one))
        await until(lambda: applications(simulator) == 2)
        one.process.send_signal(signal.SIGSTOP)
        try:
            behind = await asyncio.gather(*(made.dial(other) for _ in range(5)))
        finally:
            one.process.send_signal(signal.SIGCONT)
        await first

        assert [status for status, _ in behind] == [201] * 5
        assert applications(simulator) == 3
        seen = len(simulator.creates())
        assert set(await made.dial_all()) == {201}
        assert set(sent(simulator)[seen:]) == {simulator.tokens.current("gateway-sales")}


async def test_what_nslb_renews_in_band_at_one_replica_is_known_to_the_others(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator(renew_in_band="cookie")
    async with replicas(farm, simulator, redis.url, 2) as made:
        before = await made.agree()
        one, other = made.running
        await made.dial(one)
        await made.dial(other)
        simulator.expire()
        assert (await made.dial(one))[0] == 201
        await made.agree(before)
        seen = len(simulator.creates())

        assert (await made.dial(other))[0] == 201

        assert [request.status for request in simulator.creates()[seen:]] == [200]
        assert applications(simulator) == 1
        assert simulator.nslb.renewals == 1


async def test_no_token_is_in_redis_in_the_clear_and_a_new_key_seals_anew(farm: Farm, redis: RedisProcess) -> None:
    simulator = await farm.simulator()
    async with replicas(farm, simulator, redis.url, 2) as made:
        await made.agree()
        token = simulator.tokens.current("gateway-sales")
        assert token is not None
        content = await redis.content()
        assert content
        assert token.encode() not in repr(content).encode()
        assert token[:24] not in repr(content)
        assert b"gateway-sales" not in repr(content).encode()
        newer = farm.directory / "key-2"
        newer.write_bytes(Fernet.generate_key())
        # First all learn to open with it, then to seal, then the old one may go.
        for keys in ([made.keys[0], newer], [newer, made.keys[0]], [newer]):
            made.settings["store"]["encryption_keys"] = [{"file": str(key)} for key in keys]
            made.write()
            count = len(made.lines("config.reloaded"))
            await until(lambda: len(made.lines("config.reloaded")) == count + 2)  # noqa: B023
            if keys[0] == newer:
                await until_sealed_by(redis, newer, token)
        assert set(await made.dial_all(3)) == {201}
        assert made.lines("store.unreadable") == []
        assert applications(simulator) == 1


async def until_sealed_by(redis: RedisProcess, key: Path, token: str) -> None:
    """Wait until what is in Redis can be opened by that key."""
    fernet = Fernet(key.read_bytes())
    for _ in range(500):
        sealed = [
            entry[b"s"] for entry in (await redis.content()).values() if isinstance(entry, dict) and b"s" in entry
        ]
        with contextlib.suppress(Exception):
            assert [json.loads(fernet.decrypt(one))["value"] for one in sealed] == [token]
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was not sealed anew")


async def test_a_sqlite_file_is_shared_by_processes_and_outlives_them(farm: Farm) -> None:
    simulator = await farm.simulator()
    file = farm.directory / "state.db"
    async with replicas(farm, simulator, f"sqlite://{file}", 2) as made:
        before = await made.agree()
        assert applications(simulator) == 1
        simulator.expire()
        assert set(await made.dial_all(10)) == {201}
        assert applications(simulator) == 2
        await made.agree(before)
        token = simulator.tokens.current("gateway-sales")
        assert token is not None
        for process in made.running:
            await process.ended(signal.SIGKILL)
        made.running.clear()

        await made.start(2)

        assert set(await made.dial_all(5)) == {201}
        assert applications(simulator) == 2
        for path in farm.directory.glob("state.db*"):
            content = path.read_bytes()
            assert token.encode() not in content
            assert b"gateway-sales" not in content
