"""This machine: its cores, its programs, and processes that are started, looked at and ended by their id.

Owns every process of the benchmark, so that none outlives it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

LOCAL: Final = "127.0.0.1"
_ENDING_SECONDS: Final = 5.0
_PACKAGES: Final = {"nginx": "nginx-light", "wrk": "wrk"}
_CORES: Final = sorted(os.sched_getaffinity(0))
# The contender has a core for itself; the load and the upstream share another one, if there is another one.
CONTENDER_CORE: Final = _CORES[0]
OTHER_CORE: Final = _CORES[-1]


class Missing(Exception):  # noqa: N818 - it names a state, not an error
    """A program that the benchmark needs is not installed; the text says how to get it."""


def program(name: str) -> str:
    """The path of a program, or `Missing`."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(
            f"{name} is not installed, and the benchmark measures with it. "
            f"On Debian and Ubuntu: apt-get install {_PACKAGES[name]}; elsewhere: the package {name}."
        )
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A program that runs until the end of a `with` block, on one core; its errors go to a file.

    `began` is when it was started, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        core: int,
        errors: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self._errors = errors
        self.began = time.monotonic()
        with errors.open("ab") as sink:
            self._running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=sink,
                env=None if environment is None else os.environ | environment,
                cwd=directory,
            )
        # It has no second thread yet, and those that it makes inherit this.
        os.sched_setaffinity(self._running.pid, {core})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.terminate()
        try:
            self._running.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._running.poll() is not None

    def told(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text(errors="replace")

    def cpu(self) -> float:
        """Seconds of CPU that all its threads took so far, user and system."""
        # What clock_getcpuclockid(3) makes of a process id. /proc counts hundredths of a second only.
        return time.clock_gettime(((~self._running.pid) << 3) | 2)

    def resident(self) -> float:
        """MiB of its memory that are in RAM."""
        status = Path(f"/proc/{self._running.pid}/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024
