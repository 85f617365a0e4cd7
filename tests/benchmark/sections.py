"""The sections of the benchmark: what is measured, how often, and against which target.

Machines are noisy and shared, and only ratios of one run count: contenders are measured in turn, in short
runs, each ratio is one of neighbouring runs, and what is shown is the median over the rounds.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway.auth import ApiKey, ApiKeys
from gateway.model import Principal
from tests.benchmark.contenders import (
    Contender,
    Keys,
    Upstream,
    await_listener,
    dial_gateway,
    gateway_of_many,
    nginx_gateway,
)
from tests.benchmark.figures import Figure, Target
from tests.benchmark.load import CONNECTIONS, RATE, CannotMeasure, Latency, flood, steady
from tests.benchmark.streams import follow, slowest

_FEW_KEYS: Final = 10
_KEYS: Final = 1_000
_MANY_KEYS: Final = 100_000
_SERVICES: Final = 100
T = TypeVar("T")

_MICRO: Final = 1e6
_KIBI: Final = 1024
_TIMES: Final = "×"  # noqa: RUF001 - it is meant
_WARMING_SECONDS: Final = 0.5
_SETTLING_SECONDS: Final = 1.2  # the gateway looks after its connections once a second
_MEASURE: Final = "nginx"
_OURS: Final = "gateway"
_OTHER: Final = "baseline"


@dataclass(frozen=True, slots=True)
class Effort:
    """How often and how long to measure; times in seconds. `baseline` is another source tree to compare."""

    rounds: int
    seconds: float
    steady_rounds: int
    steady_seconds: float
    starts: int
    batches: int
    streams: int
    baseline: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender reached in one run: CPU in microseconds a request, and requests a second."""

    cpu: float
    throughput: float


def dial(scratch: Path, effort: Effort) -> Iterator[Figure]:
    """One `POST /dial`: CPU and throughput at full load, latency at a modest one, beside nginx."""
    known = Keys.make(_KEYS, _SERVICES)
    with contextlib.ExitStack() as stack:
        upstream = _upstream(stack, scratch)
        contenders = [
            _started(stack, nginx_gateway(scratch / "nginx", upstream, known))[0],
            _started(stack, dial_gateway(scratch / "gateway", upstream, known))[0],
        ]
        if effort.baseline is not None:
            other = dial_gateway(scratch / "other", upstream, known, name="baseline", source=effort.baseline)
            contenders.append(_started(stack, other)[0])
        runs = _floods(contenders, effort, scratch)
        latencies = [
            {
                contender.name: steady(contender.address, contender.keys.sample(), effort.steady_seconds)
                for contender in order
            }
            for order in _orders(contenders, effort.steady_rounds)
        ]
    names = [contender.name for contender in contenders]
    yield from _full_load(names, runs)
    yield from _modest_load(names, latencies)


def keys(scratch: Path, effort: Effort) -> Iterator[Figure]:
    """What a dial costs when many more keys are known."""
    with contextlib.ExitStack() as stack:
        upstream = _upstream(stack, scratch)
        few, many = Keys.make(_FEW_KEYS, _FEW_KEYS), Keys.make(_MANY_KEYS, _FEW_KEYS)
        contenders = [
            _started(stack, gateway_of_many(scratch / "few", upstream, few, name="few"))[0],
            _started(stack, gateway_of_many(scratch / "many", upstream, many, name="many"))[0],
        ]
        runs = _floods(contenders, effort, scratch)
        resident = [contender.process.resident() for contender in contenders]
    yield Figure(f"CPU, {_FEW_KEYS} keys", _median(run["few"].cpu for run in runs), "µs")
    yield Figure(f"CPU, {_MANY_KEYS:,} keys", _median(run["many"].cpu for run in runs), "µs")
    yield Figure(
        "CPU, many ÷ few",
        _median(run["many"].cpu / run["few"].cpu for run in runs),
        _TIMES,
        Target(1.05, 1.0),
    )
    yield Figure(f"memory, {_FEW_KEYS} keys, after load", resident[0], "MiB")
    yield Figure(f"memory, {_MANY_KEYS:,} keys, after load", resident[1], "MiB")


def memory(scratch: Path, effort: Effort) -> Iterator[Figure]:
    """Resident memory of a gateway with a thousand keys."""
    with contextlib.ExitStack() as stack:
        upstream = _upstream(stack, scratch)
        known = Keys.make(_KEYS, _SERVICES)
        gateway, _ = _started(stack, dial_gateway(scratch / "gateway", upstream, known))
        time.sleep(_SETTLING_SECONDS)
        idle = gateway.process.resident()
        flood(gateway.address, known.sample(), 2 * effort.seconds, scratch)
        loaded = gateway.process.resident()
    yield Figure("resident, idle", idle, "MiB", Target(64, 48))
    yield Figure(f"resident, after load on {CONNECTIONS} connections", loaded, "MiB", Target(64, 48))


def start(scratch: Path, effort: Effort) -> Iterator[Figure]:
    """From the start of the process to the first accepted dial, the TLS handshake included."""
    known = Keys.make(_FEW_KEYS, _FEW_KEYS)
    taken = []
    with contextlib.ExitStack() as stack:
        upstream = _upstream(stack, scratch)
        # The first one reads the modules from the disk, which says more of the disk than of the gateway.
        for number in range(effort.starts + 1):
            with contextlib.ExitStack() as one:
                taken.append(_started(one, dial_gateway(scratch / f"gateway-{number}", upstream, known))[1])
    yield Figure("start to first answer", statistics.median(taken[1:]), "s", Target(0.6, 0.4))


def lookup(_: Path, effort: Effort) -> Iterator[Figure]:
    """How long it takes to refuse a key, in process: the time must not tell how much of it was right."""
    known = [secrets.token_urlsafe(32).encode("ascii") for _ in range(_KEYS)]
    principal = Principal("service", (), frozenset(), frozenset())
    table = ApiKeys(ApiKey(hashlib.sha256(key).digest(), None, principal) for key in known)
    guesses = {
        "unknown": [secrets.token_urlsafe(32).encode("ascii") for _ in known],
        "wrong in the first byte": [_other(key[0]) + key[1:] for key in known],
        "wrong in the last byte": [key[:-1] + _other(key[-1]) for key in known],
    }
    best = dict.fromkeys(guesses, float("inf"))
    # The least of many short batches: whatever disturbs one makes it longer, never shorter.
    for order in _orders(list(guesses), effort.batches):
        for name in order:
            began = time.perf_counter()
            for key in guesses[name]:
                table.identify(key, 0.0)
            best[name] = min(best[name], time.perf_counter() - began)
    unknown = best["unknown"]
    yield Figure("refuse an unknown key", unknown / _KEYS * _MICRO, "µs")
    for name in list(guesses)[1:]:
        yield Figure(f"{name} ÷ unknown", best[name] / unknown, _TIMES, Target(1.05))


def streams(scratch: Path, effort: Effort) -> Iterator[Figure]:
    """Calls that are followed at once, each as a stream of its own."""
    followed = follow(scratch, effort.streams)
    count = effort.streams
    yield Figure(f"resident, {count:,} calls dialled", followed.before, "MiB")
    yield Figure(f"resident, {count:,} calls followed", followed.after, "MiB")
    yield Figure("memory of a stream", (followed.after - followed.before) / count * _KIBI, "KiB", Target(100, 60))
    yield Figure("an event to each reader, slowest ÷ median", slowest(followed), _TIMES, Target(3.0, 2.0))


SECTIONS: Final[dict[str, Callable[[Path, Effort], Iterator[Figure]]]] = {
    "dial": dial,
    "keys": keys,
    "memory": memory,
    "start": start,
    "lookup": lookup,
    "streams": streams,
}


def _full_load(names: Sequence[str], runs: Sequence[dict[str, Run]]) -> Iterator[Figure]:
    for name in names:
        yield Figure(f"CPU, {name}", _median(run[name].cpu for run in runs), "µs")
        if name != _MEASURE:
            target = Target(2.8, 2.0) if name == _OURS else None
            yield Figure(
                f"CPU, {name} ÷ nginx",
                _median(run[name].cpu / run[_MEASURE].cpu for run in runs),
                _TIMES,
                target,
            )
    for name in names:
        yield Figure(f"throughput, {name}", _median(run[name].throughput for run in runs), "/s")
        if name != _MEASURE:
            target = Target(0.36, 0.48, least=True) if name == _OURS else None
            ratio = _median(run[name].throughput / run[_MEASURE].throughput for run in runs)
            yield Figure(f"throughput, {name} ÷ nginx", ratio, _TIMES, target)
    if _OTHER in names:
        yield Figure("CPU, gateway ÷ baseline", _median(run[_OURS].cpu / run[_OTHER].cpu for run in runs), _TIMES)


def _modest_load(names: Sequence[str], runs: Sequence[dict[str, Latency]]) -> Iterator[Figure]:
    for name in names:
        yield Figure(f"p50 at {RATE:.0f}/s, {name}", _median(run[name].p50 for run in runs), "ms")
        if name != _MEASURE:
            target = Target(0.4, 0.2) if name == _OURS else None
            added = _median(run[name].p50 - run[_MEASURE].p50 for run in runs)
            yield Figure(f"p50 at {RATE:.0f}/s, {name} - nginx", added, "ms", target)
    for name in names:
        yield Figure(f"p99 at {RATE:.0f}/s, {name}", _median(run[name].p99 for run in runs), "ms")
        if name != _MEASURE:
            target = Target(2.0, 1.5) if name == _OURS else None
            ratio = _median(run[name].p99 / run[_MEASURE].p99 for run in runs)
            yield Figure(f"p99 at {RATE:.0f}/s, {name} ÷ nginx", ratio, _TIMES, target)


def _upstream(stack: contextlib.ExitStack, scratch: Path) -> Upstream:
    upstream = Upstream(scratch / "upstream")
    stack.enter_context(upstream.process)
    await_listener("the contact centre", upstream.address, upstream.process)
    return upstream


def _started(stack: contextlib.ExitStack, contender: Contender) -> tuple[Contender, float]:
    """The contender once it has answered, and the seconds from its start to that."""
    stack.enter_context(contender.process)
    return contender, contender.await_first_answer() - contender.process.began


def _floods(contenders: Sequence[Contender], effort: Effort, scratch: Path) -> list[dict[str, Run]]:
    for contender in contenders:
        flood(contender.address, contender.keys.sample(), _WARMING_SECONDS, scratch)
    return [
        {contender.name: _flooded(contender, effort.seconds, scratch) for contender in order}
        for order in _orders(contenders, effort.rounds)
    ]


def _flooded(contender: Contender, seconds: float, scratch: Path) -> Run:
    before = contender.process.cpu()
    try:
        done = flood(contender.address, contender.keys.sample(), seconds, scratch)
    except CannotMeasure as exc:
        raise CannotMeasure(f"{contender.name}: {exc}\n{contender.process.told()}") from None
    return Run((contender.process.cpu() - before) / done.requests * _MICRO, done.requests / done.seconds)


def _orders(things: Sequence[T], rounds: int) -> Iterator[Sequence[T]]:
    """The things, forwards and backwards by turns, so that a machine that slows down favours nobody."""
    for number in range(rounds):
        yield things[:: 1 if number % 2 == 0 else -1]


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _other(byte: int) -> bytes:
    return b"A" if byte != ord("A") else b"B"
