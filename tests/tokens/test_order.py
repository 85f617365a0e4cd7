"""Tokens in the order in which they were made: whichever arrives last, the one that NSLB takes is kept.

Accounts of several replicas, each with the real API Fabric of the simulator before it, on one store. None of them
listens to it, so that each hears of the others only when it looks.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from gateway.config import ClientTLS
from gateway.model import Secret, Token
from gateway.simulator import APP_KEY, APP_SECRET, Fault, Simulator
from gateway.store import Busy, Lease, MemoryStore, Seal, Stored, StoreUnavailable, Vault
from gateway.telemetry import LineWriter, Log, Metrics
from gateway.tokens import Account, ApiFabric, App, AppliedSource, User
from gateway.upstream import PeerPolicy, client_context
from tests.harness import Farm, Lines, until

NOW = 1_795_461_225.0
HOUR = 3600.0


async def nothing() -> None:
    """What mostly happens."""


class Shelf(MemoryStore):
    """A store in which something happens, once, in the moment before a token is written under a lease."""

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__(wall)
        self.happens: Callable[[], Awaitable[None]] = nothing
        self.leases = 0
        self.away = False

    async def read(self, key: str) -> Stored | None:
        if self.away:
            raise StoreUnavailable("gone")
        return await super().read(key)

    async def lease(self, key: str, seconds: float) -> Lease | Busy:
        self.leases += 1
        return await super().lease(key, seconds)

    async def put(self, key: str, sealed: bytes, *, generation: int, after: int, fence: int | None) -> bool:
        if fence is not None:
            happens, self.happens = self.happens, nothing
            await happens()
        return await super().put(key, sealed, generation=generation, after=after, fence=fence)


class Office:
    """Replicas that call for one user."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.now = NOW
        self.store = Shelf(self.wall)
        self.lines = Lines()
        host, _, port = simulator.fabric_url.removeprefix("https://").partition(":")
        tls = ClientTLS.model_validate({"ca": str(simulator.ca), "server_name": simulator.fabric_name})
        app = App(host, int(port), Secret(APP_KEY), Secret(APP_SECRET))
        self.fabric = ApiFabric(app, PeerPolicy(client_context(tls), tls.server_name))
        self.accounts: list[Account] = []
        self.sent: list[Secret | None] = []

    def wall(self) -> float:
        return self.now

    def replica(self) -> Account:
        """One more."""
        log, metrics = Log(LineWriter(self.lines)), Metrics("0")
        vault = Vault("memory", self.store, Seal(), Log(LineWriter(io.BytesIO())), metrics)
        user, who = User("gateway-sales", "Sales", "2023", "en"), (b"somebody",)
        source = AppliedSource(self.fabric, user, who, who, vault, lasts=HOUR, timeout=1.0, wall=self.wall)
        account = Account("sales", source, vault, log, metrics, lasts=HOUR, wall=self.wall)
        self.accounts.append(account)
        return account

    async def replicas(self, count: int) -> list[Account]:
        """So many that have the same token."""
        made = [self.replica() for _ in range(count)]
        for account in made:
            await account.obtain()
        assert len({account.generation for account in made}) == 1
        return made

    def renewed_in_band(self) -> Secret:
        """NSLB has made a token of the present one."""
        return Secret(self.simulator.issue_token("gateway-sales"))

    async def refused(self, account: Account, generation: int) -> bool:
        """NSLB has refused a request of that generation, which is sent once more when there is another token."""
        had = await account.renew(generation)
        self.sent.append(sends(account))
        return had

    @property
    def current(self) -> Secret:
        """The token that NSLB takes."""
        return Secret(self.simulator.tokens.current("gateway-sales") or "")

    @property
    def applications(self) -> int:
        return self.simulator.fabric.apply_token_requests

    async def close(self) -> None:
        for account in self.accounts:
            await account.close()
        await self.fabric.close()


@pytest.fixture
async def office(farm: Farm) -> AsyncIterator[Office]:
    made = Office(await farm.simulator())
    yield made
    await made.close()


def sends(account: Account) -> Secret | None:
    """The token that the next request would be sent with."""
    credential = account.credential()
    return credential.secrets[0] if credential is not None else None


async def shelved(account: Account) -> Secret | None:
    """The token that the store has."""
    found = await account.source._vault.token(account.source.key)  # type: ignore[attr-defined]
    return found.token.value if found is not None and found.token is not None else None


@pytest.mark.parametrize("skew", [0.0, 600.0, -600.0])
async def test_a_late_answer_takes_no_token_away_that_was_applied_for_since(office: Office, skew: float) -> None:
    one, other = await office.replicas(2)
    generation = one.generation
    late = office.renewed_in_band()
    assert await other.renew(generation)
    applied = office.current
    # The answer arrives at a replica that has not heard of it, and whose clock may say anything.
    office.now += skew
    one.renewed(late, generation, 0.3)
    await until(lambda: sends(one) == applied)

    assert await shelved(one) == applied
    await other.looked()
    assert sends(other) == applied
    assert office.applications == 2


async def test_what_nslb_sends_lasts_from_when_it_was_asked(office: Office) -> None:
    (account,) = await office.replicas(1)
    office.now += 60.0

    account.renewed(office.renewed_in_band(), account.generation, 7.0)

    assert account.status()["token_expires"] == NOW + 60.0 - 7.0 + HOUR
    assert sends(account) == office.current


async def test_what_nslb_sends_while_its_end_is_applied_for_is_sent_by_nobody_who_can_send_once_more(
    office: Office,
) -> None:
    (account,) = await office.replicas(1)
    generation = account.generation
    renewed = office.renewed_in_band()

    async def arrives() -> None:
        """When the fabric has made its token, and before it is written."""
        assert office.current != renewed
        account.renewed(renewed, generation, 0.3)
        await asyncio.sleep(0)

    office.store.happens = arrives

    assert all(await asyncio.gather(*(office.refused(account, generation) for _ in range(20))))

    assert office.sent == [office.current] * 20
    assert renewed not in office.sent
    assert await shelved(account) == office.current
    assert office.applications == 2


async def test_what_nslb_sent_to_another_replica_meanwhile_ends_with_the_application(office: Office) -> None:
    one, other = await office.replicas(2)
    generation = one.generation
    renewed = office.renewed_in_band()

    async def arrives() -> None:
        other.renewed(renewed, generation, 0.3)
        await asyncio.gather(*other._sharing.running)
        assert await shelved(one) == sends(other) == renewed

    office.store.happens = arrives

    assert all(await asyncio.gather(*(office.refused(one, generation) for _ in range(5))))

    assert office.sent == [office.current] * 5
    assert await shelved(one) == office.current
    await other.looked()
    assert sends(other) == office.current
    assert office.applications == 2


async def test_what_nslb_sent_is_used_if_the_application_fails(office: Office) -> None:
    one, other = await office.replicas(2)
    generation, former = one.generation, sends(one)
    office.simulator.fault(Fault("status", "applyToken", status=500, delay=0.2))
    asked = len(office.simulator.fabric_received)
    waiting = asyncio.gather(*(office.refused(one, generation) for _ in range(5)))
    await until(lambda: len(office.simulator.fabric_received) > asked)

    renewed = office.renewed_in_band()
    one.renewed(renewed, generation, 0.3)

    # A request that was not refused need not wait, and nothing is written past the lease.
    assert sends(one) == renewed
    await one.obtain()
    assert await shelved(one) == former
    assert not waiting.done()
    assert all(await waiting)
    assert renewed == office.current
    assert office.sent == [renewed] * 5
    await until(lambda: not one._sharing.running)
    assert await shelved(one) == renewed
    await other.looked()
    assert sends(other) == renewed


async def test_who_waits_for_what_another_applies_for_does_not_send_what_nslb_sent_meanwhile(office: Office) -> None:
    one, other = await office.replicas(2)
    generation = one.generation
    renewed = office.renewed_in_band()
    waiting: list[asyncio.Future[list[bool]]] = []

    async def arrives() -> None:
        """The one that does not apply waits, and NSLB's answer comes to it."""
        waiting.append(asyncio.gather(*(office.refused(other, generation) for _ in range(5))))
        await until(lambda: other._life.asked)
        other.renewed(renewed, generation, 0.3)

    office.store.happens = arrives

    assert await office.refused(one, generation)
    assert all(await waiting[0])

    assert office.sent == [office.current] * 6
    assert sends(other) == await shelved(other) == office.current
    assert office.applications == 2


async def test_a_token_that_could_not_be_written_is_given_to_the_store_afterwards(office: Office) -> None:
    one, other = await office.replicas(2)

    async def fails() -> None:
        raise StoreUnavailable("a hiccup")

    office.store.happens = fails

    assert await office.refused(one, one.generation)
    await until(lambda: not one._sharing.running)

    assert await shelved(one) == office.current
    await other.looked()
    assert sends(other) == office.current
    assert office.applications == 2


async def test_without_a_store_what_is_applied_for_is_newer_whatever_the_clock_says(office: Office) -> None:
    (account,) = await office.replicas(1)
    office.store.away = True
    office.now -= 600.0

    assert await office.refused(account, account.generation)

    assert office.sent == [office.current]
    assert office.applications == 2
    office.store.away = False
    await account.looked()
    assert await shelved(account) == office.current


async def test_a_token_whose_time_is_over_is_not_taken_from_the_store(office: Office) -> None:
    one, other = await office.replicas(2)
    generation = one.generation
    assert await office.refused(other, generation)
    office.now += HOUR

    await one.looked()

    assert one.generation == generation
    assert sends(one) is None


async def test_an_answer_of_the_fabric_that_gets_lost_costs_no_replica_its_calls(office: Office) -> None:
    one, other = await office.replicas(2)
    generation = one.generation
    office.simulator.fault(Fault("truncated", "applyToken"))
    office.simulator.expire()

    waiting = asyncio.gather(*(office.refused(account, generation) for account in (one, other) for _ in range(5)))
    await until(lambda: one._life.failures == other._life.failures == 1)
    assert office.sent == []
    office.now += 2.0

    assert all(await waiting)
    assert office.sent == [office.current] * 10
    # The one whose answer got lost, and the next.
    assert office.applications == 3


async def test_who_is_cut_off_from_the_store_does_not_end_what_the_others_apply_for_again_and_again(
    office: Office,
) -> None:
    (account,) = await office.replicas(1)
    office.store.away = True
    assert await office.refused(account, account.generation)
    assert (office.applications, office.sent) == (2, [office.current])
    alone = account.generation

    # Somebody else has applied, in turn.
    theirs = Secret(office.simulator.issue_token("gateway-sales"))
    account.refuse(alone)
    account.tend()
    await until(lambda: office.lines.of("token.refresh_failed"))

    (line,) = office.lines.of("token.refresh_failed")
    assert (line["reason"], line["retry_in"]) == ("displaced", 1.0)
    assert account.credential() is None
    assert (office.applications, office.current) == (2, theirs)
    # The store is looked into all the while.
    office.store.away = False
    token = Token(theirs, alone + 1000, NOW, NOW + HOUR)
    assert await account.source._vault.put(account.source.key, token, after=alone - 1000, fence=None)  # type: ignore[attr-defined]
    await account.looked()
    assert sends(account) == theirs


def has_failed(account: Account) -> bool:
    return bool(account.status()["state"] == "failed")


async def test_a_replica_that_was_not_its_turn_says_once_that_another_one_failed(office: Office) -> None:
    office.simulator.fault(Fault("status", operation="applyToken", times=None, status=500))
    one, other = office.replica(), office.replica()
    for _ in range(3):
        for account in (one, other):
            account.tend()
            await until(partial(has_failed, account))
        office.now += 61.0

    failed = office.lines.of("token.refresh_failed")
    assert [line["reason"] for line in failed].count("elsewhere") == 1
    (line,) = [line for line in failed if line["reason"] == "elsewhere"]
    assert (line["account"], line["trigger"], line["level"]) == ("sales", "start", "warning")
    for account in (one, other):
        status = account.status()
        assert (status["state"], status["last_refresh"]["result"]) == ("failed", "failure")
    assert other.status()["last_refresh"]["reason"] == "elsewhere"


async def test_after_the_second_failure_nobody_waits_for_the_third_try_at_any_replica(office: Office) -> None:
    one, other = await office.replicas(2)
    office.simulator.fault(Fault("status", "applyToken", times=None, status=500))
    waiting = asyncio.gather(*(office.refused(account, one.generation) for account in (one, other)))
    await until(lambda: one._life.failures == other._life.failures == 1)
    office.now += 2.0

    assert await waiting == [False, False]

    assert office.sent == [None, None]
    assert [request.operation for request in office.simulator.fabric_received].count("applyToken") == 3


async def test_the_calls_behind_one_that_stalls_with_the_lease_get_a_token_when_it_ends(office: Office) -> None:
    one, _ = await office.replicas(2)
    lease = await office.store.lease(one.source.key, 3600.0)
    assert isinstance(lease, Lease)
    waiting = asyncio.gather(*(office.refused(one, one.generation) for _ in range(5)))
    # It has looked for longer than one refresh may take.
    await until(lambda: office.store.leases > 40)
    assert office.sent == []
    assert office.applications == 1
    office.now += 3600.0 - 60.0
    assert not waiting.done()
    office.now += 60.0

    assert all(await waiting)
    assert office.sent == [office.current] * 5
    assert office.applications == 2
