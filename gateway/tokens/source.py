"""Where tokens come from, as an account sees it.

Owns the words between an account and its source. Refuses to know how a token is obtained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.model import Token
from gateway.tokens.lifecycle import Attempt


class RefreshFailed(Exception):  # noqa: N818 - it names an end, after which the same is tried again later
    """No token was obtained: `reason` is a word for logs, `wait` is in seconds until the next try, if that is known."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class Postponed(Exception):  # noqa: N818 - it names a state
    """Nothing was tried here; it may be in `wait` seconds.

    `failures` is how many tries of other replicas have failed in a row, 0 if that is not the reason.
    """

    def __init__(self, wait: float, failures: int = 0) -> None:
        super().__init__(wait, failures)
        self.wait = wait
        self.failures = failures


@dataclass(frozen=True, slots=True)
class Renewal:
    """A newer token.

    `obtained` says that it was obtained here and now, `kept` that the store has it, `alone` that it was obtained
    without the store.
    """

    token: Token
    obtained: bool
    kept: bool
    alone: bool = False


class Source(Protocol):
    """Obtains tokens for one account.

    `origin` is a word for operators. `key` is under which the store keeps the account's token: the same for every
    replica that has to share it, and no other's. `base` is by how many the generations of this process are ahead of
    those under that key. `renews` says that tokens can be had whenever they are wanted.
    `patience` is for how long a request may wait for one, in seconds. `line` names the user, whatever the tokens are
    obtained with; `None` if nobody here knows who that is.
    """

    origin: str
    renews: bool
    patience: float
    line: str | None
    base: int

    @property
    def key(self) -> str:
        """See above; it may change with the configuration."""
        ...

    async def renew(self, attempt: Attempt) -> Renewal:
        """A token newer than the one that the attempt is to replace. Raises `RefreshFailed` and `Postponed`."""
        ...
