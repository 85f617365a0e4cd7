"""The doctor's round: endpoints, API Fabrics, the store, and each account at each endpoint.

Owns what each failure of tokens and checks means to an operator. Refuses to end the token of a gateway that shares its
store: a token is applied for as a replica does it, and not at all if the store can't be read; and to seal anew what
gateways with a former key still have to open.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from gateway import config
from gateway.app import endpoint_pool
from gateway.config import Configuration, ConfigurationError, load
from gateway.doctor.address import Address, reach
from gateway.doctor.report import Report
from gateway.doctor.store import look_at_store, withheld, without_new_file
from gateway.model import Trace
from gateway.problems import Problem
from gateway.roster import Roster
from gateway.server import event_loop
from gateway.store import Vault
from gateway.telemetry import LineWriter, Log, Metrics, Record, Telemetry
from gateway.tokens import ELSEWHERE, Account, AppliedSource, RefreshFailed
from gateway.upstream import CredentialGone, NotSent, Nslb, Reading, SentUnanswered, Support, Verdict

_FABRIC_SECONDS: Final = 15.0
_SKEW_SECONDS: Final = 30.0
_ADVICE: Final = {
    "unreachable": "Look at the lines of the API Fabric above; it may be overloaded.",
    "untrusted": "Look at the lines of the API Fabric above.",
    "timeout": "It did not answer in time: try again, or raise apply_token.timeout_seconds.",
    "refused": "It refuses the application: look at app_key and app_secret, and whether the service was bought.",
    "rejected": "It refuses the user: look at user_id, channel_id and locale.",
    "wrong_status": "It answers with the status of a fault: look at apply_token.url, and at the API Fabric itself.",
    "invalid_answer": "What answers there is not the documented API Fabric: look at apply_token.url.",
    "unchanged": "The token is over: put a new one in its place.",
    "unreadable": "Look at the file and its mode.",
}


class _Nowhere:
    """Takes the log lines of the parts that are at work here: the report says it all."""

    def write(self, data: bytes, /) -> int:
        return len(data)

    def flush(self) -> None:
        return


def doctor(file: Path, *, apply: bool) -> int:
    """Look at everything that a configuration needs, and say what to do; 0 if nothing failed, else 1.

    Without `apply` no token is applied for.
    """
    try:
        configuration = load(file).configuration
    except ConfigurationError as exc:
        for fault in exc.faults:
            print(fault)
        return 1
    report = Report(lambda line: print(line, flush=True))
    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(_round(configuration, report, apply=apply))
    print(f"\n{report.failed} failed, {report.warned} to be looked after.")
    return 1 if report.failed else 0


async def _round(configuration: Configuration, report: Report, *, apply: bool) -> None:
    telemetry = Telemetry(Log(LineWriter(_Nowhere())), Metrics("doctor"), time.monotonic)
    reached = []
    for endpoint in configuration.upstream.endpoints:
        address = Address(str(endpoint), endpoint.host, endpoint.port, configuration.upstream.tls, "upstream.tls")
        if await reach(report, address):
            reached.append(endpoint)
    configuration = without_new_file(configuration, report)
    roster = Roster(configuration, telemetry, reseals=False)
    for account in roster.accounts.values():
        account.rest()
    try:
        fabrics = await _fabrics(configuration, roster, report)
        stored = await look_at_store(configuration.store, roster, report)
        for name, account in roster.accounts.items():
            subject = f"account {name}"
            possible = stored and fabrics.get(name, True)
            if not await _token(report, subject, account, roster, apply=apply, possible=possible):
                report.skip(subject, "check", "without a token")
                continue
            for endpoint in configuration.upstream.endpoints:
                if endpoint in reached:
                    where = f"{subject} at {endpoint}"
                    await _check(
                        report, where, configuration, endpoint, account, vault=roster.vault, apply=apply and possible
                    )
                else:
                    report.skip(f"{subject} at {endpoint}", "check", "not reached")
    finally:
        await roster.close()


async def _fabrics(configuration: Configuration, roster: Roster, report: Report) -> dict[str, bool]:
    """Whether the application of each account that applies is taken."""
    usable: dict[str, bool] = {}
    seen: dict[object, bool] = {}
    for name, account in roster.accounts.items():
        applying = configuration.accounts[name].apply_token
        if applying is None or not isinstance(account.source, AppliedSource):
            continue
        fabric = account.source.fabric
        subject = f"fabric {applying.url}"
        if fabric not in seen:
            where = f"accounts.{name}.apply_token.tls"
            address = Address(subject, applying.url.host, applying.url.port, applying.tls, where)
            seen[fabric] = await reach(report, address)
            if not seen[fabric]:
                report.skip(subject, "AccessToken", "not reached")
            else:
                try:
                    async with asyncio.timeout(_FABRIC_SECONDS):
                        await fabric.access()
                except (RefreshFailed, TimeoutError) as exc:
                    reason = exc.reason if isinstance(exc, RefreshFailed) else "timeout"
                    report.fail(subject, "AccessToken", f"none ({reason})", _ADVICE.get(reason, _ADVICE["unreachable"]))
                    seen[fabric] = False
                else:
                    report.ok(subject, "AccessToken", f"for the app key of account {name}")
        usable[name] = seen[fabric]
    return usable


async def _token(  # noqa: PLR0913 - what was found before decides what can be tried
    report: Report, subject: str, account: Account, roster: Roster, *, apply: bool, possible: bool
) -> bool:
    """Whether there is a token, obtained as a replica would."""
    await account.looked()
    applied = isinstance(account.source, AppliedSource)
    if account.credential() is not None:
        status = account.status()
        origin = "from the store" if applied else f"from {account.source.origin}"
        until = status["token_expires"]
        left = "" if until is None else f", {max(0.0, until - time.time()) / 60:.0f} minutes left"
        report.ok(subject, "token", f"{origin}{left}")
        return True
    if not apply:
        report.skip(subject, "token", "is not applied for")
        return False
    if not possible:
        report.skip(subject, "token", "not applied for: see the store and the API Fabric above")
        return False
    try:
        await account.obtain()
    except Problem:
        last = _tried_here(account)
        if last is None and (others := await withheld(account, roster.vault)) is not None:
            report.fail(subject, "token", *others)
            return False
        reason = last["reason"] if last is not None else "timeout"
        report.fail(subject, "token", f"none ({reason})", _ADVICE.get(reason, _ADVICE["timeout"]))
        return False
    note = "" if roster.vault.store.shared else "; a gateway that runs with memory: obtains another at its next call"
    report.ok(subject, "token", f"applied for{note}")
    return True


async def _check(  # noqa: PLR0913 - what is checked, and for whom
    report: Report,
    subject: str,
    configuration: Configuration,
    endpoint: config.Endpoint,
    account: Account,
    *,
    vault: Vault,
    apply: bool,
) -> None:
    pool = endpoint_pool(configuration.upstream, [endpoint], asyncio.get_running_loop())
    upstream = configuration.upstream
    timeout = upstream.timeouts.response
    nslb = Nslb(pool, pool, Reading({}), timeout=timeout, poll_timeout=timeout, token_header=upstream.token_header)
    try:
        verdict = await _asked(nslb, account)
        if verdict.unauthorised and apply and await account.renew(verdict.generation):
            verdict = await _asked(nslb, account)
    except (NotSent, SentUnanswered) as failure:
        report.fail(subject, "check", failure.detail, "Look at the lines of this endpoint above, and try again.")
        return
    except CredentialGone:
        report.fail(subject, "check", "the token is over", _ADVICE["unchanged"])
        return
    finally:
        await pool.close()
    _renewed(report, subject, account, verdict, shared=vault.store.shared)
    if verdict.support is None:
        _refused(report, subject, verdict, account, await withheld(account, vault) if apply else None)
    else:
        _supported(report, subject, verdict.support)


async def _asked(nslb: Nslb, account: Account) -> Verdict:
    return await nslb.check(
        account.credential, Record(time.monotonic(), "doctor", Trace("0" * 31 + "1", "0" * 15 + "1", "00"))
    )


def _renewed(report: Report, subject: str, account: Account, verdict: Verdict, *, shared: bool) -> None:
    """Take the token that came with an answer: the former one is over, or soon is."""
    if verdict.renewed is None:
        return
    account.renewed(verdict.renewed, verdict.generation, verdict.duration)
    if account.generation == verdict.generation:
        return
    found = "NSLB sent another one"
    if shared:
        report.ok(subject, "token", f"{found}; gateways find it in the store")
    else:
        report.warn(subject, "token", found, "It is known to no gateway: those that run obtain one at their next call.")


def _tried_here(account: Account) -> dict[str, Any] | None:
    """The last refresh, if it was not another gateway's."""
    last: dict[str, Any] | None = account.status()["last_refresh"]
    return None if last is None or last["reason"] == ELSEWHERE else last


def _refused(report: Report, subject: str, verdict: Verdict, account: Account, others: tuple[str, str] | None) -> None:
    status = verdict.status
    last = _tried_here(account)
    code = verdict.result_code if verdict.result_code is not None and verdict.result_code.isdigit() else "none"
    if verdict.unauthorised and last is not None and last["reason"] is not None:
        advice = f"The token is over, and there is no other ({last['reason']}). {_ADVICE.get(last['reason'], '')}"
    elif verdict.unauthorised and last is None and others is not None:
        found, what = others
        advice = f"The token is over, and there is {found}. {what}"
    elif verdict.unauthorised and account.source.renews and last is None:
        advice = "The token is over, and another one was not applied for; a gateway would, at its next call."
    elif verdict.unauthorised:
        advice = (
            "The token is not the present one of its user: put a new one in its place. If it was just applied for, "
            "something else applies for the same user, or the service was not bought."
        )
    elif status in {403, 404}:
        advice = "Look at the endpoint's address: what answers there may not be NSLB, or not for this channel."
    else:
        advice = "What answers there is not the documented web adapter, or is out of order: ask who runs it."
    report.fail(subject, "check", f"HTTP {status}, resultCode {code}", advice)


def _supported(report: Report, subject: str, support: Support) -> None:
    words = f"click-to-call {'yes' if support.click_to_call else 'no'}, WebRTC {'yes' if support.webrtc else 'no'}"
    if support.click_to_call:
        report.ok(subject, "check", words)
    else:
        report.warn(subject, "check", words, "Have click-to-call enabled for this channel: calls will be rejected.")
    if support.date is None:
        report.skip(subject, "clock", "the answer has no date")
        return
    skew = time.time() - support.date
    if abs(skew) > _SKEW_SECONDS:
        report.warn(
            subject,
            "clock",
            f"{abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'} NSLB's",
            "Synchronise the clocks: this one decides when a token is over.",
        )
    else:
        report.ok(subject, "clock", "as NSLB's")
