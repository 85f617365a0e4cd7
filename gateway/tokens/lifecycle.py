"""The life of a token, as plain code: may it be sent, is it to be refreshed, and when may that be tried again.

Owns the states of a token and every rule about time. Refuses clocks, tasks and I/O: `now` comes in (epoch seconds),
what follows comes out.

How many refreshes there can be (the bound that the README documents): one at a time; after a failure the next one
comes after a random time of 1 to 2, 4, 8 … 60 seconds; so it does when a token that was applied for without the store
was refused before its time, because somebody else applies as well; and however they end, `BURST` in a row and one every
`REFILL_SECONDS` from then on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.model import Secret, Token

BURST: Final = 10
REFILL_SECONDS: Final = 2.0
ELSEWHERE: Final = "elsewhere"
_LEAST_BACKOFF: Final = 1.0
_MOST_BACKOFF: Final = 60.0
_MOST_DOUBLINGS: Final = 6
_MILLISECONDS: Final = 1000
# The generations between two tokens that are applied for: for those that NSLB makes in band of the first.
_ROOM: Final = 1000


class State(StrEnum):
    """Where a token stands."""

    ABSENT = "absent"  # there has been none yet
    FRESH = "fresh"  # it can be sent
    RENEWED = "renewed"  # it can be sent, and NSLB itself brought it
    REFRESHING = "refreshing"  # another one is being obtained, whether this one can still be sent or not
    EXPIRED = "expired"  # its time is over, or NSLB refused it
    FAILED = "failed"  # the same, and the last try to obtain another one failed


class Trigger(StrEnum):
    """Why a token is refreshed."""

    START = "start"
    EARLY = "early"
    EXPIRED = "expired"
    REFUSED = "refused"
    IN_BAND = "in_band"


@dataclass(frozen=True, slots=True)
class Last:
    """The last refresh that was tried: when it ended (epoch seconds), why it began, and what failed, if it did.

    `ELSEWHERE` stands for what failed at another replica.
    """

    at: float
    trigger: Trigger
    failure: str | None


def backoff(failures: int) -> float:
    """How long to wait after so many failures in a row, in seconds: exponential, capped, with full jitter."""
    longest = min(_MOST_BACKOFF, 2.0 ** min(failures, _MOST_DOUBLINGS))
    return max(_LEAST_BACKOFF, random.uniform(0.0, longest))  # noqa: S311 - jitter


def next_generation(after: int, now: float) -> int:
    """The generation of a token that is applied for.

    It is greater than any before, also than those that a store had before it lost everything, and than those of the
    tokens that NSLB makes in band of the one before: to apply ends these, whenever the answers with them arrive.
    """
    return max(after + _ROOM, int(now * _MILLISECONDS))


class Lifecycle:
    """The token of one account. `lasts` is for how long a token is valid, in seconds.

    `spread` is the part of that by which the half of a life may come early, at random: so that accounts that began at
    once do not go on at once for ever.

    `asked` says that an application is out, ours or that of a replica whose token we wait for: it ends whatever NSLB
    sends until then. `renews` says that another token can be had before this one is over, and without anybody asking.
    """

    def __init__(self, lasts: float, *, renews: bool, spread: float = 0.0) -> None:
        self.lasts = lasts
        self._spread = spread
        self._early = 0.0
        self.renews = renews
        self.token: Token | None = None
        self.last: Last | None = None
        self._brought_by_nslb = False
        self._refused = 0
        self._attempt: Trigger | None = None
        self.asked = False
        self._not_before = 0.0
        self._not_hurried_before = 0.0
        self._allowance = float(BURST)
        self._counted = 0.0
        self._latest = 0.0
        self._alone = False
        self.displaced = 0  # tokens in a row that were applied for alone, and that somebody else ended
        self._last_displaced = 0
        self._not_alone_before = 0.0
        self.failures = 0

    # --- what it is

    @property
    def generation(self) -> int:
        """The generation of the present token; 0 if there is none."""
        return self.token.generation if self.token is not None else 0

    def usable(self, now: float) -> Token | None:
        """The token, if it may be sent."""
        token = self.token
        if token is None or token.generation <= self._refused:
            return None
        return token if token.expires is None or now < token.expires else None

    def state(self, now: float) -> State:
        """Where it stands."""
        if self._attempt is not None:
            return State.REFRESHING
        if self.usable(now) is not None:
            return State.RENEWED if self._brought_by_nslb else State.FRESH
        if self.last is not None and self.last.failure is not None:
            return State.FAILED
        return State.ABSENT if self.token is None else State.EXPIRED

    # --- what happens to it

    def take(self, token: Token, *, in_band: bool = False, alone: bool = False) -> bool:
        """Take the place of the present token; `False` (and nothing changes) for one that is no newer.

        `alone` says that it was applied for without the store, so that nobody else knows of it.
        """
        if token.generation <= self.generation:
            return False
        if not in_band:  # what NSLB makes of a token is as well known as that was
            self._alone = alone
            if not alone:
                self.displaced = 0
        self.token = token
        self._early = random.uniform(0.0, self._spread)  # noqa: S311 - jitter
        self._brought_by_nslb = in_band
        self.failures = 0
        return True

    def renewed(self, value: Secret, generation: int, sent: float, now: float) -> Token | None:
        """The token that NSLB sent with its answer to a request of that generation; `None` if that is no news.

        An answer that comes late, to a request with a former token, changes nothing (interface page, "The token").
        """
        present = self.token
        if present is None or present.generation != generation or value == present.value:
            return None
        # The next number, and none of the clock: what was applied for since then is the later one, whatever the clocks
        # say. Its time began after the request was sent; when, nobody tells.
        if self.renews:
            return Token(value, generation + 1, now, sent + self.lasts)
        # NSLB makes the next one of it when it is over, and nobody else does: so it is sent until that is refused.
        return Token(value, generation + 1, now)

    def refuse(self, generation: int) -> None:
        """NSLB refused the token of that generation (401): if it is the present one, it is not sent again."""
        if generation == self.generation:
            self._refused = generation

    def hurry(self) -> None:
        """Let what failed be tried at once, and a token that nothing can take the place of be sent again."""
        self._not_before = self._not_hurried_before = 0.0
        if not self.renews:
            self._refused = 0

    # --- refreshing it

    def due(self, now: float) -> Trigger | None:
        """Why a refresh should begin now; `None` if it should not, or must not yet."""
        reason = self._reason(now)
        return reason if reason is not None and self._attempt is None and self.wait(now) <= 0 else None

    def wait(self, now: float) -> float:
        """For how many seconds no refresh may begin, whatever the reason."""
        lacking = (1.0 - self._spare(now)) * REFILL_SECONDS
        # What was put off because the token could still be sent is not put off any more when it can't.
        later = self._not_hurried_before if self.usable(now) is not None else self._not_before
        return max(0.0, lacking, later - now)

    def second_try(self, now: float) -> float | None:
        """In how many seconds the second try comes, if the first one has just failed, here or at another replica.

        That is worth waiting for: the fabric may have made a token, which ended ours, and its answer may have got lost.
        """
        return self.wait(now) if self.failures == 1 and self.renews and self._attempt is None else None

    def next(self, now: float) -> float | None:
        """In how many seconds `due` may say something else, if nothing happens until then; `None` for never."""
        if self._attempt is not None:
            return None
        if self._reason(now) is not None:
            return self.wait(now) if self.renews else None
        if self.token is None or self.token.expires is None or not self.renews:
            return None
        return max(self._half(self.token) - now, self.wait(now))

    def wait_alone(self, now: float) -> float:
        """For how many seconds no token may be applied for without the store, when none is left that may be sent.

        One that was applied for so, and that NSLB refused before its time, was ended by somebody whom we can't see. Who
        ends that one's token in return does harm to all of them: so each time it waits longer.
        """
        token = self.token
        if token is None or not self._alone:
            return 0.0
        if token.generation > self._refused:
            self.displaced = 0  # it has lived to its end
            return 0.0
        if token.generation > self._last_displaced and (token.expires is None or now < token.expires):
            self._last_displaced = token.generation
            self.failures = self.displaced
            self.displaced += 1
            self._not_alone_before = now + backoff(self.displaced)
        return max(0.0, self._not_alone_before - now)

    def begin(self, trigger: Trigger, now: float) -> Attempt:
        """A refresh begins."""
        self._allowance = self._spare(now) - 1.0
        self._counted = now
        self._attempt = trigger
        return Attempt(self)

    def succeed(self, now: float) -> None:
        """It has brought a token, which has been taken."""
        self._end(now, None)
        self.failures = 0

    def fail(self, now: float, reason: str, wait: float) -> None:
        """It has failed; the next may begin in so many seconds."""
        self._end(now, reason)
        self.failures += 1
        self._not_before = self._not_hurried_before = now + wait

    def postpone(self, now: float, wait: float, failures: int = 0) -> None:
        """It has not been tried after all, and may be in so many seconds, after so many failures of other replicas."""
        if failures:
            self.failures = failures
            # Why it failed there is not known here; what failed here is still of use.
            if self._attempt is not None and (self.last is None or self.last.failure in {None, ELSEWHERE}):
                self.last = Last(now, self._attempt, ELSEWHERE)
        self._attempt = None
        self.asked = False
        self._not_hurried_before = now + wait
        if self.usable(now) is None:
            self._not_before = now + wait
        self._allowance = min(float(BURST), self._allowance + 1.0)

    # --- inside

    def _end(self, now: float, failure: str | None) -> None:
        if self._attempt is not None:
            self.last = Last(now, self._attempt, failure)
        self._attempt = None
        self.asked = False

    def _reason(self, now: float) -> Trigger | None:
        token = self.token
        if token is None:
            return Trigger.START
        if token.generation <= self._refused:
            return Trigger.REFUSED
        if token.expires is None:
            return None
        if now >= token.expires:
            return Trigger.EXPIRED
        return Trigger.EARLY if self.renews and now >= self._half(token) else None

    def _half(self, token: Token) -> float:
        """When half of a token's life is over: an outage of the other half's length goes unnoticed."""
        return (token.expires or 0.0) - self.lasts * (0.5 + self._early)

    def _spare(self, now: float) -> float:
        """How many refreshes may begin at once."""
        if now < self._latest:
            # The clock was set back: what is to be waited for does not get longer by that.
            self._not_before -= self._latest - now
            self._not_hurried_before -= self._latest - now
            self._not_alone_before -= self._latest - now
            self._counted -= self._latest - now
        self._latest = now
        if not self.renews:
            return float(BURST)  # nobody is asked but a file of our own
        return min(float(BURST), self._allowance + (now - self._counted) / REFILL_SECONDS)


class Attempt:
    """One refresh, as whoever carries it out sees it: which token it is to take the place of, and what came since."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self.generation = life.generation

    @property
    def latest(self) -> int:
        """The generation of the token that there is by now."""
        return self._life.generation

    def usable(self, now: float) -> Token | None:
        """The token that there is by now, if it may be sent."""
        return self._life.usable(now)

    def newer(self, now: float) -> Token | None:
        """The same, if it makes the refresh needless."""
        token = self._life.usable(now)
        return token if token is not None and token.generation > self.generation else None

    @property
    def displaced(self) -> int:
        """How many tokens in a row were applied for alone, and then ended by somebody else."""
        return self._life.displaced

    def wait_alone(self, now: float) -> float:
        """For how many seconds it must not apply without the store."""
        return self._life.wait_alone(now)

    def ask(self) -> None:
        """An application goes out, or is out already."""
        self._life.asked = True
