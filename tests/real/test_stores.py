"""Every kind of store keeps the same promises: memory, a SQLite file, and a real Redis."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import Secret
from gateway.simulator import Certificates
from gateway.store import Busy, Lease, MemoryStore, Store, StoreUnavailable
from gateway.store.redis import RedisServer, RedisStore
from gateway.store.shelf import Shelf
from gateway.store.sqlite import SqliteStore
from tests.harness import until
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
        try:
            yield {"runner": runner, "sqlite": sqlite, "redis": redis, "count": 0}
        finally:
            runner.run(sqlite.close())
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
    with pytest.raises(StoreUnavailable):
        await store.lease("k", 1.0)

    holder.execute("ROLLBACK")
    holder.close()
    assert isinstance(await store.lease("k", 1.0), Lease)
    await store.close()


async def test_a_redis_that_is_gone_paused_or_back_is_told_apart(tmp_path: Path, unused_tcp_port: int) -> None:
    async with redis_server(tmp_path / "redis", unused_tcp_port) as server:
        store = RedisStore(RedisServer("127.0.0.1", server.port))
        heard: list[str | None] = []
        assert await store.put("k", b"a", generation=1, after=0, fence=None)
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.read("k")
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
