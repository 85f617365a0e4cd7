"""What a service catches: one class for each answer to "may I try that again?".

Owns the tree of errors and what each of them carries. Refuses a class that would not change that answer: what exactly
went wrong is `code`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What is known of a failure: the gateway's own words, or the client's where no answer of the gateway came.

    `code` is one of the gateway's, or one of the client's: `gateway-unreachable` (no connection), `gateway-untrusted`
    (its certificate), `answer-lost` (it was sent; no answer, or half of one), `unreadable-answer` (an answer that is
    not the gateway's). `outcome` is the gateway's word for what became of it: `not_sent`, `rejected` or `unknown`.
    `retry_after` is in seconds, `errors` are pairs of a JSON pointer and a sentence.
    """

    code: str
    outcome: str
    detail: str
    status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None
    result_code: str | None = None
    result_description: str | None = None
    errors: tuple[tuple[str, str], ...] = ()


class DialError(Exception):
    """It failed, after all repetitions that were allowed; the class says what may be tried now.

    `idempotency_key` is the one that was sent, of a `dial`. See `Problem` for the other attributes.
    """

    def __init__(self, problem: Problem, idempotency_key: str | None = None) -> None:
        super().__init__(problem, idempotency_key)
        self.problem = problem
        self.code = problem.code
        self.outcome = problem.outcome
        self.detail = problem.detail
        self.status = problem.status
        self.request_id = problem.request_id
        self.retry_after = problem.retry_after
        self.result_code = problem.result_code
        self.result_description = problem.result_description
        self.idempotency_key = idempotency_key

    def __str__(self) -> str:
        told = f"{self.code}: {self.detail}" if self.detail else self.code
        return f"{told} (request {self.request_id})" if self.request_id is not None else told


class NotDone(DialError):  # noqa: N818 - named for what became of the request
    """Nothing came of it. Trying again is safe.

    With an `idempotency_key` of your own this speaks of this `dial` alone: what an earlier one under that key left
    unknown is still unknown, and trying again is no safer than it was before.
    """


class Rejected(DialError):  # noqa: N818 - named for what became of the request
    """The contact centre said that it did not do it. Trying again is safe, and helps once the cause is gone."""


class OutcomeUnknown(DialError):  # noqa: N818 - named for what became of the request
    """It may have been done. Never dial again under another key: a phone might ring twice.

    `dial` with `idempotency_key` set to this error's asks what became of it: only if the gateway's store lasts (SQLite,
    Redis), and within the day that it keeps keys. One with `memory:` that was started anew knows nothing of the key,
    and makes another call. `release` may be repeated, always.
    """


class Refused(DialError):  # noqa: N818 - named for what became of the request
    """The gateway refuses it, and will again. The request, the credential or the address has to change.

    With the code `call-superseded` none of these helps: a later call of the same account has taken this one's place,
    which can be neither followed nor released any more.
    """
