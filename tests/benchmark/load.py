"""The load: one dial, as many as possible (wrk), and so many a second whatever happens.

Owns what a caller sends. Refuses to measure wrong answers: a run in which one was not a success says so.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.benchmark.machine import program

CONNECTIONS: Final = 64
RATE: Final = 300.0
_BODY: Final = '{"media": "voice"}'
_ANSWER_SECONDS: Final = 10.0
_CALLERS: Final = 16

# wrk runs `init` in its thread and `done` outside of it.
_SCRIPT: Final = """
local requests, turn = {}, 0
function init(arguments)
  for key in io.lines(arguments[1]) do
    local fields = {Authorization = "Bearer " .. key, ["Content-Type"] = "application/json"}
    requests[#requests + 1] = wrk.format("POST", "/dial", fields, '%s')
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format('\\n{"requests": %%d, "seconds": %%f, "wrong": %%d}\\n', summary.requests,
    summary.duration / 1e6, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class CannotMeasure(Exception):  # noqa: N818 - it names a state, not an error
    """What is to be measured does not do what it should; the text says who and what."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What wrk did in one run."""

    requests: int
    seconds: float


def flood(address: str, keys: Sequence[str], seconds: float, scratch: Path) -> Flood:
    """As many dials as it answers, over `CONNECTIONS` connections that are kept; the keys take turns."""
    script = scratch / "dial.lua"
    script.write_text(_SCRIPT % _BODY, encoding="ascii")
    list_of_keys = scratch / "keys"
    list_of_keys.write_text("".join(f"{key}\n" for key in keys), encoding="ascii")
    # wrk knows whole seconds only. Interrupted, it reports what it has done so far.
    command: list[str | Path] = [
        program("wrk"),
        "-t1",
        f"-c{CONNECTIONS}",
        "-d60s",
        "-s",
        script,
        f"http://{address}",
        "--",
    ]
    with subprocess.Popen([*command, list_of_keys], stdout=subprocess.PIPE, text=True) as running:
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
        printed, _ = running.communicate(timeout=_ANSWER_SECONDS)
    if running.returncode:
        raise CannotMeasure(f"nobody listens at {address} any more")
    report = json.loads(printed.splitlines()[-1])
    if report["wrong"]:
        raise CannotMeasure(f"{report['wrong']} of {report['requests']} dials at {address} failed")
    return Flood(report["requests"], report["seconds"])


class Caller:
    """One connection of a caller."""

    def __init__(self, address: str, key: str) -> None:
        host, _, port = address.partition(":")
        self._address = (host, int(port))
        self._request = (
            f"POST /dial HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n{_BODY}"
        ).encode("ascii")
        self._received = b""
        self.socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.socket is not None:
            self.socket.close()

    def connect(self) -> bool:
        """Connect, if somebody listens."""
        try:
            self.socket = socket.create_connection(self._address, timeout=_ANSWER_SECONDS)
        except ConnectionRefusedError:
            return False
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    def send(self) -> int:
        """Send a dial; the file descriptor on which its answer arrives."""
        assert self.socket is not None
        self.socket.sendall(self._request)
        return self.socket.fileno()

    def receive(self) -> tuple[int, bytes] | None:
        """Take what has arrived; status and body once the answer is whole."""
        assert self.socket is not None
        data = self.socket.recv(65536)
        if not data:
            raise CannotMeasure("a connection was closed instead of an answer")
        self._received += data
        head, mark, body = self._received.partition(b"\r\n\r\n")
        if not mark:
            return None
        lengths = [line[15:] for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"]
        if not lengths or len(body) < int(lengths[0]):
            return None
        self._received = b""
        return int(head[9:12]), body

    def dial(self) -> tuple[int, bytes]:
        """Send a dial and wait for its answer."""
        self.send()
        while (answer := self.receive()) is None:
            pass
        return answer


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one run at a constant rate, in milliseconds."""

    p50: float
    p99: float


def steady(address: str, keys: Sequence[str], seconds: float) -> Latency:
    """`RATE` dials a second on connections that are kept, each sent when it is due, whatever the others do.

    What is measured is the time from when a dial was due: a stall shows in all dials that it delayed.
    """
    callers = [Caller(address, key) for key in keys[:_CALLERS]]
    try:
        if not all(caller.connect() for caller in callers):
            raise CannotMeasure(f"nobody listens at {address}")
        for caller in callers:
            caller.dial()
        taken = _at_a_rate(callers, seconds)
    finally:
        for caller in callers:
            caller.__exit__()
    percentiles = statistics.quantiles(taken, n=100)
    return Latency(percentiles[49] * 1000, percentiles[98] * 1000)


def _at_a_rate(callers: list[Caller], seconds: float) -> list[float]:
    free = deque(callers)
    waiting: dict[int, tuple[Caller, float]] = {}
    taken: list[float] = []
    begin = time.monotonic()
    total = int(seconds * RATE)
    sent = 0
    while len(taken) < total:
        now = time.monotonic()
        if now - begin > seconds + _ANSWER_SECONDS:
            raise CannotMeasure(f"{total - len(taken)} of {total} dials were not answered")
        due = begin + sent / RATE
        if sent < total and now >= due and free:
            caller = free.popleft()
            waiting[caller.send()] = (caller, due)
            sent += 1
            continue
        # Not poll or epoll: their timeouts are whole milliseconds, by which dials would be sent late.
        timeout = due - now if sent < total and free else _ANSWER_SECONDS
        ready, _, _ = select.select(list(waiting), (), (), max(0.0, timeout))
        for readable in ready:
            caller, due = waiting[readable]
            answer = caller.receive()
            if answer is None:
                continue
            if answer[0] >= 300:
                raise CannotMeasure(f"a dial was answered with {answer[0]}")
            taken.append(time.monotonic() - due)
            del waiting[readable]
            free.append(caller)
    return taken
