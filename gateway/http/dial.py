"""`POST /dial`: from what the caller wants to a call that NSLB accepted.

Owns the choice of the account and the one repetition that is allowed: after a 401, with a newer token. Refuses
accounts and media that the service was not given, and to send anything again after that.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from gateway import problems
from gateway.http.body import DialRequest
from gateway.model import Outcome, Principal
from gateway.problems import Problem
from gateway.telemetry import Record
from gateway.tokens import StaticToken
from gateway.upstream import Caller, Nslb, Verdict

_ID_BYTES: Final = 16


class Accepted(NamedTuple):
    """A call that was created: its unguessable id, and the JSON body that tells of it."""

    id: str
    document: bytes


class Accounts:
    """The accounts by name, and whose turn it is."""

    def __init__(self, tokens: Mapping[str, StaticToken]) -> None:
        self.tokens = tokens
        self._turns: dict[str, int] = {}

    def choose(self, principal: Principal, wanted: str | None) -> StaticToken:
        """The account that was asked for, or the service's next one in turn.

        Raises `Problem`, the same for an account of others and for one that does not exist.
        """
        if wanted is None:
            turn = self._turns.get(principal.service, 0)
            self._turns[principal.service] = turn + 1
            return self.tokens[principal.accounts[turn % len(principal.accounts)]]
        if wanted not in principal.accounts:
            raise Problem(problems.FORBIDDEN, "This service may not use this account.")
        return self.tokens[wanted]


async def place(wanted: DialRequest, principal: Principal, accounts: Accounts, nslb: Nslb, record: Record) -> Accepted:
    """Create a call. Raises `Problem`, `NotSent` or `SentUnanswered`; the record tells how far it came."""
    if wanted.medium not in principal.media:
        raise Problem(problems.FORBIDDEN, "This service may not use this medium.")
    record.media = wanted.medium.value
    account = accounts.choose(principal, wanted.account)
    record.account = account.account
    caller = Caller(record.request_id, record.trace.traceparent(), record.client_address)
    verdict, generation = await _attempt(wanted, account, nslb, caller, record)
    if verdict.unauthorised and account.renew(generation) is not None:
        verdict, _ = await _attempt(wanted, account, nslb, caller, record)
    record.result_code = verdict.result_code
    if verdict.problem is not None:
        raise Problem(
            verdict.problem,
            verdict.detail,
            result_code=verdict.result_code,
            result_description=verdict.description,
        )
    record.outcome = Outcome.ACCEPTED
    dial_id = secrets.token_urlsafe(_ID_BYTES)
    document = {
        "id": dial_id,
        "status": "accepted",
        "media": record.media,
        "account": account.account,
        "outcome": "accepted",
        "result_code": verdict.result_code,
        "result_description": verdict.description,
    }
    return Accepted(dial_id, orjson.dumps(document))


async def _attempt(
    wanted: DialRequest, account: StaticToken, nslb: Nslb, caller: Caller, record: Record
) -> tuple[Verdict, int]:
    """One create with the account's present token, whose generation is returned too."""
    token = account.token
    verdict = await nslb.create(wanted.medium, account.cookie, token.value, caller, record)
    if verdict.session:
        account.keep_session(verdict.session)
    return verdict, token.generation
