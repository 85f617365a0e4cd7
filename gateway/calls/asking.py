"""Asking NSLB for an account: with its present token, and once more after a 401, with a newer one.

Owns what becomes of what comes with an answer: sessions and tokens go to the account whose token was sent. Refuses to
send anything again for any other reason.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

from gateway import problems
from gateway.model import Credential
from gateway.problems import Problem
from gateway.tokens import Account
from gateway.upstream import CredentialGone, NotSent, Verdict

_MOST_WAITS: Final = 3

Ask = Callable[[Callable[[], Credential | None]], Awaitable[Verdict]]


async def asked(account: Account, ask: Ask, until: float = math.inf) -> Verdict:
    """What NSLB answers. `ask` sends a request with what it is given; nothing is waited for after `until`.

    Raises `Problem` without a token, and what `ask` raises.
    """
    if account.credential() is None:
        await account.obtain(until)
    try:
        verdict = await ask(account.credential)
    except CredentialGone:
        verdict = await _with_another_token(account, ask, until)
    _take_note(account, verdict)
    if verdict.unauthorised and await account.renew(verdict.generation, until):
        return await _once_more(account, ask, verdict)
    return verdict


def insist(verdict: Verdict) -> None:
    """Raises `Problem` if NSLB did not do what it was asked for, or nobody knows whether it did."""
    if verdict.problem is not None:
        raise Problem(
            verdict.problem,
            verdict.detail,
            result_code=verdict.result_code,
            result_description=verdict.description,
        )


async def _with_another_token(account: Account, ask: Ask, until: float) -> Verdict:
    """What NSLB answers, after the token was refused or over while the request waited for a connection."""
    for _ in range(_MOST_WAITS):
        await account.obtain(until)
        try:
            return await ask(account.credential)
        except CredentialGone:
            continue
    raise Problem(problems.TOKEN_UNAVAILABLE, "The account's tokens did not last; nothing was sent.")


async def _once_more(account: Account, ask: Ask, refusal: Verdict) -> Verdict:
    """What NSLB answers with a newer token, after its refusal of the old one."""
    try:
        verdict = await ask(account.credential)
    except (NotSent, CredentialGone):
        # That nothing reached NSLB would be untrue: it has had the request, and refused it.
        return refusal
    _take_note(account, verdict)
    if verdict.unauthorised:
        account.refuse(verdict.generation)
    return verdict


def _take_note(account: Account, verdict: Verdict) -> None:
    """Keep what came with an answer for the account whose token was sent."""
    if verdict.session:
        account.keep_session(verdict.session, verdict.generation)
    if verdict.renewed is not None:
        account.renewed(verdict.renewed, verdict.generation, verdict.duration)
