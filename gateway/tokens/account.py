"""One account: the token that is sent for it, the session cookies that came with it, and keeping both good.

Owns the present credential of a contact-centre user, and that at most one refresh of it runs in this process.
Refuses to send a token that is over or that NSLB refused, and to take one from an answer that comes late.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway import problems
from gateway.model import Credential, Secret, Token
from gateway.problems import Problem
from gateway.store import Vault
from gateway.telemetry import Log, Metrics
from gateway.tokens.lifecycle import ELSEWHERE, Attempt, Lifecycle, Trigger, backoff
from gateway.tokens.session import Session, user_of
from gateway.tokens.sharing import Sharing
from gateway.tokens.source import Postponed, RefreshFailed, Renewal, Source

_MOST_SLEEP_SECONDS: Final = 60.0
_LEAST_SLEEP_SECONDS: Final = 0.01
_LAST_SECONDS: Final = 1.0
_SPREAD: Final = 0.05


class Account:
    """One contact-centre user. `lasts` is for how long its tokens are valid, in seconds; `wall` in epoch seconds.

    To be used from one event loop, and to be closed.
    """

    def __init__(  # noqa: PLR0913 - what an account is, and whom it tells
        self,
        name: str,
        source: Source,
        vault: Vault,
        log: Log,
        metrics: Metrics,
        *,
        lasts: float,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self._be(name)
        self._log = log
        self._metrics = metrics
        self._wall = wall
        self._life = Lifecycle(lasts, renews=source.renews, spread=_SPREAD)
        self._session = Session()
        self._credential: Credential | None = None
        self._ends = math.inf
        self._sharing = Sharing(vault, source.key, self._life, self._take, wall)
        self._refresh: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resting = False
        self._changed: asyncio.Event = asyncio.Event()
        metrics.expect_refreshes(name, tuple(Trigger))

    def _be(self, name: str) -> None:
        self.name = name
        # The same for all replicas that call for this user, and no other: it has one current call.
        self.line = self.source.line or hashlib.sha256(f"static\0{name}".encode()).hexdigest()

    # --- for a request

    def credential(self) -> Credential | None:
        """What to send now; `None` if there is nothing that may be sent."""
        return self._credential if self._wall() < self._ends else None

    async def obtain(self, until: float = math.inf) -> None:
        """Wait until there is something to send, at most `until` (in seconds of the event loop's clock).

        Raises `Problem` if nothing will come in time.
        """
        await self._come(until, lambda: self.credential() is not None)

    async def renew(self, generation: int, until: float = math.inf) -> bool:
        """NSLB refused the token of that generation: have a newer one; whether there is one now.

        The request can be sent once more, and no oftener. So while an application is out its token is waited for: it
        ends what NSLB sends meanwhile.
        """
        self.refuse(generation)
        try:
            await self._come(until, lambda: self.credential() is not None and not self._life.asked)
        except Problem:
            return self.credential() is not None
        return True

    def refuse(self, generation: int) -> None:
        """NSLB refused the token of that generation: it is not sent again."""
        self._life.refuse(generation)
        self._settle()

    def renewed(self, value: Secret, generation: int, seconds_ago: float) -> None:
        """Take the token that NSLB sent with its answer to a request of that generation, made so long ago."""
        now = self._wall()
        present = self._life.token
        token = self._life.renewed(value, generation, now - seconds_ago, now)
        if present is None or token is None:
            return
        user, before = user_of(value), user_of(present.value)
        if user is not None and before is not None and user != before:
            self._log.error("token.refresh_failed", account=self.name, trigger=Trigger.IN_BAND, reason="other_user")
            self._metrics.token_refreshed(self.name, Trigger.IN_BAND, "failure")
            return
        self._take(token, in_band=True)
        self._log.info("token.renewed_in_band", account=self.name, generation=token.generation)
        self._metrics.token_refreshed(self.name, Trigger.IN_BAND, "success")
        if not self._life.asked:
            self._sharing.keep(token)

    def keep_session(self, cookies: Mapping[bytes, bytes], generation: int) -> None:
        """Keep what NSLB set in answer to a request with the token of that generation; an empty value deletes.

        What was set for a former token is not kept.
        """
        if generation != self._life.generation:
            return
        if self._session.keep(cookies):
            self._settle()

    # --- its life

    def tend(self) -> None:
        """Begin a refresh if one is due, and see to it that it is looked at again in time."""
        now = self._wall()
        trigger = self._life.due(now)
        if trigger is not None:
            attempt = self._life.begin(trigger, now)
            self._refresh = asyncio.create_task(self._run(trigger, attempt))
            self._tell()
        self._sleep(now)

    @property
    def generation(self) -> int:
        """The generation of the present token; 0 if there is none."""
        return self._life.generation

    def take(self, token: Token) -> None:
        """Take the token that the configuration brings."""
        self._take(token)

    def follow(self, name: str, source: Source, lasts: float, token: Token | None = None) -> None:
        """Go on under a new configuration: with a source for the same user, and a token if it brings a new one.

        Somebody has looked after it, so what failed may be tried again at once.
        """
        self.source = source
        if name != self.name:
            self._be(name)
            self._metrics.expect_refreshes(name, tuple(Trigger))
            self._show_end()
        self._life.lasts = lasts
        self._life.hurry()
        self._sharing.move(self.source.key, self.source.base)
        if token is None or not self._take(token):
            self._settle()

    def rest(self) -> None:
        """Begin no refresh by itself from now on, but only for who asks for a token."""
        self._resting = True

    async def looked(self) -> None:
        """Look into the store now."""
        await self._sharing.looked()

    async def close(self) -> None:
        """End what runs for it, giving it a moment to end by itself. Requests under way may still ask for a token."""
        self.rest()
        self._sharing.leave()
        if self._timer is not None:
            self._timer.cancel()
        running = [*self._sharing.running, *([self._refresh] if self._refresh is not None else [])]
        if running:
            _, unfinished = await asyncio.wait(running, timeout=_LAST_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """What `/status` says of it; never a secret. Times are in epoch seconds, ages in seconds."""
        now = self._wall()
        token, last = self._life.token, self._life.last
        return {
            "account": self.name,
            "source": self.source.origin,
            "state": str(self._life.state(now)),
            "usable": self.credential() is not None,
            "generation": self._life.generation,
            "token_age_seconds": None if token is None else round(now - token.obtained),
            "token_expires": None if token is None else token.expires,
            "last_refresh": None
            if last is None
            else {
                "at": last.at,
                "trigger": str(last.trigger),
                "result": "success" if last.failure is None else "failure",
                "reason": last.failure,
            },
        }

    # --- inside

    async def _come(self, until: float, there: Callable[[], bool]) -> None:
        """Wait until there is what is waited for, refreshing if that helps. Raises `Problem` if it will not come."""
        if there():
            return
        loop = asyncio.get_running_loop()
        give_up = min(loop.time() + self.source.patience, until)
        failures = self._life.failures
        while True:
            if self.source.renews or self._life.failures == failures:
                self.tend()
            if there():
                return
            look_again = give_up
            if self._refresh is None:
                second_try = self._life.second_try(self._wall())
                if second_try is None:
                    raise self._unavailable()
                look_again = min(give_up, loop.time() + max(second_try, _LEAST_SLEEP_SECONDS))
            try:
                async with asyncio.timeout_at(look_again):
                    await self._changed.wait()
            except TimeoutError:
                if look_again == give_up:
                    raise self._unavailable() from None

    async def _run(self, trigger: Trigger, attempt: Attempt) -> None:
        started = time.monotonic()
        try:
            renewal = await self.source.renew(attempt)
        except Postponed as later:
            # Of those that another replica has tried and failed, the first one: that one tells of each.
            if later.failures and not self._life.failures:
                self._tell_failure(trigger, ELSEWHERE, later.wait)
            self._life.postpone(self._wall(), later.wait, later.failures)
        except RefreshFailed as failure:
            wait = failure.wait if failure.wait is not None else backoff(self._life.failures + 1)
            self._failed(trigger, failure.reason, wait, time.monotonic() - started)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the next try comes, and the log has the reason
            self._failed(trigger, "internal", backoff(self._life.failures + 1), time.monotonic() - started)
            self._log.fault(exc)
        except BaseException:
            self._life.postpone(self._wall(), 0.0)
            raise
        else:
            self._succeeded(trigger, renewal, time.monotonic() - started)
        finally:
            self._refresh = None
            self._tell()
        # The store has not got what NSLB sent meanwhile, nor what could not be written.
        self._sharing.catch_up()
        self._sleep(self._wall())

    def _succeeded(self, trigger: Trigger, renewal: Renewal, duration: float) -> None:
        token = renewal.token
        self._life.succeed(self._wall())
        self._take(token, alone=renewal.alone)
        self._sharing.move(self.source.key, self.source.base)
        if renewal.kept:
            self._sharing.has(token.generation)
        if not renewal.obtained:
            return
        self._metrics.token_refreshed(self.name, trigger, "success", duration)
        told = {"trigger": trigger, "generation": token.generation, "duration": round(duration, 6)}
        self._log.info("token.refreshed", account=self.name, **told)

    def _failed(self, trigger: Trigger, reason: str, wait: float, duration: float) -> None:
        last = self._life.last
        self._life.fail(self._wall(), reason, wait)
        if not self.source.renews and last is not None and last.failure == reason:
            return  # each request asks again, and what it hears is in its own line
        self._metrics.token_refreshed(self.name, trigger, "failure", duration)
        self._tell_failure(trigger, reason, wait, duration=round(duration, 6))

    def _tell_failure(self, trigger: Trigger, reason: str, wait: float, **more: float) -> None:
        told = {"trigger": trigger, "reason": reason, "retry_in": round(wait, 3), **more}
        self._log.warning("token.refresh_failed", account=self.name, **told)

    def _take(self, token: Token, *, in_band: bool = False, alone: bool = False) -> bool:
        """Take a newer token. The session goes on only if it is visibly the same user's."""
        before = self._life.token
        if not self._life.take(token, in_band=in_band, alone=alone):
            return False
        user = user_of(token.value)
        if before is None or user is None or user != user_of(before.value):
            self._session.end()
        self._settle()
        self._show_end()
        self._tell()
        self._sleep(self._wall())
        return True

    def _settle(self) -> None:
        """Make anew what is sent."""
        token = self._life.usable(-math.inf)
        if token is None:
            self._credential = None
            return
        self._credential = self._session.credential(token)
        self._ends = math.inf if token.expires is None else token.expires

    def _show_end(self) -> None:
        """Show when the token ends, if that is known."""
        token = self._life.token
        if self._resting or token is None:
            return
        if token.expires is not None:
            self._metrics.token_expires(self.name, token.expires)
        else:
            self._metrics.forget_account(self.name)

    def _tell(self) -> None:
        """Wake those who wait for a token."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _sleep(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait = self._life.next(now)
        if wait is not None and not self._resting:
            # Not longer than a minute, in case the clock is set.
            seconds = min(_MOST_SLEEP_SECONDS, max(_LEAST_SLEEP_SECONDS, wait))
            self._timer = asyncio.get_running_loop().call_later(seconds, self.tend)

    def _unavailable(self) -> Problem:
        return Problem(
            problems.TOKEN_UNAVAILABLE,
            "The account has no token that could be sent; nothing was sent.",
            retry_after=max(1, math.ceil(self._life.wait(self._wall()))),
        )
