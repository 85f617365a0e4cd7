"""A world of replicas that goes on only when it is told to: time, the store and the contact centre wait for orders.

Owns the event loop's time, every answer of the store and of NSLB, and what NSLB really did. A replica that is killed is
never heard of again: what it waits for never comes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.auth import ApiKeys
from gateway.calls import Accounts, Calls, Desk, Errands, Followings, Lines, Releases, Seat
from gateway.http.answers import Answers
from gateway.http.exchange import Common, Exchange, Runtime
from gateway.idempotency import Keys
from gateway.model import CallEvent, CallStatus, Credential, Medium, Operation, Outcome, Principal, Secret, Trace
from gateway.problems import UPSTREAM_DISCONNECTED, UPSTREAM_REJECTED, UPSTREAM_UNREACHABLE
from gateway.store import Page, Seal, StoreUnavailable, Vault
from gateway.store.ledger import Ledger
from gateway.telemetry import LineWriter, Log, Metrics, Record, Telemetry
from gateway.upstream import NotSent, SentUnanswered, Verdict

T = TypeVar("T")

BEGINNING = 1_700_000_000.0
KEEP_SECONDS = 1000.0
LIMIT_SECONDS = 100.0
MOST_CALL_SECONDS = 300.0
SHARED = Principal("billing", ("shared", "alone"), frozenset(Medium), frozenset(Operation))


class _Waiting(selectors.SelectSelector):
    """Instead of waiting it lets the time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: Callable[[float], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.passed(timeout)
        return ready


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Waiting()
        super().__init__(selector)
        selector.passed = self._pass

    def time(self) -> float:
        return self.now

    def _pass(self, seconds: float) -> None:
        self.now += seconds


@dataclass(eq=False)
class Order:
    """Something that a replica asked of the store or of NSLB, and that waits to be carried out."""

    replica: Replica
    what: str
    work: Callable[[], Any]
    lost: Exception
    refused: Exception
    future: asyncio.Future[Any]
    performed: bool = False
    result: Any = None

    def perform(self) -> None:
        """Do it; the answer is still on its way."""
        if not self.performed:
            self.performed, self.result = True, self.work()

    def carry_out(self) -> None:
        """Do it and answer."""
        self.perform()
        self._answer(lambda: self.future.set_result(self.result))

    def lose(self) -> None:
        """Do it, and let the answer be lost."""
        self.perform()
        self._answer(lambda: self.future.set_exception(self.lost))

    def refuse(self) -> None:
        """Do nothing, and say so; what was done already can't be undone."""
        self._answer(lambda: self.future.set_exception(self.lost if self.performed else self.refused))

    def _answer(self, answer: Callable[[], None]) -> None:
        if not self.replica.dead and not self.future.done():
            answer()


class GatedStore:
    """A store whose answers wait for orders; the ledger is what all replicas share."""

    shared = True

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._world = replica.world
        self.owner = replica.owner

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        gone = StoreUnavailable("gone")
        result: T = await self._world.ask(self._replica, f"store {what}", work, lost=gone, refused=gone)
        return result

    async def get(self, key: str) -> Page | None:
        return await self._ask(f"get {key}", lambda: self._world.ledger.get(key, self._world.wall()))

    async def write(self, key: str, sealed: bytes, *, after: int, seconds: float) -> int:
        def work() -> int:
            return self._world.ledger.put(key, sealed, after=after, seconds=seconds, now=self._world.wall())

        return await self._ask(f"write {key}", work)

    async def erase(self, key: str, *, after: int) -> bool:
        return await self._ask(
            f"erase {key}", lambda: self._world.ledger.erase(key, after=after, now=self._world.wall())
        )

    async def vouched(self) -> None:
        """Each is seen as soon as it is there."""

    async def alive(self, owner: str) -> bool:
        return any(replica.owner == owner and not replica.dead for replica in self._world.replicas)


@dataclass(eq=False)
class Ringing:
    """A call that NSLB made: for which request, on which line, and when."""

    request: str
    line: str
    at: float
    began: float
    live: bool = True
    events: list[CallEvent] = field(default_factory=list)


class GatedAccount:
    """An account whose token is always good."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.line = f"line-of-{name}"

    def credential(self) -> Credential:
        return Credential(1, b"ccmessaging-token=x", (Secret("x"),))


class GatedNslb:
    """NSLB as a replica sees it."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._world = replica.world

    async def create(self, medium: Medium, credential: Any, record: Record, until: float) -> Verdict:
        assert medium
        assert until
        world, account = self._world, record.account
        began = world.wall()

        def work() -> Verdict:
            world.ring(record.request_id, f"line-of-{account}", began)
            return Verdict(Outcome.ACCEPTED, None, "", "0", "connect successfully.")

        return await self._send(f"create {record.request_id}", work, credential, record)

    async def drop(self, credential: Any, record: Record, until: float) -> Verdict:
        assert until
        world, account = self._world, record.account

        def work() -> Verdict:
            if world.drop(record.request_id, f"line-of-{account}"):
                return Verdict(Outcome.ACCEPTED, None, "", "0", "disconnect successfully.")
            return Verdict(Outcome.REJECTED, UPSTREAM_REJECTED, "", "13", "disconnect failed")

        return await self._send(f"drop {record.request_id}", work, credential, record)

    async def events(self, credential: Any, record: Record) -> Verdict:
        world, account = self._world, record.account

        def work() -> Verdict:
            verdict = Verdict(Outcome.ACCEPTED, None, "", "0", None)
            current = world.current.get(f"line-of-{account}")
            if current is not None and current.events:
                verdict.event = current.events.pop(0)
            return verdict

        return await self._send(f"events {account}", work, credential, record)

    async def _send(self, what: str, work: Callable[[], Verdict], credential: Any, record: Record) -> Verdict:
        assert credential() is not None
        before, record.sent = record.sent, True
        try:
            verdict: Verdict = await self._world.ask(
                self._replica,
                f"nslb {what}",
                work,
                lost=SentUnanswered(UPSTREAM_DISCONNECTED, "lost"),
                refused=NotSent(UPSTREAM_UNREACHABLE, "refused"),
            )
        except NotSent:
            record.sent = before
            raise
        return verdict


class Replica:
    """One gateway: the real parts between its callers, the store and NSLB."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.owner = f"{number:032x}"
        self.dead = False
        self.lines_of_log: list[bytes] = []
        log = Log(LineWriter(_Sink(self.lines_of_log)))
        metrics = Metrics("0")
        store: Any = GatedStore(self)
        vault = Vault("gated", store, Seal(), log, metrics)
        self.calls, self.lines = Calls(vault), Lines(vault, world.wall)
        self.lines.limit = LIMIT_SECONDS
        nslb: Any = GatedNslb(self)
        telemetry = Telemetry(log, metrics, world.loop.time)
        self.followings = Followings(self.calls, self.lines, vault, telemetry, lambda: world.record("poll"), nslb, 60.0)
        self.accounts: dict[str, Any] = {name: GatedAccount(name) for name in SHARED.accounts}
        seats = {name: Seat(account, name == "alone", MOST_CALL_SECONDS) for name, account in self.accounts.items()}
        self.keys = Keys(vault, metrics.idempotency, keep=KEEP_SECONDS, limit=LIMIT_SECONDS, wall=world.wall)
        desk = Desk(Accounts(seats), nslb, self.calls, self.lines, Errands())
        self.runtime = Runtime(ApiKeys(()), desk, self.followings, Releases(self.followings), self.keys)

    def exchange(self, record: Record, identifier: str = "") -> Exchange:
        request: Any = None
        common = Common(Answers(self.world.wall), 1.0)
        return Exchange(request, record, self.runtime, SHARED, common, True, identifier, None, float("inf"))

    async def catch_up(self) -> None:
        """As it does once a second."""
        await self.keys.catch_up()
        await self.lines.records.settle()
        await self.followings.catch_up()


class _Sink:
    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def write(self, data: bytes, /) -> int:
        self._lines.append(data)
        return len(data)

    def flush(self) -> None:
        return


class World:
    """Everything there is."""

    def __init__(self, count: int) -> None:
        self.loop = Loop()
        self.ledger = Ledger()
        self.orders: list[Order] = []
        self.rung: list[Ringing] = []
        self.current: dict[str, Ringing] = {}
        self.dropped: list[tuple[str, Ringing]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._made = 0
        self._closing = False
        self.replicas = [self._replica() for _ in range(count)]

    def wall(self) -> float:
        return BEGINNING + self.loop.now

    def record(self, request: str) -> Record:
        return Record(0.0, request, Trace("0" * 31 + "1", "0" * 15 + "1", "00"))

    async def ask(
        self, replica: Replica, what: str, work: Callable[[], Any], *, lost: Exception, refused: Exception
    ) -> Any:
        if self._closing:
            raise refused
        order = Order(replica, what, work, lost, refused, self.loop.create_future())
        self.orders.append(order)
        try:
            return await order.future
        finally:
            if order in self.orders:
                self.orders.remove(order)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something, as far as it goes without an order."""
        task = self.loop.create_task(work)
        self.tasks.append(task)
        self.turn()
        return task

    def errand(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something that nobody waits for."""
        self.tasks.append(self.loop.create_task(work))
        self.turn()

    def turn(self) -> None:
        """Let everything run that can, without time passing."""

        async def turns() -> None:
            for _ in range(25):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.turn()

    def obey(self, order: Order, how: str) -> None:
        """Carry out an order: `done`, `lost` or `refused`; or `performed`, when its answer is still to come."""
        if how == "performed":
            order.perform()
            return
        self.orders.remove(order)
        {"done": order.carry_out, "lost": order.lose, "refused": order.refuse}[how]()
        self.turn()

    def finish(self, work: Awaitable[T]) -> T:
        """Do something to its end, all that it needs being carried out, and all that was asked for before."""
        return self._finished(work, ())

    def finish_alone(self, work: Awaitable[T]) -> T:
        """The same, but for what was asked for before: that goes on waiting."""
        return self._finished(work, tuple(self.orders))

    def _finished(self, work: Awaitable[T], waiting: Collection[Order]) -> T:
        async def whole() -> T:
            task = asyncio.ensure_future(work)
            self.tasks.append(task)
            while not task.done():
                for order in list(self.orders):
                    if not order.replica.dead and order not in waiting:
                        self.orders.remove(order)
                        order.carry_out()
                await asyncio.sleep(0.01)
            return await task

        return self.loop.run_until_complete(whole())

    def kill(self, number: int) -> None:
        """A replica is gone, wherever it was; what it had asked for is carried out, or not, by later orders."""
        self.replicas[number].dead = True
        self.replicas[number] = self._replica()

    def close(self) -> None:
        """End everything; whatever is still asked for is refused."""
        self._closing = True
        try:
            while running := asyncio.all_tasks(self.loop):
                for task in running:
                    task.cancel()
                self.turn()
            for task in self.tasks:
                if not task.cancelled():
                    task.exception()  # who cared has looked
        finally:
            self.loop.close()

    # --- what NSLB does

    def ring(self, request: str, line: str, began: float) -> None:
        ringing = Ringing(request, line, self.wall(), began)
        self.rung.append(ringing)
        self.current[line] = ringing

    def drop(self, request: str, line: str) -> bool:
        ringing = self.current.get(line)
        if ringing is None or not ringing.live:
            return False
        ringing.live = False
        self.dropped.append((request, ringing))
        return True

    def happen(self, line: str, status: CallStatus) -> None:
        """Something happens to the current call of a line."""
        ringing = self.current.get(line)
        if ringing is not None and ringing.live:
            ringing.events.append(CallEvent(status, 1, status.value, {"of": ringing.request}))
            ringing.live = not status.over

    def _replica(self) -> Replica:
        self._made += 1
        return Replica(self, self._made)
