"""Dial, repeat, follow, release, crash, let time pass, in any order: no second call for a key, no lost release."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, field

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.calls import Bell
from gateway.http import dial
from gateway.http.answers import Answer
from gateway.http.body import DialRequest
from gateway.model import CallStatus, Medium, Outcome
from gateway.problems import CALL_SUPERSEDED, IDEMPOTENCY_IN_PROGRESS, UNKNOWN_DIAL, Problem
from gateway.upstream import NotSent, SentUnanswered
from tests.calls.clockwork import KEEP_SECONDS, LIMIT_SECONDS, MOST_CALL_SECONDS, Order, Replica, Ringing, World

REPLICAS = 2
KEYS = ("k1",)
STORE_SECONDS = 1.0
ACCOUNTS = ("shared", "alone")
replicas = st.integers(0, REPLICAS - 1)


@dataclass
class Dialled:
    """A request that a caller made: under which key (`None`: without), and what it was told."""

    identifier: str
    key: str | None
    account: str
    medium: Medium
    began: float
    task: asyncio.Task[Answer]
    replica: Replica
    told: str | None = None
    answer: dict[str, object] = field(default_factory=dict)


def content(answer: Answer) -> dict[str, object]:
    """The document of an answer."""
    document: dict[str, object] = orjson.loads(answer._data.partition(b"\r\n\r\n")[2])
    return document


class WholeCalls(RuleBasedStateMachine):
    """Callers, replicas, a store and NSLB."""

    @initialize()
    def begin(self) -> None:
        self.world = World(REPLICAS)
        self.dials: list[Dialled] = []
        self.releases: list[tuple[str, asyncio.Task[Answer]]] = []
        self.readers: list[asyncio.Task[None]] = []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self._settle()
                self._release_all()
                self._ask_again()
            finally:
                self.world.close()

    # --- what callers do

    @rule(
        number=replicas,
        key=st.sampled_from((None, *KEYS)),
        account=st.sampled_from(ACCOUNTS),
        medium=st.sampled_from(Medium),
    )
    def dial(self, number: int, key: str | None, account: str, medium: Medium) -> None:
        identifier = f"{len(self.dials):022d}"
        replica = self.world.replicas[number]
        exchange = replica.exchange(self.world.record(identifier))
        wanted = DialRequest(medium, account)
        if key is not None:
            work = dial._create_once(exchange, wanted, identifier, key)
        else:
            work = dial._create(exchange, wanted, identifier)
        task = self.world.begin(work)
        self.dials.append(Dialled(identifier, key, account, medium, self.world.wall(), task, replica))

    @precondition(lambda self: any(made.told == "accepted" for made in self.dials))
    @rule(data=st.data(), number=replicas)
    def release(self, data: st.DataObject, number: int) -> None:
        made = data.draw(st.sampled_from([made for made in self.dials if made.told == "accepted"]))
        self._release(number, str(made.answer["id"]))

    def _release(self, number: int, identifier: str) -> None:
        record = self.world.record(f"drop {identifier}")
        exchange = self.world.replicas[number].exchange(record, identifier)
        self.releases.append((identifier, self.world.begin(dial.release(exchange))))

    @precondition(lambda self: any(made.told == "accepted" for made in self.dials) and len(self.readers) < 3)
    @rule(data=st.data(), number=replicas)
    def follow(self, data: st.DataObject, number: int) -> None:
        made = data.draw(st.sampled_from([made for made in self.dials if made.told == "accepted"]))
        self.readers.append(self.world.begin(self._read(number, str(made.answer["id"]))))

    async def _read(self, number: int, identifier: str) -> None:
        replica, bell = self.world.replicas[number], Bell()
        try:
            call = await replica.calls.find(identifier, "billing")
        except Problem:
            return
        with replica.followings.follow(call, replica.accounts[call.account], bell) as following:
            while not call.over and not following.superseded:
                following.poll()
                await bell.wait()

    # --- what happens to them

    @precondition(lambda self: self.world.orders)
    @rule(data=st.data(), how=st.sampled_from(("done", "done", "performed", "performed", "lost", "refused")))
    def obey(self, data: st.DataObject, how: str) -> None:
        order = data.draw(st.sampled_from(self.world.orders))
        self.world.obey(order, how)

    @precondition(lambda self: self.world.orders)
    @rule(count=st.integers(3, 12))
    def obey_in_order(self, count: int) -> None:
        for _ in range(count):
            if self.world.orders:
                self.world.obey(self.world.orders[0], "done")

    @precondition(lambda self: any("nslb" in order.what for order in self.world.orders))
    @rule(how=st.sampled_from(("done", "lost", "refused")))
    def answer(self, how: str) -> None:
        self.world.obey(next(order for order in self.world.orders if "nslb" in order.what), how)

    @rule(
        number=replicas,
        key=st.sampled_from((None, *KEYS)),
        account=st.sampled_from(ACCOUNTS),
        nslb=st.sampled_from(("done", "done", "lost", "refused")),
    )
    def dial_to_its_end(self, number: int, key: str | None, account: str, nslb: str) -> None:
        self.dial(number, key, account, Medium.VOICE)
        self._go_on(number, 12, nslb)

    @rule(
        number=replicas,
        key=st.sampled_from(KEYS),
        account=st.sampled_from(ACCOUNTS),
        steps=st.integers(1, 9),
        carried_out=st.booleans(),
    )
    def dial_and_crash(self, number: int, key: str, account: str, steps: int, carried_out: bool) -> None:
        """It is killed after so many steps; the last thing that it asked for is done all the same, or never."""
        self.dial(number, key, account, Medium.VOICE)
        self._go_on(number, steps, "done")
        pending = self._orders_of(number)
        self.world.kill(number)
        for order in pending[-1:]:
            self.world.obey(order, "done" if carried_out else "refused")

    @precondition(lambda self: any(made.told == "accepted" for made in self.dials))
    @rule(data=st.data(), number=replicas)
    def release_to_its_end(self, data: st.DataObject, number: int) -> None:
        self.release(data, number)
        self._go_on(number, 12, "done")

    @rule(number=replicas, other=replicas, account=st.sampled_from(ACCOUNTS))
    def end_while_it_is_released(self, number: int, other: int, account: str) -> None:
        """A call ends by itself while it is released; then somebody else dials, and only then the rest arrives."""
        self.dial_to_its_end(number, None, account, "done")
        self.nothing_untrue_was_told()
        if self.dials[-1].told != "accepted":
            return
        identifier = self.dials[-1].identifier
        self.readers.append(self.world.begin(self._read(other, identifier)))
        self._go_on(other, 8, "performed")
        self._release(number, identifier)
        self._go_on(number, 8, "performed")
        self.happen(account, CallStatus.ENDED)
        self._go_on(other, 8, "done")
        self.dial_to_its_end(other, None, account, "done")

    @rule(number=replicas, other=replicas, data=st.data())
    def outlast(self, number: int, other: int, data: st.DataObject) -> None:
        """An account is taken from a call whose time is over; then somebody wants to release a call."""
        self.dial_to_its_end(number, None, "alone", "done")
        self.let_time_pass(MOST_CALL_SECONDS + 1, "refused")
        self.dial_to_its_end(other, None, "alone", "done")
        self.nothing_untrue_was_told()
        if any(made.told == "accepted" for made in self.dials):
            self.release_to_its_end(data, number)

    def _orders_of(self, number: int) -> list[Order]:
        return [order for order in self.world.orders if order.replica is self.world.replicas[number]]

    def _go_on(self, number: int, steps: int, nslb: str) -> None:
        """Carry out what a replica asks for, the newest first, so that what began last comes to its end."""
        for _ in range(steps):
            for order in self._orders_of(number)[-1:]:
                self.world.obey(order, nslb if "nslb" in order.what else "done")

    @rule(account=st.sampled_from(ACCOUNTS), status=st.sampled_from((CallStatus.CONNECTED, CallStatus.ENDED)))
    def happen(self, account: str, status: CallStatus) -> None:
        self.world.happen(f"line-of-{account}", status)

    @rule(number=replicas)
    def crash(self, number: int) -> None:
        self.world.kill(number)

    @rule(
        seconds=st.sampled_from((0.3, 1.0, 20.0, MOST_CALL_SECONDS + 1, KEEP_SECONDS / 2)),
        how=st.sampled_from(("lost", "refused")),
    )
    def let_time_pass(self, seconds: float, how: str) -> None:
        # Neither is waited for so long: it has done what it was asked for, or it has not.
        for party, patience in (("store", STORE_SECONDS), ("nslb", LIMIT_SECONDS)):
            for order in [order for order in self.world.orders if party in order.what and seconds >= patience]:
                self.world.obey(order, how)
        self.world.wait(seconds)

    @rule(number=replicas)
    def catch_up(self, number: int) -> None:
        self.world.errand(self.world.replicas[number].catch_up())

    # --- what must hold

    @invariant()
    def nothing_untrue_was_told(self) -> None:
        if hasattr(self, "world"):
            for made in self.dials:
                if made.told is None and made.task.done():
                    self._hear(made)
            self._look_at_keys()
            self._look_at_lines()
            self._look_at_releases()
            self._look_at_calls()

    def _hear(self, made: Dialled) -> None:
        rung = [ringing for ringing in self.world.rung if ringing.request == made.identifier]
        try:
            answer = made.task.result()
        except Problem as problem:
            made.told = problem.type.outcome
            if made.told in {Outcome.NOT_SENT, Outcome.REJECTED}:
                assert not rung, "told that there is no call, and there is"
        except NotSent:
            made.told = "not_sent"
            assert not rung, "told that there is no call, and there is"
        except SentUnanswered:
            made.told = "unknown"
        else:
            made.told = "accepted"
            made.answer = content(answer)
            assert self._ringing(str(made.answer["id"])), "told that there is a call, and there is none"

    def _ringing(self, identifier: str) -> list[Ringing]:
        return [ringing for ringing in self.world.rung if ringing.request == identifier]

    def _look_at_keys(self) -> None:
        for key in KEYS:
            same = {made.identifier for made in self.dials if made.key == key}
            times = sorted(ringing.at for ringing in self.world.rung if ringing.request in same)
            for first, second in itertools.pairwise(times):
                assert second - first >= KEEP_SECONDS, f"{key} rang twice"
        for made in self.dials:
            assert len(self._ringing(made.identifier)) <= 1

    def _look_at_lines(self) -> None:
        alone = [ringing for ringing in self.world.rung if ringing.line == "line-of-alone"]
        for earlier, later in itertools.pairwise(alone):
            if earlier.live:
                assert later.at - earlier.began >= MOST_CALL_SECONDS, "two calls on an exclusive account"

    def _look_at_releases(self) -> None:
        for request, ringing in self.world.dropped:
            meant = request.removeprefix("drop ")
            if ringing.request != meant and ringing.line == "line-of-alone":
                (called,) = self._ringing(meant)
                assert ringing.at - called.began >= MOST_CALL_SECONDS, "another call was released"
        for identifier, task in self.releases:
            if task.done() and task.exception() is None:
                assert task.result().status == 200
                (ringing,) = self._ringing(identifier)
                assert not ringing.live or self._hidden(ringing), "told that it was released, and it goes on"

    def _look_at_calls(self) -> None:
        for replica in self.world.replicas:
            for call in replica.calls._recent.values():
                for happening in call.happenings:
                    assert happening.event.content.get("of", call.id) == call.id, (
                        "told of what happened to another call"
                    )
                for ringing in self._ringing(call.id):
                    assert not (call.over and ringing.live) or self._hidden(ringing), (
                        "told that it is over, and it is not"
                    )

    def _hidden(self, ringing: Ringing) -> bool:
        """Whether NSLB may have had another call on that line that no gateway could know of.

        On an account that is not exclusive that is nobody's fault (README, "Following a call"); on an exclusive one
        its time must be over.
        """
        later = [other for other in self.world.rung if other.line == ringing.line and other.at >= ringing.at]
        return len(later) > 1 and (ringing.line == "line-of-shared" or later[1].at - ringing.began >= MOST_CALL_SECONDS)

    # --- what must hold at last

    def _settle(self) -> None:
        """The store and NSLB are there again, and nobody waits any more."""
        while self.world.orders or any(not made.task.done() and not made.replica.dead for made in self.dials):
            if self.world.orders:
                self.world.obey(self.world.orders[0], "refused")
            else:
                self.world.wait(STORE_SECONDS)
        self.world.wait(LIMIT_SECONDS)
        for replica in self.world.replicas:
            self.world.finish(replica.catch_up())
        self.nothing_untrue_was_told()

    def _ask_again(self) -> None:
        """Who asks again under a key is told of the call that there was, and nobody is told to wait for ever."""
        for key in KEYS:
            same = [made for made in self.dials if made.key == key]
            firsts = [made for made in same if made.told == "accepted" and made.answer["id"] == made.identifier]
            for last in (firsts or same)[-1:]:
                fresh = self.world.wall() - last.began <= KEEP_SECONDS / 2
                known = bool(firsts) and fresh and not last.replica.dead
                exchange = self.world.replicas[0].exchange(self.world.record("again"))
                wanted = DialRequest(last.medium, last.account)
                try:
                    answer = self.world.finish(dial._create_once(exchange, wanted, "again", key))
                except Problem as problem:
                    if known or problem.type is IDEMPOTENCY_IN_PROGRESS:
                        raise
                else:
                    assert not known or content(answer)["id"] == last.identifier, "a call was forgotten"

    def _release_all(self) -> None:
        """Every call that can be released is, at whichever replica."""
        for ringing in list(self.world.current.values()):
            told = [made for made in self.dials if made.told == "accepted" and made.answer["id"] == ringing.request]
            if not ringing.live or not told or self.world.wall() - ringing.began > KEEP_SECONDS:
                continue
            (maker,) = [made for made in self.dials if made.identifier == ringing.request]
            exchange = self.world.replicas[0].exchange(self.world.record("drop at last"), ringing.request)
            try:
                assert self.world.finish(dial.release(exchange)).status == 200
            except Problem as problem:
                # The one that made it went before the store, which was away, could learn of it...
                unknown = problem.type is UNKNOWN_DIAL and maker.replica.dead
                # ...or nobody can say which call was the later one.
                hidden = problem.type is CALL_SUPERSEDED and self._doubtful(ringing, maker.replica)
                if not unknown and not hidden:
                    raise
            else:
                assert not ringing.live, "a release was lost"

    def _doubtful(self, ringing: Ringing, replica: Replica) -> bool:
        """Whether NSLB may have had another call on that line after it, as far as a gateway can know.

        An exclusive line may have been taken for one when its time was over; on the other one, another replica may have
        placed one within the time that the store takes, or have gone while it did.
        """
        if ringing.line == "line-of-alone":
            return self.world.wall() - ringing.began > MOST_CALL_SECONDS
        if any(made.told is None and made.replica.dead and made.began >= ringing.began for made in self.dials):
            return True
        return any(
            made.replica is not replica
            for other in self.world.rung
            for made in self.dials
            if other.request == made.identifier
            and other.line == ringing.line
            and abs(other.at - ringing.at) <= STORE_SECONDS
        )


# `make soak` goes other ways each time, and more of them.
SOAK = int(os.environ.get("DIAL_GATEWAY_SOAK", "0"))
pytestmark = pytest.mark.timeout(300 + SOAK)
TestWholeCalls = WholeCalls.TestCase
TestWholeCalls.settings = settings(
    max_examples=SOAK or 200,
    stateful_step_count=50,
    deadline=None,
    derandomize=not SOAK,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
