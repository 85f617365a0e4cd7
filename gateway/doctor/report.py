"""What the doctor says: a line for each step, and under it what to do if it is not well.

Owns the form of the lines, and the count of what failed. Refuses nothing: what may be said is decided by those who
say it.
"""

from __future__ import annotations

from collections.abc import Callable


class Report:
    """Writes line by line through `write`."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.failed = 0
        self.warned = 0
        self._write = write

    def ok(self, subject: str, step: str, found: str) -> None:
        """All is well."""
        self._line("ok", subject, step, found)

    def warn(self, subject: str, step: str, found: str, advice: str) -> None:
        """It works, and will not for long, or not for what it is for."""
        self.warned += 1
        self._line("warn", subject, step, found, advice)

    def fail(self, subject: str, step: str, found: str, advice: str) -> None:
        """It does not work."""
        self.failed += 1
        self._line("FAIL", subject, step, found, advice)

    def skip(self, subject: str, step: str, reason: str) -> None:
        """It was not tried."""
        self._line("skip", subject, step, reason)

    def _line(self, word: str, subject: str, step: str, found: str, advice: str = "") -> None:
        self._write(f"{word:<5}{subject}  {step}: {found}")
        if advice:
            self._write(f"     -> {advice}")
