"""Every kind of store keeps the same promises: memory, a SQLite file, and a real Redis."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from gateway.model import Secret, Token
from gateway.simulator import Certificates
from gateway.store import Busy, Kept, Lease, MemoryStore, Page, Seal, Shelved, Store, StoreUnavailable, Vault
from gateway.store.ledger import Ledger
from gateway.store.presence import Presence
from gateway.store.redis import RedisServer, RedisStore
from gateway.store.shelf import Shelf
from gateway.store.sqlite import SqliteStore
from gateway.telemetry import LineWriter, Log, Metrics
from tests.harness import Lines, until
from tests.redis_server import RedisProcess, redis_server

Make = Callable[[], Store]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# What the README says that the user needs, and nothing more.
README_RULES = re.findall(r"`~dial-gateway:\* &dial-gateway:\* ([^`]+)`", README)[0].split()
KINDS = ["memory", "sqlite", "redis"]


@pytest.fixture(params=KINDS)
async def make(request: pytest.FixtureRequest, tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Make]:
    """Makes stores that share what they keep, as replicas would (in memory there is but one)."""
    made: list[Store] = []

    def remember(store: Store) -> Store:
        made.append(store)
        return store

    if request.param == "memory":
        one = MemoryStore()
        yield lambda: one
    elif request.param == "sqlite":
        yield lambda: remember(SqliteStore(tmp_path / "state.db"))
    else:
        async with redis_server(tmp_path / "redis", unused_tcp_port):
            yield lambda: remember(RedisStore(RedisServer("127.0.0.1", unused_tcp_port)))
            for store in made:
                await store.close()
            made.clear()
    for store in made:
        await store.close()


async def leased(store: Store, key: str = "k", seconds: float = 30.0) -> Lease:
    given = await store.lease(key, seconds)
    assert isinstance(given, Lease)
    return given


async def test_what_is_put_is_read_by_all(make: Make) -> None:
    one, other = make(), make()
    assert await one.read("k") is None

    assert await one.put("k", b"sealed\x00\xff", generation=5, after=0, fence=None)

    for store in (one, other):
        stored = await store.read("k")
        assert stored is not None
        assert (stored.generation, stored.sealed) == (5, b"sealed\x00\xff")
        assert "sealed" not in repr(stored).replace("sealed=", "")
    assert await other.read("other") is None


async def test_a_token_takes_the_place_of_the_one_it_was_made_for_and_of_no_other(make: Make) -> None:
    one, other = make(), make()
    assert await one.put("k", b"a", generation=5, after=0, fence=None)

    assert not await other.put("k", b"late", generation=6, after=0, fence=None)
    assert not await other.put("k", b"late", generation=6, after=4, fence=None)
    assert not await other.put("k", b"older", generation=5, after=5, fence=None)
    assert not await other.put("k", b"older", generation=4, after=5, fence=None)
    stored = await one.read("k")
    assert stored is not None
    assert (stored.generation, stored.sealed) == (5, b"a")
    assert await other.put("k", b"b", generation=6, after=5, fence=None)
    assert not await one.put("k", b"c", generation=7, after=5, fence=None)


async def test_generations_may_be_as_large_as_a_time_in_milliseconds(make: Make) -> None:
    store = make()
    large = 1_795_461_225_123

    assert await store.put("k", b"a", generation=large, after=0, fence=None)
    assert await store.put("k", b"b", generation=large + 1, after=large, fence=None)
    assert not await store.put("k", b"c", generation=large + 2, after=large, fence=None)
    stored = await store.read("k")
    assert stored is not None
    assert stored.generation == large + 1


async def test_one_has_the_lease_and_the_others_are_told_how_long(make: Make) -> None:
    one, other = make(), make()
    lease = await leased(one)

    busy = await other.lease("k", 30.0)

    assert isinstance(busy, Busy)
    assert busy.working
    assert 0 < busy.seconds <= 30.0
    assert busy.failures == 0
    assert isinstance(await other.lease("another", 30.0), Lease)
    assert lease.failures == 0


async def test_many_ask_for_the_lease_at_once_and_one_gets_it(make: Make) -> None:
    stores = [make() for _ in range(4)]

    given = await asyncio.gather(*(store.lease("k", 30.0) for store in stores for _ in range(5)))

    assert sum(isinstance(lease, Lease) for lease in given) == 1


async def test_a_token_under_the_lease_is_written_and_ends_it(make: Make) -> None:
    one, other = make(), make()
    lease = await leased(one)

    assert await one.put("k", b"a", generation=1, after=0, fence=lease.fence)

    following = await leased(other)
    assert following.fence > lease.fence
    assert not await one.put("k", b"b", generation=2, after=1, fence=lease.fence)
    assert await other.put("k", b"b", generation=2, after=1, fence=following.fence)


async def test_a_holder_that_stalls_past_its_lease_cannot_write(make: Make) -> None:
    one, other = make(), make()
    stalled = await leased(one, seconds=0.05)
    await asyncio.sleep(0.1)

    # Neither when nobody else has come, nor when somebody has.
    assert not await one.put("k", b"late", generation=1, after=0, fence=stalled.fence)
    following = await leased(other)
    assert not await one.put("k", b"late", generation=1, after=0, fence=stalled.fence)
    await one.release("k", fence=stalled.fence, hold=60.0)
    assert following.fence > stalled.fence
    assert await other.put("k", b"good", generation=1, after=0, fence=following.fence)
    stored = await one.read("k")
    assert stored is not None
    assert stored.sealed == b"good"


async def test_a_holder_whose_token_was_overtaken_cannot_write(make: Make) -> None:
    one, other = make(), make()
    lease = await leased(one)

    assert await other.put("k", b"in band", generation=3, after=0, fence=None)

    assert not await one.put("k", b"applied", generation=4, after=0, fence=lease.fence)
    assert await one.put("k", b"applied", generation=4, after=3, fence=lease.fence)


async def test_after_a_failure_nobody_gets_the_lease_for_a_while_and_all_know_how_often_it_failed(make: Make) -> None:
    one, other = make(), make()
    lease = await leased(one)
    await one.release("k", fence=lease.fence, hold=0.3)

    for store in (one, other):
        busy = await store.lease("k", 30.0)
        assert isinstance(busy, Busy)
        assert not busy.working
        assert busy.seconds <= 0.3
        assert busy.failures == 1
    assert not await one.put("k", b"late", generation=1, after=0, fence=lease.fence)
    await asyncio.sleep(0.35)
    following = await leased(other)
    assert following.failures == 1
    assert await other.put("k", b"a", generation=1, after=0, fence=following.fence)
    assert (await leased(one)).failures == 0


async def test_a_lease_that_was_of_no_use_is_free_again(make: Make) -> None:
    one, other = make(), make()
    lease = await leased(one)

    await one.release("k", fence=lease.fence, hold=0.0)

    assert (await leased(other)).failures == 0


async def test_who_had_the_last_lease_can_end_what_it_made_all_wait_for_and_nobody_else_can(make: Make) -> None:
    one, other = make(), make()
    former = await leased(one)
    await one.release("k", fence=former.fence, hold=0.0)
    lease = await leased(one)
    await one.release("k", fence=lease.fence, hold=60.0)

    await other.release("k", fence=former.fence, hold=0.0)
    assert isinstance(await other.lease("k", 30.0), Busy)
    # Nor can it make it longer, or be another failure.
    await one.release("k", fence=lease.fence, hold=600.0)
    busy = await other.lease("k", 30.0)
    assert isinstance(busy, Busy)
    assert (busy.seconds <= 60.0, busy.failures) == (True, 1)
    await one.release("k", fence=lease.fence, hold=0.0)

    following = await leased(other)
    assert (following.failures, following.fence > lease.fence) == (1, True)
    await one.release("k", fence=lease.fence, hold=0.0)
    assert isinstance(await one.lease("k", 30.0), Busy)


async def test_a_seal_is_renewed_only_of_the_present_token(make: Make) -> None:
    store = make()
    await store.put("k", b"old seal", generation=2, after=0, fence=None)

    assert not await store.reseal("k", b"x", generation=1)
    assert not await store.reseal("nothing", b"x", generation=0)
    assert await store.reseal("k", b"new seal", generation=2)
    stored = await store.read("k")
    assert stored is not None
    assert (stored.generation, stored.sealed) == (2, b"new seal")
    assert await store.read("nothing") is None


async def test_who_listens_hears_of_every_token_within_a_second(make: Make) -> None:
    one, other = make(), make()
    heard: list[str | None] = []
    listening = asyncio.create_task(other.listen(heard.append))
    try:
        await until(lambda: heard)
        assert heard == [None]

        await one.put("k", b"a", generation=1, after=0, fence=None)

        # SQLite tells that something was written, the others what.
        await until(lambda: len(heard) > 1, turns=200)
        assert set(heard[1:]) <= {"k", None}
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lease_that_began_before_the_clock_was_set_back_is_over(
    kind: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    """The clock of Redis is not ours to set: what it has written is set ahead by as much."""
    clock = [1_795_461_225.0]
    async with AsyncExitStack() as stack:
        store: Store = MemoryStore(lambda: clock[0])
        if kind == "sqlite":
            store = SqliteStore(tmp_path / "state.db", lambda: clock[0])
        elif kind == "redis":
            server = await stack.enter_async_context(redis_server(tmp_path / "redis", unused_tcp_port))
            store = RedisStore(RedisServer("127.0.0.1", server.port))
        stack.push_async_callback(store.close)

        async def set_back(seconds: float) -> None:
            clock[0] -= seconds
            if kind == "redis":
                async with server.client() as client:
                    for name in ("b", "u"):
                        await client.hincrby("dial-gateway:token:k", name, round(seconds * 1000))

        working = await leased(store)
        await set_back(0.5)
        assert isinstance(await store.lease("k", 30.0), Busy)
        await set_back(7200.0)
        following = await leased(store)
        assert following.fence > working.fence
        # Who had it before can't write any more, and who has it can.
        assert not await store.put("k", b"late", generation=1, after=0, fence=working.fence)
        await store.release("k", fence=following.fence, hold=60.0)
        held = await store.lease("k", 30.0)
        assert isinstance(held, Busy)
        assert not held.working
        await set_back(7200.0)
        assert (await leased(store)).failures == 1
        assert isinstance(await store.lease("k", 30.0), Busy)


async def test_who_asks_for_a_lease_that_another_has_does_not_wait_for_who_writes(tmp_path: Path) -> None:
    one, other = (SqliteStore(tmp_path / "state.db", busy_seconds=0.1) for _ in range(2))
    await leased(one)
    await other.read("k")
    holder = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    assert isinstance(await other.lease("k", 30.0), Busy)
    with pytest.raises(StoreUnavailable):
        await other.lease("free", 30.0)

    holder.execute("ROLLBACK")
    holder.close()
    await one.close()
    await other.close()


# --- records


async def test_a_record_that_is_written_is_read_by_all(make: Make) -> None:
    one, other = make(), make()
    assert await one.get("dial:k") is None

    version = await one.write("dial:k", b"sealed\x00\xff", after=0, seconds=60.0)

    assert version > 0
    for store in (one, other):
        assert await store.get("dial:k") == Page(version, b"sealed\x00\xff")
    assert await other.get("dial:other") is None
    # A token is another thing, whatever its key.
    assert await one.read("dial:k") is None
    assert await one.put("k", b"a", generation=1, after=0, fence=None)
    assert await one.get("k") is None


async def test_a_record_takes_the_place_of_the_one_it_was_made_for_and_of_no_other(make: Make) -> None:
    one, other = make(), make()
    first = await one.write("dial:k", b"a", after=0, seconds=60.0)

    assert await other.write("dial:k", b"late", after=0, seconds=60.0) == 0
    assert await other.write("dial:k", b"late", after=first - 1, seconds=60.0) == 0
    assert await other.write("dial:k", b"early", after=first + 1, seconds=60.0) == 0
    assert await other.write("dial:nothing", b"late", after=first, seconds=60.0) == 0
    assert await one.get("dial:k") == Page(first, b"a")
    assert await one.get("dial:nothing") is None
    second = await other.write("dial:k", b"b", after=first, seconds=60.0)
    assert second > first
    assert await one.write("dial:k", b"c", after=first, seconds=60.0) == 0
    assert await one.get("dial:k") == Page(second, b"b")


async def test_exactly_one_version_of_a_record_is_taken_away(make: Make) -> None:
    one, other = make(), make()
    first = await one.write("dial:k", b"a", after=0, seconds=60.0)
    second = await one.write("dial:k", b"b", after=first, seconds=60.0)

    assert not await other.erase("dial:k", after=first)
    assert not await other.erase("dial:k", after=0)
    assert not await other.erase("dial:nothing", after=0)
    assert await one.get("dial:k") == Page(second, b"b")
    assert await other.erase("dial:k", after=second)
    assert await one.get("dial:k") is None
    assert not await one.erase("dial:k", after=second)
    assert not await one.erase("dial:k", after=0)
    assert await one.write("dial:k", b"late", after=second, seconds=60.0) == 0


async def test_the_version_of_a_record_is_never_that_of_an_earlier_one(make: Make) -> None:
    """However fast they follow each other: whoever comes late with an old version must not meet another record."""
    one, other = make(), make()
    versions: list[int] = []
    for _ in range(20):
        versions.append(await one.write("dial:k", b"a", after=0, seconds=60.0))
        assert await other.erase("dial:k", after=versions[-1])
    for _ in range(5):
        versions.append(await one.write("dial:k", b"b", after=versions[-1] if _ else 0, seconds=60.0))

    assert versions == sorted(set(versions))
    assert versions[0] > 1_000_000_000_000


async def test_a_record_whose_time_is_over_is_not_there(make: Make) -> None:
    one, other = make(), make()
    first = await one.write("dial:k", b"a", after=0, seconds=0.05)
    await asyncio.sleep(0.1)

    assert await other.get("dial:k") is None
    assert not await other.erase("dial:k", after=first)
    assert await one.write("dial:k", b"late", after=first, seconds=60.0) == 0
    second = await other.write("dial:k", b"b", after=0, seconds=60.0)
    assert second > first
    # And one that is written anew lasts from then on.
    third = await one.write("dial:short", b"a", after=0, seconds=0.05)
    fourth = await one.write("dial:short", b"b", after=third, seconds=60.0)
    await asyncio.sleep(0.1)
    assert await other.get("dial:short") == Page(fourth, b"b")


async def test_many_write_a_record_at_once_and_one_does(make: Make) -> None:
    stores = [make() for _ in range(4)]
    last = 0
    for _ in range(3):
        written = await asyncio.gather(
            *(
                store.write("dial:k", b"%d" % number, after=last, seconds=60.0)
                for number, store in enumerate(stores * 5)
            )
        )

        (version,) = filter(None, written)
        last = version
        assert await stores[0].get("dial:k") == Page(version, b"%d" % written.index(version))


async def test_who_listens_hears_of_every_record_that_is_written_or_erased(make: Make) -> None:
    one, other = make(), make()
    own: list[str | None] = []
    heard: list[str | None] = []
    listening = [asyncio.create_task(one.listen(own.append)), asyncio.create_task(other.listen(heard.append))]
    try:
        await until(lambda: own and heard)
        assert (own[0], heard[0]) == (None, None)
        known = len(heard)

        version = await one.write("dial:k", b"a", after=0, seconds=60.0)

        # SQLite tells others that something was written, and itself what.
        await until(lambda: "dial:k" in own and len(heard) > known, turns=200)
        assert {*own, *heard} == {"dial:k", None}
        own.clear()
        heard.clear()
        assert await one.write("dial:k", b"late", after=0, seconds=60.0) == 0
        assert not await one.erase("dial:k", after=version + 1)
        assert await one.erase("dial:k", after=version)
        await until(lambda: "dial:k" in own and heard, turns=200)
        assert own.count("dial:k") == 1
        assert {*own, *heard} <= {"dial:k", None}
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


async def test_who_listens_is_alive_for_all_and_a_stranger_is_not(make: Make) -> None:
    one, other = make(), make()
    heard: tuple[list[str | None], list[str | None]] = ([], [])
    listening = [asyncio.create_task(one.listen(heard[0].append)), asyncio.create_task(other.listen(heard[1].append))]
    try:
        await until(lambda: all(heard))

        for store in (one, other):
            await store.vouched()
            assert await store.alive(one.owner)
            assert await store.alive(other.owner)
            assert not await store.alive("0" * 32)
            assert not await store.alive("")
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_record_lasts_by_the_clock_that_all_share(kind: str, tmp_path: Path) -> None:
    clock = [1_795_461_225.0]
    store: Store = MemoryStore(lambda: clock[0])
    if kind == "sqlite":
        store = SqliteStore(tmp_path / "state.db", lambda: clock[0])
    first = await store.write("dial:k", b"a", after=0, seconds=60.0)
    assert first == 1_795_461_225_000
    assert await store.write("dial:k", b"b", after=first, seconds=60.0) == first + 1

    clock[0] += 59.9
    assert await store.get("dial:k") == Page(first + 1, b"b")
    clock[0] += 0.1
    assert await store.get("dial:k") is None
    # Whatever the clock does, a number is not given again while it may be remembered.
    third = await store.write("dial:k", b"c", after=0, seconds=60.0)
    assert third == 1_795_461_285_000
    clock[0] -= 30.0
    assert await store.erase("dial:k", after=third)
    assert await store.write("dial:k", b"d", after=0, seconds=60.0) == third + 1
    await store.close()


RECORD_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from([0, 1, 2, 99]), st.sampled_from([60.0, 90.0])),
        st.tuples(st.just("erase"), st.sampled_from([0, 1, 99])),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 30.0, 60.0])),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=RECORD_OPERATIONS)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_of_records_each_says_what_the_rules_say(
    steps: list[tuple[object, ...]], kind: str, shared: dict[str, object]
) -> None:
    """SQLite with the clock of the rules; Redis has its own, so there nothing ends, and versions are paired."""
    runner, clock = shared["runner"], shared["clock"]
    assert isinstance(runner, asyncio.Runner)
    assert isinstance(clock, list)
    store = shared["timed"] if kind == "sqlite" else shared["redis"]
    assert isinstance(store, SqliteStore | RedisStore)
    shared["count"] = count = int(str(shared["count"])) + 1
    key, ledger = f"dial:{count}", Ledger()
    versions: list[tuple[int, int]] = [(0, 0)]
    for step in steps:
        match step:
            case ("write", int(back), float(seconds)):
                real_after, after = versions[max(0, len(versions) - 1 - back)]
                sealed = b"%d" % len(versions)
                real = runner.run(store.write(key, sealed, after=real_after, seconds=seconds))
                expected = ledger.put(key, sealed, after=after, seconds=seconds, now=clock[0])
                assert bool(real) == bool(expected)
                if real:
                    assert real > versions[-1][0]
                    assert expected > versions[-1][1]
                    versions.append((real, expected))
            case ("erase", int(back)):
                real_after, after = versions[max(0, len(versions) - 1 - back)]
                assert runner.run(store.erase(key, after=real_after)) == ledger.erase(key, after=after, now=clock[0])
            case ("wait", float(seconds)):
                clock[0] += seconds if kind == "sqlite" else 0.0
            case _:
                raise AssertionError(step)
        found, page = runner.run(store.get(key)), ledger.get(key, clock[0])
        assert (found and found.sealed) == (page and page.sealed)
        if found is not None and page is not None:
            assert (found.version, page.version) == versions[-1]
    if kind == "sqlite":
        assert all(real == expected for real, expected in versions)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("lease"), st.sampled_from([60.0, 0.0])),
        st.tuples(st.just("put"), st.integers(0, 4), st.integers(0, 4), st.sampled_from([None, 0, 1])),
        st.tuples(st.just("release"), st.sampled_from([0, 1]), st.sampled_from([0.0, 60.0])),
        st.tuples(st.just("reseal"), st.integers(0, 4)),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=OPERATIONS)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_in_whatever_order_each_says_what_the_rules_say(
    steps: list[tuple[object, ...]], kind: str, shared: dict[str, object]
) -> None:
    """The statements of SQLite and the scripts of Redis against the plain code, with leases that do not lapse."""
    runner = shared["runner"]
    assert isinstance(runner, asyncio.Runner)
    store = shared[kind]
    shared["count"] = count = int(str(shared["count"])) + 1
    key = f"key-{count}"
    shelf, now = Shelf(), 1_795_461_225.0
    fences: list[tuple[int, int]] = [(1, 1)]
    assert isinstance(store, SqliteStore | RedisStore)
    for step in steps:
        match step:
            case ("lease", float(seconds)):
                real, expected = runner.run(store.lease(key, seconds)), shelf.lease(key, seconds, now)
                assert type(real) is type(expected)
                if isinstance(real, Lease) and isinstance(expected, Lease):
                    assert real.failures == expected.failures
                    fences.append((real.fence, expected.fence))
                elif isinstance(real, Busy) and isinstance(expected, Busy):
                    assert real.working == expected.working
            case ("put", int(generation), int(after), None):
                assert runner.run(
                    store.put(key, b"s%d" % generation, generation=generation, after=after, fence=None)
                ) == shelf.put(key, b"s%d" % generation, generation=generation, after=after, fence=None, now=now)
            case ("put", int(generation), int(after), int(back)):
                real_fence, fence = fences[max(0, len(fences) - 1 - back)]
                assert runner.run(
                    store.put(key, b"f%d" % generation, generation=generation, after=after, fence=real_fence)
                ) == shelf.put(key, b"f%d" % generation, generation=generation, after=after, fence=fence, now=now)
            case ("release", int(back), float(hold)):
                real_fence, fence = fences[max(0, len(fences) - 1 - back)]
                runner.run(store.release(key, fence=real_fence, hold=hold))
                shelf.release(key, fence=fence, hold=hold, now=now)
            case ("reseal", int(generation)):
                assert runner.run(store.reseal(key, b"r", generation=generation)) == shelf.reseal(
                    key, b"r", generation=generation
                )
            case _:
                raise AssertionError(step)
        assert runner.run(store.read(key)) == shelf.read(key)


@pytest.fixture
def shared(tmp_path: Path, unused_tcp_port: int) -> object:
    """A SQLite store and a Redis store, and what to run them with."""
    with asyncio.Runner() as runner:
        context = redis_server(tmp_path / "redis", unused_tcp_port)
        runner.run(context.__aenter__())
        sqlite, redis = SqliteStore(tmp_path / "state.db"), RedisStore(RedisServer("127.0.0.1", unused_tcp_port))
        clock = [1_795_461_225.0]
        timed = SqliteStore(tmp_path / "timed.db", lambda: clock[0])
        try:
            yield {"runner": runner, "sqlite": sqlite, "timed": timed, "clock": clock, "redis": redis, "count": 0}
        finally:
            runner.run(sqlite.close())
            runner.run(timed.close())
            runner.run(redis.close())
            runner.run(context.__aexit__(None, None, None))


# --- what one kind alone has to hold


async def test_a_sqlite_file_is_its_owners_alone_and_forgets_what_it_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    await store.put("k", b"FIRSTSEALED" * 20, generation=1, after=0, fence=None)
    await store.put("k", b"second", generation=2, after=1, fence=None)
    files = [file for file in tmp_path.iterdir() if file.name.startswith("state.db")]
    assert len(files) >= 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await store.close()

    assert b"FIRSTSEALED" not in path.read_bytes()


async def test_rights_of_others_are_taken_from_a_sqlite_file_and_its_group_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    one, other = SqliteStore(path), SqliteStore(path)
    await one.put("k", b"a", generation=1, after=0, fence=None)
    files = [tmp_path / name for name in ("state.db", "state.db-wal", "state.db-shm")]
    for file in files:
        file.chmod(0o664)

    assert await other.read("k") is not None

    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o660] * 3
    await one.close()
    await other.close()


async def test_a_sqlite_file_that_stays_open_to_others_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_ours(*_: object, **__: object) -> None:
        raise PermissionError

    for change in (not_ours, lambda *_, **__: None):  # another's file; a file system that knows no modes
        path = tmp_path / f"{id(change)}.db"
        path.touch()
        path.chmod(0o644)
        store = SqliteStore(path)
        with monkeypatch.context() as patched:
            patched.setattr(os, "chmod", change)
            with pytest.raises(StoreUnavailable, match="others can read the file"):
                await store.put("k", b"a", generation=1, after=0, fence=None)
        assert path.read_bytes() == b""
        assert await store.put("k", b"a", generation=1, after=0, fence=None)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        await store.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from gateway.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    for generation in range(1, 1_000_000):
        assert await store.put("k", b"%d" % generation, generation=generation, after=generation - 1, fence=None)
        print(generation, flush=True)

asyncio.run(main())
"""


async def test_a_sqlite_file_survives_a_kill(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "state.db")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"COVERAGE_PROCESS_START": ""},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    lines += process.stdout.readlines()
    process.stdout.close()
    told = int(lines[-1]) if lines[-1].endswith(b"\n") else int(lines[-2])

    store = SqliteStore(tmp_path / "state.db")
    stored = await store.read("k")
    await store.close()

    assert stored is not None
    assert stored.generation >= told >= 50
    assert stored.sealed == b"%d" % stored.generation


# The first version of the file, as it was made then.
FIRST_SCHEMA = """
CREATE TABLE tokens (
    key TEXT PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0,
    sealed BLOB NOT NULL DEFAULT x'',
    fence INTEGER NOT NULL DEFAULT 0,
    until REAL NOT NULL DEFAULT 0,
    working INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    touched REAL NOT NULL
) WITHOUT ROWID
"""


async def test_a_sqlite_file_of_the_first_version_gets_records_and_keeps_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(FIRST_SCHEMA)
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "INSERT INTO tokens (key, generation, sealed, fence, touched) VALUES ('k', 5, x'61', 7, ?)", (time.time(),)
        )
    store = SqliteStore(path)

    stored = await store.read("k")

    assert stored is not None
    assert (stored.generation, stored.sealed) == (5, b"a")
    version = await store.write("dial:k", b"b", after=0, seconds=60.0)
    assert (await leased(store)).fence > 7
    assert await store.put("k", b"c", generation=6, after=5, fence=None)
    await store.close()
    store = SqliteStore(path)
    assert await store.get("dial:k") == Page(version, b"b")
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)


async def test_records_that_have_ended_leave_a_sqlite_file_a_few_with_each_write(tmp_path: Path) -> None:
    clock = [1_795_461_225.0]
    path = tmp_path / "state.db"
    store = SqliteStore(path, lambda: clock[0])
    for number in range(30):
        await store.write(f"dial:{number}", b"ENDED" * 20, after=0, seconds=60.0)
    kept = await store.write("dial:kept", b"a", after=0, seconds=90.0)
    clock[0] += 60.0

    def rows() -> int:
        with closing(sqlite3.connect(path)) as connection:
            (number,) = connection.execute("SELECT count(*) FROM records").fetchone()
        assert isinstance(number, int)
        return number

    numbers = [rows()]
    while numbers[-1] > 1:
        assert await store.erase("dial:kept", after=kept)
        kept = await store.write("dial:kept", b"a", after=0, seconds=90.0)
        assert await store.write("dial:kept", b"late", after=0, seconds=90.0) == 0
        numbers.append(rows())
    await store.close()

    # Eight with each, one of which is what was just erased.
    assert [before - after for before, after in pairwise(numbers)] == [15, 15]
    assert b"ENDED" not in path.read_bytes()


async def test_the_sign_of_a_store_is_its_owners_alone_and_is_taken_along(tmp_path: Path) -> None:
    one, other = SqliteStore(tmp_path / "state.db"), SqliteStore(tmp_path / "state.db")
    sign = tmp_path / f"state.db-owner-{one.owner}"
    assert not await other.alive(one.owner)
    await one.read("k")

    assert await other.alive(one.owner)
    assert stat.S_IMODE(sign.stat().st_mode) == 0o600
    # Somebody tidies up: it is there again with the next thing that the store does.
    sign.unlink()
    assert not await other.alive(one.owner)
    await one.read("k")
    assert await other.alive(one.owner)
    # What is no id is no path either.
    (tmp_path / "precious").touch()
    (tmp_path / "state.db-owner-x").mkdir()
    assert not await other.alive("x/../precious")
    assert (tmp_path / "precious").exists()
    await one.close()
    assert not await other.alive(one.owner)
    assert not sign.exists()
    await other.close()
    assert sorted(path.name for path in tmp_path.glob("state.db-*")) == ["state.db-owner-x"]


async def test_a_sign_that_is_made_anew_while_somebody_looks_is_believed(tmp_path: Path) -> None:
    """Another takes the new file, not yet locked, for one that was left behind, and removes it."""
    path, owner = tmp_path / "state.db", "0" * 32
    sign = tmp_path / f"state.db-owner-{owner}"
    one, other = Presence(path, owner), Presence(path, "1" * 32)
    sign.touch()
    looking = os.open(sign, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    showing = asyncio.create_task(asyncio.to_thread(one.show))
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert not showing.done()
    sign.unlink()
    os.close(looking)
    await showing

    assert other.is_there(owner)
    one.show()
    assert other.is_there(owner)
    one.leave()
    one.leave()
    assert not other.is_there(owner)


OWNER = """
import asyncio, sys
from pathlib import Path
from gateway.store.redis import RedisServer, RedisStore
from gateway.store.sqlite import SqliteStore

async def main():
    kind, where = sys.argv[1:]
    store = SqliteStore(Path(where)) if kind == "sqlite" else RedisStore(RedisServer("127.0.0.1", int(where)))
    heard = asyncio.Queue()
    listening = asyncio.create_task(store.listen(heard.put_nowait))
    await heard.get()
    version = await store.write("dial:k", b"a", after=0, seconds=60.0)
    lease = await store.lease("k", 60.0)
    failed = await store.lease("failed", 60.0)
    await store.release("failed", fence=failed.fence, hold=60.0)
    print(store.owner, version, lease.fence, flush=True)
    await listening

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_who_is_killed_is_not_alive_nor_has_a_lease_and_what_it_wrote_is_there(
    kind: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with AsyncExitStack() as stack:
        where = tmp_path / "state.db"
        store: Store = SqliteStore(where)
        if kind == "redis":
            await stack.enter_async_context(redis_server(tmp_path / "redis", unused_tcp_port))
            store = RedisStore(RedisServer("127.0.0.1", unused_tcp_port))
        stack.push_async_callback(store.close)
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, kind, str(where if kind == "sqlite" else unused_tcp_port)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"COVERAGE_PROCESS_START": ""},
        )
        try:
            assert process.stdout is not None
            owner, version, fence = (await asyncio.to_thread(process.stdout.readline)).decode().split()
            assert await store.alive(owner)
            process.send_signal(signal.SIGSTOP)
            assert await store.alive(owner)
            busy = await store.lease("k", 60.0)
            assert isinstance(busy, Busy)
            assert busy.working
        finally:
            process.kill()
            process.wait(timeout=10)
            assert process.stdout is not None
            process.stdout.close()
        for _ in range(200):
            if not await store.alive(owner):
                break
            assert kind == "redis"  # the kernel has let go of the lock before we are told of the end
            await asyncio.sleep(0.01)

        assert not await store.alive(owner)
        assert await store.get("dial:k") == Page(int(version), b"a")
        lease = await leased(store)
        assert lease.fence > int(fence)
        assert not await store.put("k", b"late", generation=1, after=0, fence=int(fence))
        assert isinstance(await store.lease("k", 60.0), Busy)
        assert await store.put("k", b"good", generation=1, after=0, fence=lease.fence)
        # That a refresh has failed holds whoever has begun it.
        held = await store.lease("failed", 60.0)
        assert isinstance(held, Busy)
        assert (held.working, held.failures) == (False, 1)


async def test_nobody_is_taken_for_dead_because_the_server_was_away(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server, AsyncExitStack() as stack:
        one, other = (RedisStore(RedisServer("127.0.0.1", unused_tcp_port), return_seconds=0.5) for _ in range(2))
        heard: list[str | None] = []

        listening: list[asyncio.Task[None]] = []

        def listen(store: Store) -> None:
            heard.clear()
            listening.append(asyncio.create_task(store.listen(heard.append)))
            stack.callback(listening[-1].cancel)

        for store in (one, other):
            stack.push_async_callback(store.close)
        for store in (one, other):
            listen(store)
            await until(lambda: heard)
        assert not await other.alive("0" * 32)
        server.stop()
        assert [type(end) for end in await asyncio.gather(*listening, return_exceptions=True)] == [StoreUnavailable] * 2
        await server.start()

        # It knows nobody, neither before we listen to it again nor when we are the first who do.
        assert await other.alive(one.owner)
        listen(other)
        await until(lambda: heard)
        assert await other.alive(one.owner)
        listen(one)
        await until(lambda: heard)
        while await other.alive("0" * 32):
            await asyncio.sleep(0.01)
        assert await other.alive(one.owner)


async def test_what_the_dead_left_behind_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / f"state.db-owner-{'0' * 32}"
    left.touch()
    (tmp_path / f"other.db-owner-{'0' * 32}").touch()
    one, other = SqliteStore(tmp_path / "state.db"), SqliteStore(tmp_path / "state.db")

    await one.read("k")

    assert not left.exists()
    await other.read("k")
    assert await one.alive(other.owner)
    assert await other.alive(one.owner)
    assert (tmp_path / f"other.db-owner-{'0' * 32}").exists()
    left.mkdir()
    with pytest.raises(StoreUnavailable):
        await one.alive("0" * 32)
    await one.close()
    await other.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_nothing_of_a_record_that_went_through_a_vault_is_in_the_clear(
    kind: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    seal = Seal([Secret(Fernet.generate_key())])
    log, metrics = Log(LineWriter(Lines())), Metrics("0")
    async with AsyncExitStack() as stack:
        server: RedisProcess | None = None
        store: Store = SqliteStore(tmp_path / "state.db")
        if kind == "redis":
            server = await stack.enter_async_context(redis_server(tmp_path / "redis", unused_tcp_port))
            store = RedisStore(RedisServer("127.0.0.1", unused_tcp_port))
        vault = Vault(kind, store, seal, log, metrics)
        stack.push_async_callback(vault.close)
        version = await vault.write("dial:k", b"+4930123456", after=0, seconds=60.0)
        content = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
        if server is not None:
            content = repr(await server.content()).encode()

        assert b"dial:k" in content
        assert b"+4930123456" not in content
        kept = await vault.record("dial:k")
        assert kept is not None
        assert (kept.version, kept.content) == (version, b"+4930123456")


async def test_what_is_no_database_any_more_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    await store.put("k", b"a", generation=1, after=0, fence=None)
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreUnavailable):
        await store.read("k")
    path.unlink()

    assert await store.read("k") is None
    assert await store.put("k", b"b", generation=2, after=0, fence=None)
    await store.close()


async def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = SqliteStore(tmp_path / "state.db")

    with pytest.raises(StoreUnavailable):
        await store.read("k")

    await store.close()


async def test_a_database_that_somebody_holds_is_unavailable_and_not_waited_for_without_end(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db", busy_seconds=0.1)
    await store.read("k")
    holder = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    assert await store.read("k") is None
    assert await store.get("dial:k") is None
    with pytest.raises(StoreUnavailable):
        await store.lease("k", 1.0)
    with pytest.raises(StoreUnavailable):
        await store.write("dial:k", b"a", after=0, seconds=60.0)
    with pytest.raises(StoreUnavailable):
        await store.erase("dial:k", after=1)

    holder.execute("ROLLBACK")
    holder.close()
    assert isinstance(await store.lease("k", 1.0), Lease)
    await store.close()


async def test_behind_others_that_wait_for_a_database_nobody_waits_for_longer_than_it_would_alone(
    tmp_path: Path,
) -> None:
    looks = 0

    def clock() -> float:
        """It goes on only while something is done with the file."""
        nonlocal looks
        looks += threading.current_thread() is not threading.main_thread()
        return looks * 0.06

    store = SqliteStore(tmp_path / "state.db", monotonic=clock, busy_seconds=0.1)
    await store.read("k")
    holder = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    calls = [store.write(f"dial:{number}", b"a", after=0, seconds=60.0) for number in range(50)]

    answers = await asyncio.gather(*calls, store.lease("k", 1.0), store.read("k"), return_exceptions=True)

    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    reasons = [str(answer) for answer in answers]
    # The file was tried for the first alone: the time of all others was over by then, also that of the refresh.
    assert reasons[1:] == ["queued"] * 51
    assert reasons[0] != "queued"
    holder.execute("ROLLBACK")
    holder.close()
    # What comes next has a time of its own.
    assert isinstance(await store.lease("k", 1.0), Lease)
    assert await store.get("dial:1") is None
    await store.close()


async def test_a_redis_that_is_gone_paused_or_back_is_told_apart(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server:
        store = RedisStore(RedisServer("127.0.0.1", server.port))
        heard: list[str | None] = []
        assert await store.put("k", b"a", generation=1, after=0, fence=None)
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.read("k")
        for asked in (
            store.get("dial:k"),
            store.write("dial:k", b"a", after=0, seconds=60.0),
            store.erase("dial:k", after=1),
            store.alive("0" * 32),
            store.listen(heard.append),
        ):
            with pytest.raises(StoreUnavailable):
                await asked
        assert heard == []
        assert await store.alive(store.owner)
        server.resume()
        stored = await store.read("k")
        assert stored is not None
        server.stop()
        with pytest.raises(StoreUnavailable):
            await store.lease("k", 1.0)
        with pytest.raises(StoreUnavailable):
            await store.listen(heard.append)
        assert heard == []
        await server.start()
        assert await store.read("k") is None
        await store.close()


async def test_who_does_not_listen_to_redis_is_vouched_for_by_nobody(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port):
        one, other = (RedisStore(RedisServer("127.0.0.1", unused_tcp_port)) for _ in range(2))
        heard: list[str | None] = []
        watching = asyncio.create_task(other.listen(heard.append))
        await until(lambda: heard)
        with pytest.raises(StoreUnavailable):
            await one.vouched()
        assert not await other.alive(one.owner)
        # Nor is its lease taken away, however it looks.
        await leased(one)
        assert isinstance(await other.lease("k", 30.0), Busy)

        listening = asyncio.create_task(one.listen(lambda _: None))
        await one.vouched()
        assert await other.alive(one.owner)

        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        with pytest.raises(StoreUnavailable):
            await one.vouched()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await one.close()
        await other.close()


async def test_who_listens_to_redis_can_be_stopped_at_any_time(tmp_path: Path, unused_tcp_port: int) -> None:
    async def stopped(after: float) -> None:
        store = RedisStore(RedisServer("127.0.0.1", unused_tcp_port))
        heard: list[str | None] = []
        listening = asyncio.create_task(store.listen(heard.append))
        await until(lambda: heard, turns=10_000)
        # About when it looks around by itself.
        await asyncio.sleep(after)
        listening.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(listening, return_exceptions=True)
        await store.close()

    async with redis_server(tmp_path / "redis", unused_tcp_port):
        await asyncio.gather(*(stopped(0.49 + number / 4000) for number in range(120)))


class CancelledAt:
    """Some work, in a task that is cancelled at the await of that number; `reached` says whether there was one."""

    def __init__(self, work: Coroutine[Any, Any, None], number: int) -> None:
        self.reached = False
        self._work = work
        self._number = number

    def __await__(self) -> Generator[Any, Any, None]:
        raised: BaseException | None = None
        for number in count():
            try:
                awaited = self._work.send(None) if raised is None else self._work.throw(raised)
            except StopIteration:
                return
            if number == self._number:
                self.reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield awaited
                raised = None
            except BaseException as exc:  # noqa: BLE001 - the work is told
                raised = exc


async def test_who_begins_to_listen_to_redis_can_be_stopped_at_each_step(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port):
        for number in range(1000):
            store = RedisStore(RedisServer("127.0.0.1", unused_tcp_port))
            heard: list[str | None] = []
            work = CancelledAt(store.listen(heard.append), number)

            async def listening(work: CancelledAt = work) -> None:
                await work

            task = asyncio.create_task(listening())
            ended, _ = await asyncio.wait([task], timeout=10)

            assert ended, number
            assert task.cancelled()
            assert work.reached
            await store.close()
            if heard:  # from here on it goes round and round
                return
    raise AssertionError("it was never heard of")


async def test_a_redis_that_loses_everything_is_noticed_by_who_listens(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server:
        store = RedisStore(RedisServer("127.0.0.1", server.port))
        heard: list[str | None] = []
        listening = asyncio.create_task(store.listen(heard.append))
        await until(lambda: heard == [None])

        await server.flush()

        await until(lambda: heard == [None, None])
        # A fence is greater than any before, though the server remembers none.
        before = await leased(store)
        await server.flush()
        assert (await leased(store)).fence > before.fence
        server.stop()
        with pytest.raises(StoreUnavailable):
            await listening
        await store.close()


async def test_keys_in_redis_go_away_when_nobody_touches_them(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server:
        store = RedisStore(RedisServer("127.0.0.1", server.port))
        await store.put("k", b"a", generation=1, after=0, fence=None)
        async with server.client() as client:
            assert await client.keys("*") == [b"dial-gateway:token:k"]
            assert 172_000 < await client.ttl("dial-gateway:token:k") <= 172_800
            version = await store.write("dial:k", b"a", after=0, seconds=60.0)
            assert 50 < await client.ttl("dial-gateway:record:dial:k") <= 60
            assert await client.hkeys("dial-gateway:record:dial:k") == [b"v", b"s"]
            assert await store.erase("dial:k", after=version)
            await asyncio.sleep(0.1)
            assert await client.keys("*") == [b"dial-gateway:token:k"]
        await store.close()


@asynccontextmanager
async def redis_with_tls(directory: Path, certificates: Certificates, port: int) -> AsyncIterator[RedisProcess]:
    pair = certificates.issue("redis", hosts=("127.0.0.1",))
    tls = ["--port", "0", "--tls-port", str(port), "--tls-cert-file", str(pair.certificate)]
    tls += ["--tls-key-file", str(pair.key), "--tls-ca-cert-file", str(certificates.ca), "--tls-auth-clients", "no"]
    tls += ["--user", "default", "off"]
    tls += ["--user", "gateway", "on", ">pass;word", "~dial-gateway:*", "&dial-gateway:*", *README_RULES]
    async with redis_server(directory / "redis", port, *tls) as server:
        yield server


async def test_redis_over_tls_with_a_user_and_a_password(
    tmp_path: Path, certificates: Certificates, unused_tcp_port: int
) -> None:
    async with redis_with_tls(tmp_path, certificates, unused_tcp_port) as server:
        good = RedisServer(
            "127.0.0.1", server.port, tls=True, ca=certificates.ca, username="gateway", password=Secret("pass;word")
        )
        store = RedisStore(good)
        assert await store.put("k", b"a", generation=1, after=0, fence=None)
        heard: list[str | None] = []
        listening = asyncio.create_task(store.listen(heard.append))
        await until(lambda: heard)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        version = await store.write("dial:k", b"a", after=0, seconds=60.0)
        assert await store.get("dial:k") == Page(version, b"a")
        assert await store.erase("dial:k", after=version)
        assert not await store.alive("0" * 32)
        await store.close()
        other = Certificates(tmp_path / "other")
        for bad in (
            RedisServer("127.0.0.1", server.port, tls=True, ca=other.ca, username="gateway", password=good.password),
            RedisServer("localhost", server.port, tls=True, ca=good.ca, username="gateway", password=good.password),
            RedisServer("127.0.0.1", server.port, tls=True, ca=good.ca, username="gateway", password=Secret("wrong")),
            RedisServer("127.0.0.1", server.port, tls=True, ca=good.ca),
            RedisServer("127.0.0.1", server.port),
        ):
            store = RedisStore(bad)
            with pytest.raises(StoreUnavailable) as raised:
                await store.read("k")
            assert "pass" not in f"{raised.value}{bad!r}".replace("password", "")
            # A password that was changed is taken with the next connection.
            if bad.password is not None and bad.password != good.password:
                store.authenticate(good)
                assert await store.read("k") is not None
            await store.close()


async def test_a_password_that_redis_gets_or_loses_meanwhile_is_taken_and_nothing_is_logged_of_it(
    tmp_path: Path, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server:
        without = RedisServer("127.0.0.1", server.port)
        having = RedisServer("127.0.0.1", server.port, password=Secret("pass;word"))
        store = RedisStore(without)
        assert await store.put("k", b"a", generation=1, after=0, fence=None)

        async def demanded(before: str | None, after: str) -> None:
            """The server wants another password, also of who is connected."""
            async with Redis(host="127.0.0.1", port=server.port, password=before) as client:
                await client.config_set("requirepass", after)
                await client.client_kill_filter(skipme=True)
            with pytest.raises(StoreUnavailable):
                await store.read("k")

        await demanded(None, "pass;word")
        with pytest.raises(StoreUnavailable):
            await store.read("k")
        store.authenticate(having)
        assert await store.read("k") is not None

        await demanded("pass;word", "")
        store.authenticate(without)
        assert await store.read("k") is not None
        await store.close()
    assert [record for record in caplog.records if record.name.startswith("redis")] == []


async def test_a_redis_of_version_5_is_understood(tmp_path: Path, unused_tcp_port: int) -> None:
    """It has no command for the newer protocol."""
    password = ("--requirepass", "pass;word", "--rename-command", "HELLO", "")
    async with redis_server(tmp_path / "redis", unused_tcp_port, *password) as server:
        store = RedisStore(RedisServer("127.0.0.1", server.port, database=3, password=Secret("pass;word")))
        heard: list[str | None] = []
        listening = asyncio.create_task(store.listen(heard.append))
        await until(lambda: heard)

        lease = await leased(store)
        assert await store.put("k", b"a", generation=1, after=0, fence=lease.fence)

        assert await store.read("k") is not None
        await until(lambda: heard == [None, "k"])
        assert not await store.alive("0" * 32)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await store.close()


@pytest.mark.parametrize("poison", [b"x", b"", b"-1", b"1.5", b"inf", b"nan", b"0x10", b"9" * 5000], ids=range(8))
async def test_what_is_no_number_in_redis_is_unreadable_and_the_next_one_takes_its_place(
    poison: bytes, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server:
        lines = Lines()
        seal = Seal([Secret(Fernet.generate_key())])
        store = RedisStore(RedisServer("127.0.0.1", server.port))
        vault = Vault("redis", store, seal, Log(LineWriter(lines)), Metrics("0"))
        token = Token(Secret("a"), 5, 0.0, None)
        assert await vault.put("k", token, after=0, fence=None)
        version = await vault.write("dial:k", b"a", after=0, seconds=60.0)
        async with server.client() as client:
            for field in ("g", "f", "u", "w", "n"):
                await client.hset("dial-gateway:token:k", field, poison)
            await client.hset("dial-gateway:record:dial:k", "v", poison)

        for _ in range(2):
            assert await vault.token("k") == Shelved(0, None)
            assert await vault.record("dial:k") == Kept(0, None)

        assert [line["event"] for line in lines.all()] == ["store.unreadable", "store.unreadable"]
        assert vault.available
        assert not await vault.put("k", token, after=5, fence=None)
        assert not await vault.erase("dial:k", after=version)
        failing = await vault.lease("k", 30.0)
        assert isinstance(failing, Lease)
        async with server.client() as client:
            await client.hset("dial-gateway:token:k", "n", poison)
        await vault.release("k", fence=failing.fence, hold=0.001)
        await asyncio.sleep(0.01)
        lease = await vault.lease("k", 30.0)
        assert isinstance(lease, Lease)
        assert (lease.fence > failing.fence, lease.failures) == (True, 1)
        assert await vault.put("k", token, after=0, fence=lease.fence)
        assert await vault.token("k") == Shelved(5, token)
        assert await vault.write("dial:k", b"b", after=0, seconds=60.0) > version
        await vault.close()
