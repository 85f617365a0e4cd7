"""What is remembered of a key, and for how long."""

from __future__ import annotations

import io

import pytest

from gateway import problems
from gateway.idempotency import Begun, Keys, Replay
from gateway.problems import Problem, ProblemType
from gateway.store import MemoryStore, Seal, Vault
from gateway.telemetry import LineWriter, Log, Metrics

KEEP, LIMIT = 60.0, 300.0


class Desk:
    """Keys with a clock to set; `keep` is less than a request may take."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        vault = Vault("memory", MemoryStore(self.wall), Seal([]), Log(LineWriter(io.BytesIO())), Metrics("0"))
        self.keys = Keys(vault, lambda _: None, keep=KEEP, limit=LIMIT, wall=self.wall)
        self.attempts = 0

    def wall(self) -> float:
        return self.now

    async def begin(self) -> Begun | Replay:
        self.attempts += 1
        return await self.keys.begin("billing", "order-17", "the same", f"attempt-{self.attempts}")

    async def refusal(self) -> ProblemType:
        with pytest.raises(Problem) as refused:
            await self.begin()
        return refused.value.type


async def test_a_key_is_not_forgotten_while_its_request_may_still_be_running() -> None:
    desk = Desk()
    begun = await desk.begin()
    assert isinstance(begun, Begun)

    for seconds in (KEEP - 1, 2, LIMIT - KEEP - 2):
        desk.now += seconds
        assert await desk.refusal() is problems.IDEMPOTENCY_IN_PROGRESS
    desk.now += 2
    assert await desk.refusal() is problems.OUTCOME_UNKNOWN

    # It was slower than anybody thought, and tells the truth all the same.
    await begun.accepted(b"{}", "/dial/x")
    assert await desk.begin() == Replay(b"{}", "/dial/x")


async def test_an_answer_is_kept_for_its_time_and_no_longer() -> None:
    desk = Desk()
    begun = await desk.begin()
    assert isinstance(begun, Begun)
    await begun.accepted(b"{}", "/dial/x")

    desk.now += KEEP - 1
    assert isinstance(await desk.begin(), Replay)
    desk.now += 2
    assert isinstance(await desk.begin(), Begun)


async def test_what_was_cut_off_is_unknown_for_as_long_as_an_answer_is_kept() -> None:
    desk = Desk()
    await desk.begin()

    desk.now += LIMIT + 1
    for _ in range(2):
        assert await desk.refusal() is problems.OUTCOME_UNKNOWN
        desk.now += KEEP - 1
    desk.now += 2
    assert isinstance(await desk.begin(), Begun)
