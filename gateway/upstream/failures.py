"""The ways in which a request can fail on its way to NSLB: before anything of it was sent, and after.

Owns the distinction on which everything rests that may be tried again. Refuses a third: what may have been sent was.
"""

from __future__ import annotations

from gateway import problems
from gateway.problems import ProblemType


class NotSent(Exception):  # noqa: N818 - it names a state, not an error
    """Nothing of the request reached NSLB: another endpoint may be tried."""

    def __init__(self, problem: ProblemType, detail: str) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.detail = detail


class CredentialGone(Exception):  # noqa: N818 - it names a state, not an error
    """Nothing of the request reached NSLB, because its token was over when its turn came: again with a newer one."""


class SentUnanswered(Exception):  # noqa: N818 - it names a state, not an error
    """The request may have arrived and no valid answer came: it must not be sent again."""

    def __init__(self, problem: ProblemType, detail: str) -> None:
        super().__init__(problem.code)
        self.problem = problem
        self.detail = detail


def nothing_sent() -> NotSent:
    """The failure of a connection that went before anything was written to it."""
    return NotSent(problems.UPSTREAM_UNREACHABLE, "The connection was lost before anything was sent.")
