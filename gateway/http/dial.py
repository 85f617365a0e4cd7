"""`POST /dial`: from what the caller wants to a call that NSLB accepted.

Owns the choice of the account and the one repetition that is allowed: after a 401, with a newer token. Refuses
accounts and media that the service was not given, and to send anything again after that.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from typing import Final

import orjson

from gateway import problems
from gateway.http.body import DialRequest
from gateway.http.entropy import ENTROPY
from gateway.model import Medium, Outcome, Principal
from gateway.problems import Problem
from gateway.telemetry import Record
from gateway.tokens import Account
from gateway.upstream import CredentialGone, NotSent, Nslb, Verdict

_ID_BYTES: Final = 16
_MOST_WAITS: Final = 3
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class Accounts:
    """The accounts by name, and whose turn it is."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self.by_name = accounts
        self._turns: dict[str, int] = {}

    def choose(self, principal: Principal, wanted: str | None) -> Account:
        """The account that was asked for, or the service's next one in turn.

        Raises `Problem`, the same for an account of others and for one that does not exist.
        """
        if wanted is None:
            turn = self._turns.get(principal.service, 0)
            self._turns[principal.service] = turn + 1
            return self.by_name[principal.accounts[turn % len(principal.accounts)]]
        if wanted not in principal.accounts:
            raise Problem(problems.FORBIDDEN, "This service may not use this account.")
        return self.by_name[wanted]


async def place(
    wanted: DialRequest, principal: Principal, accounts: Accounts, nslb: Nslb, record: Record
) -> tuple[str, bytes]:
    """Create a call: its unguessable id, and the JSON body that tells of it.

    Raises `Problem`, `NotSent` or `SentUnanswered`; the record tells how far it came.
    """
    if wanted.medium not in principal.media:
        raise Problem(problems.FORBIDDEN, "This service may not use this medium.")
    record.media = wanted.medium
    account = accounts.choose(principal, wanted.account)
    record.account = account.name
    if account.credential() is None:
        await account.obtain()
    try:
        verdict = await nslb.create(wanted.medium, account.credential, record)
    except CredentialGone:
        verdict = await _with_another_token(wanted.medium, account, nslb, record)
    _take_note(account, verdict)
    if verdict.unauthorised and await account.renew(verdict.generation):
        verdict = await _once_more(wanted.medium, account, verdict, nslb, record)
    record.result_code = verdict.result_code
    if verdict.problem is not None:
        raise Problem(
            verdict.problem,
            verdict.detail,
            result_code=verdict.result_code,
            result_description=verdict.description,
        )
    record.outcome = Outcome.ACCEPTED
    dial_id = b2a_base64(ENTROPY.take(_ID_BYTES), newline=False).translate(_URL_SAFE, b"=").decode("ascii")
    document = {
        "id": dial_id,
        "status": "accepted",
        "media": record.media,
        "account": account.name,
        "outcome": "accepted",
        "result_code": verdict.result_code,
        "result_description": verdict.description,
    }
    return dial_id, orjson.dumps(document)


async def _with_another_token(medium: Medium, account: Account, nslb: Nslb, record: Record) -> Verdict:
    """What NSLB answers, after the token was refused or over while the request waited for a connection."""
    for _ in range(_MOST_WAITS):
        await account.obtain()
        try:
            return await nslb.create(medium, account.credential, record)
        except CredentialGone:
            continue
    raise Problem(problems.TOKEN_UNAVAILABLE, "The account's tokens did not last; nothing was sent.")


async def _once_more(medium: Medium, account: Account, refusal: Verdict, nslb: Nslb, record: Record) -> Verdict:
    """What NSLB answers with a newer token, after its refusal of the old one."""
    try:
        verdict = await nslb.create(medium, account.credential, record)
    except (NotSent, CredentialGone):
        # That nothing reached NSLB would be untrue: it has had the call, and refused it.
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
