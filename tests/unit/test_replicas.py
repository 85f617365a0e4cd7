"""Replicas that share tokens by a store, in random order against a contact centre that keeps one token a user.

The pieces are those of the gateway, and pure: `Lifecycle` in each replica, `Shelf` in the middle. What happens in
between (stalls, lost news, a store that loses everything or is away) is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.model import Secret, Token
from gateway.store import Lease
from gateway.store.shelf import Shelf
from gateway.tokens.lifecycle import Lifecycle, backoff, next_generation

LASTS: Final = 3600.0
LEASE: Final = 15.0
KEY: Final = "user"
REPLICAS: Final = st.integers(0, 2)


@dataclass
class ContactCentre:
    """One user's tokens: each new one ends the one before."""

    issued: int = 0
    until: float = 0.0
    applications: int = 0

    def issue(self, now: float) -> Secret:
        self.issued += 1
        self.until = now + LASTS
        return Secret(f"token-{self.issued}")

    def current(self, value: Secret) -> bool:
        return value == Secret(f"token-{self.issued}")

    def takes(self, value: Secret, now: float) -> bool:
        return self.current(value) and now < self.until


@dataclass
class Replica:
    life: Lifecycle = field(default_factory=lambda: Lifecycle(LASTS, renews=True))
    lease: Lease | None = None
    leased_until: float = 0.0
    after: int = 0
    fetched: Token | None = None
    generations: list[int] = field(default_factory=lambda: [0])


class Replicas(RuleBasedStateMachine):
    """What three replicas may do, and what may be done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_790_000_000.0
        self.centre = ContactCentre()
        self.shelf = Shelf()
        self.values: dict[int, bytes] = {}
        self.tokens: dict[bytes, Token] = {}
        self.replicas = [Replica() for _ in range(3)]
        self.fences: list[int] = []

    # --- the pieces, as the gateway puts them together

    def look(self, replica: Replica) -> None:
        stored = self.shelf.read(KEY)
        known = stored.generation if stored is not None else 0
        present = replica.life.token
        if stored is not None and known > replica.life.generation:
            token = self.tokens[stored.sealed]
            if token.expires is not None and self.now < token.expires:
                replica.life.take(token)
        elif present is not None and known < present.generation and replica.life.usable(self.now) is not None:
            self.put(present, after=known, fence=None)

    def put(self, token: Token, *, after: int, fence: int | None) -> bool:
        sealed = f"{token.generation}/{token.value.reveal().decode()}".encode()
        self.tokens[sealed] = token
        return self.shelf.put(KEY, sealed, generation=token.generation, after=after, fence=fence, now=self.now)

    def obtain(self, replica: Replica, after: int) -> Token:
        generation = next_generation(max(after, replica.life.generation), self.now)
        self.centre.applications += 1
        return Token(self.centre.issue(self.now), generation, self.now, self.now + LASTS)

    # --- what may happen

    @rule(seconds=st.sampled_from([0.01, 0.4, 5.0, 16.0, 100.0, LASTS / 2, LASTS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=REPLICAS)
    def a_request_is_sent(self, number: int) -> None:
        life = self.replicas[number].life
        token = life.usable(self.now)
        if token is None:
            return
        assert token.expires is not None
        assert self.now < token.expires
        if not self.centre.takes(token.value, self.now):
            life.refuse(token.generation)
            assert life.usable(self.now) is None

    @rule(number=REPLICAS)
    def news_arrive(self, number: int) -> None:
        self.look(self.replicas[number])

    @rule(number=REPLICAS)
    def a_refresh_begins(self, number: int) -> None:
        replica = self.replicas[number]
        trigger = replica.life.due(self.now)
        if trigger is None or replica.lease is not None:
            return
        replica.life.begin(trigger, self.now)
        before = replica.life.generation
        self.look(replica)
        if replica.life.generation > before:
            replica.life.succeed(self.now)
            return
        lease = self.shelf.lease(KEY, LEASE, self.now)
        if not isinstance(lease, Lease):
            replica.life.postpone(self.now, lease.seconds)
            return
        assert all(lease.fence > fence for fence in self.fences)
        self.fences.append(lease.fence)
        stored = self.shelf.read(KEY)
        replica.lease, replica.leased_until = lease, self.now + LEASE
        replica.after = stored.generation if stored is not None else 0
        replica.fetched = None

    @rule(number=REPLICAS)
    def the_fabric_answers(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.lease is not None and replica.fetched is None:
            replica.fetched = self.obtain(replica, replica.after)

    @rule(number=REPLICAS)
    def the_fabric_fails(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.lease is None or replica.fetched is not None:
            return
        hold = backoff(replica.lease.failures + 1)
        self.shelf.release(KEY, fence=replica.lease.fence, hold=hold, now=self.now)
        replica.life.fail(self.now, "timeout", hold)
        replica.lease = None

    @rule(number=REPLICAS)
    def what_was_fetched_is_written(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.lease is None or replica.fetched is None:
            return
        token, lease = replica.fetched, replica.lease
        replica.lease = replica.fetched = None
        written = self.put(token, after=replica.after, fence=lease.fence)
        if written:
            # Whoever stalled until the lease was over, or somebody else had the next one, can't write.
            assert self.now < replica.leased_until
            assert lease.fence == max(self.fences)
            replica.life.take(token)
            replica.life.succeed(self.now)
            return
        before = replica.life.generation
        self.look(replica)
        if replica.life.generation > before:
            replica.life.succeed(self.now)
        else:
            self.shelf.release(KEY, fence=lease.fence, hold=1.0, now=self.now)
            replica.life.fail(self.now, "too_late", 1.0)

    @rule(number=REPLICAS)
    def a_replica_dies_and_comes_back(self, number: int) -> None:
        self.replicas[number] = Replica()

    @rule(number=REPLICAS)
    def nslb_renews_in_band(self, number: int) -> None:
        replica = self.replicas[number]
        token = replica.life.usable(self.now)
        if token is None or not self.centre.current(token.value):
            return
        stored = self.shelf.read(KEY)
        after = stored.generation if stored is not None else 0
        value = self.centre.issue(self.now)
        newer = Token(value, next_generation(token.generation, self.now), self.now, self.now + LASTS)
        assert replica.life.take(newer, in_band=True)
        if after < newer.generation:
            self.put(newer, after=after, fence=None)

    @rule(number=REPLICAS)
    def without_a_store_a_replica_refreshes_alone(self, number: int) -> None:
        replica = self.replicas[number]
        trigger = replica.life.due(self.now)
        if trigger is None or replica.lease is not None or replica.life.usable(self.now) is not None:
            return
        replica.life.begin(trigger, self.now)
        assert replica.life.take(self.obtain(replica, 0))
        replica.life.succeed(self.now)

    @precondition(lambda self: self.centre.issued)
    @rule()
    def the_store_loses_everything(self) -> None:
        self.shelf = Shelf()
        self.fences.clear()

    # --- what always holds

    @invariant()
    def generations_only_grow(self) -> None:
        for replica in self.replicas:
            replica.generations.append(replica.life.generation)
            assert replica.generations[-1] >= replica.generations[-2]
            assert (replica.life.usable(self.now) is None) <= (replica.life.state(self.now) not in {"fresh", "renewed"})

    def teardown(self) -> None:
        """Left alone, all come to hold the one token that the contact centre takes."""
        for number in range(3):
            self.the_fabric_answers(number)
            self.what_was_fetched_is_written(number)
        for _ in range(12):
            for number in range(3):
                self.news_arrive(number)
                self.a_request_is_sent(number)
                self.a_refresh_begins(number)
                self.the_fabric_answers(number)
                self.what_was_fetched_is_written(number)
            self.now += 61.0
        sent = [replica.life.usable(self.now) for replica in self.replicas]
        assert all(token is not None and self.centre.takes(token.value, self.now) for token in sent)
        settled = self.centre.applications
        for number in range(3):
            self.a_request_is_sent(number)
            self.a_refresh_begins(number)
        assert self.centre.applications == settled


Replicas.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestReplicas = Replicas.TestCase
