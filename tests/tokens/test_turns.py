"""Applying in turn: whatever happens in the store between the lease and the writing, one token comes out of it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.config import ClientTLS
from gateway.model import Secret, Token
from gateway.simulator import APP_KEY, APP_SECRET, Fault, Simulator
from gateway.store import Busy, Lease, MemoryStore, Seal, Stored, StoreUnavailable, Vault
from gateway.store.shelf import Shelf as Tokens
from gateway.telemetry import LineWriter, Log, Metrics
from gateway.tokens import ApiFabric, App, AppliedSource, RefreshFailed, User
from gateway.tokens.lifecycle import Attempt, Lifecycle, Trigger
from gateway.tokens.source import Postponed
from gateway.upstream import PeerPolicy, client_context
from tests.harness import Farm, until

NOW = 1_795_461_225.0


class Shelf(MemoryStore):
    """A store in which something happens in the moment before a token is written, or whenever it is asked."""

    def __init__(self) -> None:
        self.now = NOW
        super().__init__(lambda: self.now)
        self.before_put: Callable[[], None] = lambda: None
        self.away = False
        self.comes_back_after = 0
        self.goes_after_put = False
        self.after_lease: Callable[[], None] = lambda: None
        self.leases = 0

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        self.leases += 1
        given = await super().lease(key, seconds)
        happens, self.after_lease = self.after_lease, lambda: None
        happens()
        return given

    async def read(self, key: str) -> Stored | None:
        if self.comes_back_after:
            self.comes_back_after -= 1
            raise StoreUnavailable("locked")
        if self.away:
            raise StoreUnavailable("gone")
        return await super().read(key)

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        happens, self.before_put = self.before_put, lambda: None
        happens()
        if self.away:
            raise StoreUnavailable("gone")
        try:
            return await super().put(key, sealed, generation=generation, after=after, fence=fence)
        finally:
            self.away = self.goes_after_put


class Office:
    """One replica's source, and the store that it has in common with others."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.store = Shelf()
        self.vault = Vault("memory", self.store, Seal(), Log(LineWriter(io.BytesIO())), Metrics("0"))
        host, _, port = simulator.fabric_url.removeprefix("https://").partition(":")
        tls = ClientTLS.model_validate({"ca": str(simulator.ca), "server_name": simulator.fabric_name})
        app = App(host, int(port), Secret(APP_KEY), Secret(APP_SECRET))
        self._app, self._policy = app, PeerPolicy(client_context(tls), tls.server_name)
        self.fabric = self.other_fabric()
        self.source = self.source_of("gateway-sales", 1.0)

    def other_fabric(self) -> ApiFabric:
        """The same fabric, for another application."""
        return ApiFabric(self._app, self._policy)

    def source_of(self, user: str, timeout: float) -> AppliedSource:
        """What applies for a user's tokens."""
        return AppliedSource(
            self.fabric,
            User(user, "Sales", "2023", "en"),
            (user.encode(),),
            (user.encode(),),
            self.vault,
            lasts=3600.0,
            timeout=timeout,
            wall=lambda: self.store.now,
        )

    async def keep(self, generation: int, after: int = 0) -> Token:
        """Another replica has put a token into the store."""
        token = Token(Secret(f"other-{generation}"), generation, NOW, NOW + 3600)
        assert await self.vault.put(self.source.key, token, after=after, fence=None)
        return token

    def keep_in_between(self, generation: int) -> None:
        """The same, in the moment before the next token is written."""
        token = Token(Secret(f"other-{generation}"), generation, NOW, NOW + 3600)
        sealed = self.vault.seal.close(self.source.key, token)
        shelf = self.store._shelf
        self.store.before_put = lambda: self.took(
            shelf.put(self.source.key, sealed, generation=generation, after=0, fence=None, now=NOW)
        )

    @staticmethod
    def took(written: bool) -> None:
        assert written


@pytest.fixture
async def office(farm: Farm) -> AsyncIterator[Office]:
    made = Office(await farm.simulator())
    yield made
    await made.fabric.close()


def attempt(life: Lifecycle | None = None) -> Attempt:
    """A refresh that begins, of an account that has no token if no other is given."""
    return (life or Lifecycle(3600.0, renews=True)).begin(Trigger.START, NOW)


def life_with(token: Token) -> Lifecycle:
    life = Lifecycle(3600.0, renews=True)
    life.take(token)
    return life


async def test_a_token_that_is_there_is_taken_and_none_applied_for(office: Office) -> None:
    token = await office.keep(5)

    renewal = await office.source.renew(attempt())

    assert (renewal.token, renewal.obtained, renewal.kept) == (token, False, True)
    assert office.simulator.fabric_received == []


async def test_a_token_that_is_over_is_no_token(office: Office) -> None:
    await office.keep(5)
    office.store.now += 3600

    renewal = await office.source.renew(attempt())

    assert (renewal.obtained, renewal.kept) == (True, True)
    assert renewal.token.generation > 5
    shelved = await office.vault.token(office.source.key)
    assert shelved is not None
    assert shelved.token == renewal.token


async def test_what_nslb_sent_to_another_while_the_fabric_was_asked_is_over_and_overwritten(office: Office) -> None:
    office.keep_in_between(7)

    renewal = await office.source.renew(attempt())

    assert (renewal.obtained, renewal.kept) == (True, True)
    assert renewal.token.value == Secret(office.simulator.tokens.current("gateway-sales") or "")
    shelved = await office.vault.token(office.source.key)
    assert shelved is not None
    assert shelved.token == renewal.token
    assert shelved.generation > 7
    assert office.simulator.fabric.apply_token_requests == 1


@pytest.mark.parametrize("ahead", [0, 3_600_000])
async def test_not_even_a_number_of_a_clock_that_is_ahead_keeps_it(office: Office, ahead: int) -> None:
    there = int(NOW * 1000) + ahead
    office.keep_in_between(there)

    renewal = await office.source.renew(attempt())

    assert (renewal.obtained, renewal.kept) == (True, True)
    shelved = await office.vault.token(office.source.key)
    assert shelved is not None
    assert shelved.token == renewal.token
    assert shelved.generation > there


async def test_what_was_applied_for_under_the_next_lease_is_not_overwritten(office: Office) -> None:
    later = Token(Secret("later"), 7, NOW, NOW + 7200)

    def stall() -> None:
        """Until the lease is over, and another replica has had the next one."""
        office.store.now += 60
        shelf, key = office.store._shelf, office.source.key
        lease = shelf.lease(key, 15.0, office.store.now)
        assert isinstance(lease, Lease)
        sealed = office.vault.seal.close(key, later)
        assert shelf.put(key, sealed, generation=7, after=0, fence=lease.fence, now=office.store.now)

    office.store.before_put = stall

    renewal = await office.source.renew(attempt())

    assert (renewal.token, renewal.obtained) == (later, False)
    shelved = await office.vault.token(office.source.key)
    assert shelved is not None
    assert shelved.token == later
    # The lease is free again.
    assert isinstance(await office.vault.lease(office.source.key, 1.0), Lease)


async def test_a_store_that_goes_when_a_token_could_not_be_written_costs_no_token(office: Office) -> None:
    office.keep_in_between(7)
    written = office.store.before_put

    def go() -> None:
        written()
        office.store.goes_after_put = True

    office.store.before_put = go

    renewal = await office.source.renew(attempt())

    assert (renewal.obtained, renewal.kept) == (True, False)
    assert renewal.token.value == Secret(office.simulator.tokens.current("gateway-sales") or "")
    assert office.simulator.fabric.apply_token_requests == 1


async def test_who_stalls_until_the_lease_is_over_writes_nothing_and_waits(office: Office) -> None:
    def stall() -> None:
        office.store.now += 3600

    office.store.before_put = stall

    with pytest.raises(RefreshFailed) as raised:
        await office.source.renew(attempt())

    assert raised.value.reason == "too_late"
    assert raised.value.wait is not None
    assert raised.value.wait >= 1.0
    assert await office.vault.token(office.source.key) is None


@pytest.mark.parametrize("had", [True, False])
async def test_a_store_that_loses_everything_while_the_fabric_is_asked_costs_no_token(
    office: Office, had: bool
) -> None:
    life = life_with(await office.keep(5)) if had else None

    def lose() -> None:
        office.store._shelf = Tokens()

    office.store.before_put = lose

    renewal = await office.source.renew(attempt(life))

    # Its account gives it to the store, which has nothing, and keeps nobody from it.
    assert (renewal.obtained, renewal.kept, renewal.alone) == (True, False, False)
    assert renewal.token.value == Secret(office.simulator.tokens.current("gateway-sales") or "")
    assert renewal.token.generation > 5
    assert office.simulator.fabric.apply_token_requests == 1
    assert await office.vault.token(office.source.key) is None
    assert isinstance(await office.vault.lease(office.source.key, 1.0), Lease)


async def test_a_store_that_goes_while_the_fabric_is_asked_costs_no_token(office: Office) -> None:
    def go() -> None:
        office.store.away = True

    office.store.before_put = go

    renewal = await office.source.renew(attempt())

    assert (renewal.obtained, renewal.kept) == (True, False)
    assert renewal.token.value == Secret(office.simulator.tokens.current("gateway-sales") or "")
    assert office.simulator.fabric.apply_token_requests == 1


async def test_without_a_store_a_token_that_can_be_sent_is_left_alone(office: Office) -> None:
    token = Token(Secret("mine"), 3, NOW, NOW + 3600)
    office.store.away = True

    with pytest.raises(Postponed):
        await office.source.renew(attempt(life_with(token)))
    assert office.simulator.fabric_received == []

    refused = life_with(token)
    refused.refuse(3)
    renewal = await office.source.renew(attempt(refused))
    assert (renewal.obtained, renewal.kept) == (True, False)
    assert renewal.token.generation > 3


async def test_a_store_that_is_busy_for_a_moment_is_asked_again_before_anybody_applies_alone(office: Office) -> None:
    token = await office.keep(5)
    office.store.comes_back_after = 3

    renewal = await office.source.renew(attempt())

    assert (renewal.token, renewal.obtained, renewal.kept) == (token, False, True)
    assert office.simulator.fabric_received == []


async def test_without_a_store_who_is_displaced_waits_and_asks_the_store_all_the_while(office: Office) -> None:
    office.store.away = True
    life = Lifecycle(3600.0, renews=True)
    alone = await office.source.renew(attempt(life))
    assert alone.alone
    life.take(alone.token, alone=True)
    life.succeed(NOW)
    life.refuse(alone.token.generation)

    with pytest.raises(RefreshFailed) as raised:
        await office.source.renew(attempt(life))
    assert (raised.value.reason, raised.value.wait) == ("displaced", 1.0)
    life.fail(NOW, "displaced", 1.0)
    with pytest.raises(Postponed):
        await office.source.renew(attempt(life))
    assert office.simulator.fabric.apply_token_requests == 1

    # Who has displaced it is there again with the store, or may be displaced in its turn.
    office.store.away = False
    token = await office.keep(alone.token.generation + 7)
    assert (await office.source.renew(attempt(life))).token == token
    office.store.away = True
    office.store.now += 2.0
    renewal = await office.source.renew(attempt(life))
    assert (renewal.alone, renewal.token.generation > alone.token.generation) == (True, True)
    assert office.simulator.fabric.apply_token_requests == 2


async def test_who_finds_another_at_work_waits_for_its_token(office: Office) -> None:
    lease = await office.vault.lease(office.source.key, 60.0)
    assert isinstance(lease, Lease)
    waiting = asyncio.create_task(office.source.renew(attempt()))
    await asyncio.sleep(0.1)
    token = await office.keep(9)

    renewal = await waiting

    assert (renewal.token, renewal.obtained) == (token, False)
    assert office.simulator.fabric_received == []


async def test_who_has_a_newer_token_by_now_takes_no_lease(office: Office) -> None:
    life = life_with(Token(Secret("old"), 3, NOW, NOW + 3600))
    refreshing = attempt(life)
    newer = Token(Secret("in band"), 4, NOW, NOW + 3600)
    life.take(newer, in_band=True)

    renewal = await office.source.renew(refreshing)

    assert (renewal.token, renewal.obtained, renewal.kept) == (newer, False, False)
    assert office.simulator.fabric_received == []


async def test_who_has_a_newer_token_when_the_lease_is_its_own_applies_for_none(office: Office) -> None:
    life = life_with(Token(Secret("old"), 3, NOW, NOW + 3600))
    refreshing = attempt(life)
    newer = Token(Secret("in band"), 4, NOW, NOW + 3600)
    office.store.after_lease = lambda: office.took(life.take(newer, in_band=True))

    renewal = await office.source.renew(refreshing)

    assert (renewal.token, renewal.obtained, renewal.kept) == (newer, False, False)
    assert office.simulator.fabric_received == []
    assert isinstance(await office.vault.lease(office.source.key, 1.0), Lease)


async def test_what_nslb_sends_while_another_applies_is_not_taken_for_what_it_applied_for(office: Office) -> None:
    life = life_with(Token(Secret("old"), 3, NOW, NOW + 3600))
    lease = await office.vault.lease(office.source.key, 60.0)
    assert isinstance(lease, Lease)
    waiting = asyncio.create_task(office.source.renew(attempt(life)))
    await until(lambda: life.asked)
    life.take(Token(Secret("in band"), 4, NOW, NOW + 3600), in_band=True)
    asked = office.store.leases
    await until(lambda: office.store.leases > asked + 1)
    assert not waiting.done()

    applied = Token(Secret("applied"), 1003, NOW, NOW + 3600)
    assert await office.vault.put(office.source.key, applied, after=0, fence=lease.fence)

    assert (await waiting).token == applied
    assert office.simulator.fabric_received == []


async def test_who_waits_for_another_in_vain_waits_to_the_end_of_the_lease_and_is_the_next(office: Office) -> None:
    assert isinstance(await office.vault.lease(office.source.key, 3600.0), Lease)
    waiting = asyncio.create_task(office.source.renew(attempt()))
    # It has looked for longer than one refresh takes (a second, with twenty looks).
    await until(lambda: office.store.leases > 30)
    assert not waiting.done()
    assert office.simulator.fabric_received == []

    office.store.now += 3600.0

    renewal = await waiting
    assert (renewal.obtained, renewal.kept) == (True, True)
    assert office.simulator.fabric.apply_token_requests == 1


async def test_after_a_failure_of_any_replica_all_wait_and_each_failure_makes_it_longer(office: Office) -> None:
    office.simulator.fault(Fault("status", operation="applyToken", times=None, status=500))
    waits = []
    for failures in range(1, 13):
        with pytest.raises(RefreshFailed) as raised:
            await office.source.renew(attempt())
        asked = len(office.simulator.fabric_received)
        with pytest.raises(Postponed) as postponed:
            await office.source.renew(attempt())
        assert len(office.simulator.fabric_received) == asked
        assert raised.value.wait is not None
        assert postponed.value.wait == pytest.approx(raised.value.wait, abs=0.01)
        assert postponed.value.failures == failures
        waits.append(raised.value.wait)
        office.store.now += raised.value.wait

    assert max(waits[:1]) <= 2.0
    assert max(waits) <= 60.0
    assert max(waits) > 2.0
    office.simulator.clear_faults()
    assert (await office.source.renew(attempt())).kept
    lease = await office.vault.lease(office.source.key, 1.0)
    assert isinstance(lease, Lease)
    assert lease.failures == 0


async def test_another_application_waits_for_nothing_that_this_process_waits_for(office: Office) -> None:
    office.simulator.fault(Fault("status", operation="applyToken", times=3, status=500))
    for _ in range(3):
        office.store.now += 61.0
        with pytest.raises(RefreshFailed):
            await office.source.renew(attempt())
    same, stranger, other = (office.source_of("gateway-sales", 1.0) for _ in range(3))
    other.fabric = stranger.fabric = office.other_fabric()
    same.follow(office.source)
    other.follow(same)
    for source in (office.source, same, stranger):
        with pytest.raises(Postponed):
            await source.renew(attempt())

    renewal = await other.renew(attempt())

    assert (renewal.obtained, renewal.kept) == (True, True)
    await other.fabric.close()


async def test_more_accounts_than_connections_wait_for_each_other_and_not_with_a_lease(office: Office) -> None:
    office.simulator.fault(Fault("delay", operation="applyToken", times=8, seconds=2.0))
    office.simulator.fault(Fault("delay", operation="applyToken", times=8, seconds=1.5))
    sources = [office.source_of(f"user-{number}", 3.0) for number in range(16)]
    renewing = [asyncio.create_task(source.renew(attempt())) for source in sources]
    await until(lambda: office.simulator.fabric.apply_token_requests or len(office.simulator.fabric_received) > 8)
    assert office.store.leases == 8

    # Half of them wait for longer than is left of the time for one refresh, which has not begun for them.
    renewals = await asyncio.gather(*renewing)

    assert all(renewal.obtained and renewal.kept for renewal in renewals)
    assert office.store.leases == 16
    assert [request.operation for request in office.simulator.fabric_received].count("applyToken") == 16


async def test_a_refresh_that_is_cancelled_leaves_the_lease_to_the_next(office: Office) -> None:
    office.simulator.fault(Fault("silence", operation="applyToken"))
    refreshing = asyncio.create_task(office.source.renew(attempt()))
    await office.simulator.until(lambda: len(office.simulator.fabric_received) == 2)

    refreshing.cancel()
    await asyncio.gather(refreshing, return_exceptions=True)

    assert (await office.source.renew(attempt())).kept
