"""Tokens in the order in which they were made: whichever arrives last, the one that NSLB takes is kept.

Accounts of several replicas, each with the real API Fabric of the simulator before it, on one store. None of them
listens to it, so that each hears of the others only when it looks.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest

from gateway.config import ClientTLS
from gateway.model import Secret
from gateway.simulator import APP_KEY, APP_SECRET, Simulator
from gateway.store import MemoryStore, Seal, Vault
from gateway.telemetry import LineWriter, Log, Metrics
from gateway.tokens import Account, ApiFabric, App, AppliedSource, User
from gateway.upstream import PeerPolicy, client_context
from tests.harness import Farm, Lines, until

NOW = 1_795_461_225.0
HOUR = 3600.0


class Office:
    """Replicas that call for one user."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.now = NOW
        self.store = MemoryStore(self.wall)
        self.lines = Lines()
        host, _, port = simulator.fabric_url.removeprefix("https://").partition(":")
        tls = ClientTLS.model_validate({"ca": str(simulator.ca), "server_name": simulator.fabric_name})
        app = App(host, int(port), Secret(APP_KEY), Secret(APP_SECRET))
        self.fabric = ApiFabric(app, PeerPolicy(client_context(tls), tls.server_name))
        self.accounts: list[Account] = []

    def wall(self) -> float:
        return self.now

    def replica(self) -> Account:
        """One more."""
        log, metrics = Log(LineWriter(self.lines)), Metrics("0")
        vault = Vault("memory", self.store, Seal(), Log(LineWriter(io.BytesIO())), metrics)
        user = User("gateway-sales", "Sales", "2023", "en")
        source = AppliedSource(self.fabric, user, (b"somebody",), vault, lasts=HOUR, timeout=5.0, wall=self.wall)
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
