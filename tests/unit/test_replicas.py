"""Replicas that share tokens by a store, in random order against a contact centre that keeps one token a user.

The pieces are those of the gateway, and pure: `Lifecycle` in each replica, `Shelf` in the middle, and the decisions of
`standing` between them. What happens in between (stalls, lost news, answers that come late, clocks that differ, a store
that loses everything or is away) is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.model import Secret, Token
from gateway.store import Lease, Shelved
from gateway.store.shelf import Shelf
from gateway.tokens import standing
from gateway.tokens.lifecycle import Attempt, Lifecycle, backoff, next_generation

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
    alone: int = 0

    def issue(self, now: float) -> Secret:
        self.issued += 1
        self.until = now + LASTS
        return Secret(f"token-{self.issued}")

    def current(self, value: Secret) -> bool:
        return value == Secret(f"token-{self.issued}")

    def takes(self, value: Secret, now: float) -> bool:
        return self.current(value) and now < self.until


@dataclass
class Answer:
    """One that brings a token: to a request of that generation, sent then."""

    replica: Replica
    value: Secret
    generation: int
    sent: float


@dataclass
class Replica:
    skew: float = 0.0
    life: Lifecycle = field(default_factory=lambda: Lifecycle(LASTS, renews=True))
    lease: Lease | None = None
    leased_until: float = 0.0
    attempt: Attempt | None = None
    seen: Shelved | None = None
    fetched: Token | None = None
    known: int = 0
    generations: list[int] = field(default_factory=lambda: [0])


class Replicas(RuleBasedStateMachine):
    """What three replicas may do, and what may be done to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_790_000_000.0
        self.centre = ContactCentre()
        self.shelf = Shelf()
        self.under_way: list[Answer] = []
        self.tokens: dict[bytes, Token] = {}
        self.replicas = [Replica(skew) for skew in (0.0, 7.0, -7.0)]
        self.fences: list[int] = []
        self.disorder = False  # the store has lost everything, or somebody has applied out of turn

    # --- the pieces, as the gateway puts them together

    def clock(self, replica: Replica) -> float:
        return self.now + replica.skew

    def shelved(self) -> Shelved | None:
        stored = self.shelf.read(KEY)
        return Shelved(stored.generation, self.tokens[stored.sealed]) if stored is not None else None

    def look(self, replica: Replica) -> None:
        shelved, usable = self.shelved(), replica.life.usable(self.clock(replica))
        replica.known = standing.generation_of(shelved)
        newer = standing.newer(shelved, replica.life.generation, self.clock(replica))
        if newer is not None:
            replica.life.take(newer)
        elif usable is not None and standing.lacks(shelved, usable):
            self.keep(replica, usable)

    def keep(self, replica: Replica, token: Token) -> bool:
        kept = self.put(token, after=replica.known, fence=None)
        if kept:
            replica.known = token.generation
        return kept

    def put(self, token: Token, *, after: int, fence: int | None) -> bool:
        sealed = f"{token.generation}/{token.value.reveal().decode()}".encode()
        self.tokens[sealed] = token
        return self.shelf.put(KEY, sealed, generation=token.generation, after=after, fence=fence, now=self.now)

    def obtain(self, replica: Replica) -> Token:
        """What is applied for, which has no number yet."""
        now = self.clock(replica)
        self.centre.applications += 1
        return Token(self.centre.issue(self.now), 0, now, now + LASTS)

    def numbered(self, replica: Replica, attempt: Attempt, token: Token, after: int) -> Token:
        return replace(token, generation=next_generation(max(after, attempt.latest), self.clock(replica)))

    def ended(self, replica: Replica) -> None:
        """The refresh has ended: what the store has not got by now it may be given."""
        replica.lease = replica.fetched = replica.attempt = None
        if replica.known < replica.life.generation:
            self.look(replica)

    # --- what may happen

    @rule(seconds=st.sampled_from([0.01, 0.4, 5.0, 16.0, 100.0, LASTS / 2, LASTS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=REPLICAS)
    def a_request_is_sent(self, number: int) -> None:
        replica = self.replicas[number]
        life, now = replica.life, self.clock(replica)
        token = life.usable(now)
        if token is None:
            return
        assert token.expires is not None
        assert now < token.expires
        if not self.centre.takes(token.value, self.now):
            life.refuse(token.generation)
            assert life.usable(now) is None

    @rule(number=REPLICAS)
    def news_arrive(self, number: int) -> None:
        self.look(self.replicas[number])

    @rule(number=REPLICAS)
    def a_refresh_begins(self, number: int) -> None:
        replica = self.replicas[number]
        now = self.clock(replica)
        trigger = replica.life.due(now)
        if trigger is None or replica.lease is not None:
            return
        attempt = replica.life.begin(trigger, now)
        shelved = self.shelved()
        if (known := standing.newer(shelved, attempt.generation, now)) is not None:
            replica.life.succeed(now)
            replica.life.take(known)
            replica.known = known.generation
            return
        lease = self.shelf.lease(KEY, LEASE, self.now)
        if not isinstance(lease, Lease):
            replica.life.postpone(now, lease.seconds, lease.failures)
            return
        assert all(lease.fence > fence for fence in self.fences)
        self.fences.append(lease.fence)
        replica.lease, replica.leased_until = lease, self.now + LEASE
        replica.attempt, replica.seen, replica.fetched = attempt, shelved, None
        attempt.ask()

    @rule(number=REPLICAS)
    def the_fabric_answers(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.lease is not None and replica.fetched is None:
            replica.fetched = self.obtain(replica)
            # Who stalls until the lease is over, and asks then, ends a token that somebody has in turn: the fabric
            # knows of no fence.
            self.disorder |= self.now >= replica.leased_until

    @rule(number=REPLICAS)
    def the_fabric_fails(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.lease is None or replica.fetched is not None:
            return
        hold = backoff(replica.lease.failures + 1)
        self.shelf.release(KEY, fence=replica.lease.fence, hold=hold, now=self.now)
        replica.life.fail(self.clock(replica), "timeout", hold)
        self.ended(replica)

    @rule(number=REPLICAS)
    def what_was_fetched_is_written(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.lease is None or replica.fetched is None or replica.attempt is None:
            return
        lease, attempt, now = replica.lease, replica.attempt, self.clock(replica)
        shelved = replica.seen
        after: int | None = standing.generation_of(shelved)
        while after is not None:
            token = self.numbered(replica, attempt, replica.fetched, after)
            if self.put(token, after=after, fence=lease.fence):
                # Whoever stalled until the lease was over, or somebody else had the next one, can't write.
                assert self.now < replica.leased_until
                assert lease.fence == max(self.fences)
                replica.life.succeed(now)
                assert replica.life.take(token)
                replica.known = token.generation
                # What is applied for in turn is the last that was made.
                if not self.disorder:
                    assert self.centre.current(token.value)
                self.ended(replica)
                return
            shelved = self.shelved()
            after = standing.again(shelved, after)
        # Nobody else's token keeps it out while the lease runs.
        assert self.now >= replica.leased_until or self.disorder
        if (known := standing.newer(shelved, attempt.generation, now)) is not None:
            replica.life.succeed(now)
            replica.life.take(known)
            replica.known = known.generation
        elif self.now < replica.leased_until:
            # The store has lost the lease, and the token is kept: as far as anybody knows it is the last.
            token = self.numbered(replica, attempt, replica.fetched, standing.generation_of(shelved))
            replica.life.succeed(now)
            assert replica.life.take(token)
        else:
            self.shelf.release(KEY, fence=lease.fence, hold=1.0, now=self.now)
            replica.life.fail(now, "too_late", 1.0)
        self.ended(replica)

    @rule(number=REPLICAS)
    def a_replica_dies_and_comes_back(self, number: int) -> None:
        self.replicas[number] = Replica(self.replicas[number].skew)

    @rule(number=REPLICAS)
    def nslb_renews_in_band(self, number: int) -> None:
        """The answer is under way: who knows when it arrives."""
        replica = self.replicas[number]
        token = replica.life.usable(self.clock(replica))
        if token is not None and self.centre.current(token.value):
            value = self.centre.issue(self.now)
            self.under_way.append(Answer(replica, value, token.generation, self.clock(replica)))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def an_answer_arrives(self, data: st.DataObject) -> None:
        answer = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        replica = answer.replica
        before = self.shelved()
        newer = replica.life.renewed(answer.value, answer.generation, answer.sent, self.clock(replica))
        if newer is None:
            return
        assert newer.expires == answer.sent + LASTS
        assert replica.life.take(newer, in_band=True)
        if not replica.life.asked and not self.keep(replica, newer):
            self.look(replica)
        # However late it comes, and whatever the clocks say, it takes the place of no token that NSLB takes.
        current = before is not None and before.token is not None and self.centre.current(before.token.value)
        if current and not self.disorder:
            assert self.shelved() == before

    @rule(number=REPLICAS)
    def without_a_store_a_replica_refreshes_alone(self, number: int) -> None:
        replica = self.replicas[number]
        now = self.clock(replica)
        trigger = replica.life.due(now)
        if trigger is None or replica.lease is not None or replica.life.usable(now) is not None:
            return
        attempt = replica.life.begin(trigger, now)
        displaced = attempt.displaced
        wait = attempt.wait_alone(now)
        if wait > 0:
            # Only who was displaced waits, and never longer than a minute.
            assert attempt.displaced > 0
            assert wait <= 60.0
            if attempt.displaced > displaced:
                replica.life.fail(now, "displaced", min(wait, 1.0))
            else:
                replica.life.postpone(now, min(wait, 1.0))
            return
        self.disorder = True
        token = self.numbered(replica, attempt, self.obtain(replica), 0)
        replica.life.succeed(now)
        assert replica.life.take(token, alone=True)

    @precondition(lambda self: self.centre.issued)
    @rule()
    def the_store_loses_everything(self) -> None:
        self.shelf = Shelf()
        self.fences.clear()
        self.disorder = True

    # --- what always holds

    @invariant()
    def generations_only_grow(self) -> None:
        for replica in self.replicas:
            replica.generations.append(replica.life.generation)
            assert replica.generations[-1] >= replica.generations[-2]
            now = self.clock(replica)
            assert (replica.life.usable(now) is None) <= (replica.life.state(now) not in {"fresh", "renewed"})
            assert not replica.life.asked or replica.attempt is not None

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
        sent = [replica.life.usable(self.clock(replica)) for replica in self.replicas]
        assert all(token is not None and self.centre.takes(token.value, self.now) for token in sent)
        settled = self.centre.applications
        for number in range(3):
            self.a_request_is_sent(number)
            self.a_refresh_begins(number)
        assert self.centre.applications == settled


class OrderlyReplicas(Replicas):
    """The same with a store that is always there: then tokens have one order."""

    the_store_loses_everything = without_a_store_a_replica_refreshes_alone = None  # type: ignore[assignment]

    @initialize()
    def all_have_one_token(self) -> None:
        self.a_refresh_begins(0)
        self.the_fabric_answers(0)
        self.what_was_fetched_is_written(0)
        for number in range(3):
            self.news_arrive(number)

    @rule(number=REPLICAS)
    def a_request_is_refused_and_a_token_applied_for(self, number: int) -> None:
        self.a_request_is_sent(number)
        self.a_refresh_begins(number)
        self.the_fabric_answers(number)


Replicas.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
OrderlyReplicas.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestReplicas = Replicas.TestCase
TestOrderlyReplicas = OrderlyReplicas.TestCase
