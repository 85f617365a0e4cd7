"""Deletes one security check after the other and sees that a test fails for it: `make mutants`.

Owns the list of checks and of the tests that hold them. Refuses a check that is no longer where the list says: then
the list is to be brought up to date, not shortened. Works on a copy of the tree, so it is safe to stop at any time.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 240
WORKERS: Final = min(4, os.cpu_count() or 1)


class Mutant(NamedTuple):
    """A check, the text that is it, what stands there without it, and the tests that must then fail."""

    check: str
    file: str
    old: str
    new: str
    tests: str


TLS = "tests/functional/test_upstream_tls.py"
REFUSALS = "tests/functional/test_refusals.py"
APPLIED = "tests/tokens/test_applied.py"
ORDER = "tests/tokens/test_order.py"
STORES = "tests/real/test_stores.py"
CALLS = "tests/calls/test_whole_call.py"
KEYS = "tests/calls/test_keys.py"
BUSY = "tests/calls/test_accounts.py"
LATE = "tests/calls/test_late_writes.py"
MUTANTS: Final = (
    Mutant(
        "NSLB's certificate is verified",
        "gateway/upstream/tls.py",
        "    context.hostname_checks_common_name = False\n",
        "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n",
        f"{TLS}::test_an_unknown_authority",
    ),
    Mutant(
        "NSLB's name is verified",
        "gateway/upstream/tls.py",
        "    context.hostname_checks_common_name = False\n",
        "    context.check_hostname = False\n",
        f"{TLS}::test_another_name_than_the_configured_one",
    ),
    Mutant(
        "the pinned certificate is demanded",
        "gateway/upstream/tls.py",
        "            if not any(hmac.compare_digest(pin, shown) for pin in pins):\n",
        "            if not pins:\n",
        f"{TLS}::test_another_certificate_than_the_pinned_one",
    ),
    Mutant(
        "old versions of TLS are refused",
        "gateway/upstream/tls.py",
        "    context.minimum_version = _VERSIONS[settings.minimum_version]\n",
        "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n",
        f"{TLS}::test_tls_one_dot_two_is_too_old_when_three_is_asked_for",
    ),
    Mutant(
        "whole digests of keys are compared",
        "gateway/auth/api_key.py",
        '        if not hmac.compare_digest(found.digest, wanted):\n            return None, "unknown"\n',
        '        if found is self._stand_in:\n            return None, "unknown"\n',
        "tests/unit/test_auth.py",
    ),
    Mutant(
        "keys expire",
        "gateway/auth/api_key.py",
        '        if found.not_after is not None and now >= found.not_after:\n            return None, "expired"\n',
        "",
        REFUSALS,
    ),
    Mutant(
        "two credentials are none",
        "gateway/auth/credentials.py",
        "    if len(authorizations) + len(keys) != 1:\n",
        "    if not authorizations and not keys:\n",
        REFUSALS,
    ),
    Mutant(
        "accounts of others are refused",
        "gateway/calls/placing.py",
        "        if wanted is not None and wanted not in principal.accounts:\n",
        "        if wanted is not None and not wanted:\n",
        "tests/functional/test_dial.py",
    ),
    Mutant(
        "media that were not given are refused",
        "gateway/http/dial.py",
        "    if wanted.medium not in principal.media:\n",
        "    if not principal.media:\n",
        REFUSALS,
    ),
    Mutant(
        "operations that were not given are refused",
        "gateway/http/api.py",
        "            if operation is not None and operation not in principal.operations:\n",
        "            if operation is not None and not principal.operations:\n",
        REFUSALS,
    ),
    Mutant(
        "a member that stands twice is refused",
        "gateway/http/body.py",
        "    if len(members) != len(pairs):\n",
        "    if len(members) > len(pairs):\n",
        REFUSALS,
    ),
    Mutant(
        "unknown members are refused",
        "gateway/http/body.py",
        "        for name in islice(document, _MOST_ERRORS)\n",
        "        for name in islice(document, 0)\n",
        REFUSALS,
    ),
    Mutant(
        "only the origin form is a target",
        "gateway/http/form.py",
        '    if not path.startswith("/"):\n',
        "    if not path:\n",
        REFUSALS,
    ),
    Mutant(
        "requests that change the protocol are refused",
        "gateway/http/form.py",
        '    if "Upgrade" in headers:\n',
        '    if "Upgrade" in ():\n',
        REFUSALS,
    ),
    Mutant(
        "a body that is still coded is refused",
        "gateway/http/form.py",
        '    if coding is not None and (coding.lower() != "chunked" or not version.minor):\n',
        "    if coding is not None and not version.minor:\n",
        REFUSALS,
    ),
    Mutant(
        "names that may be secrets are not repeated to the caller",
        "gateway/http/body.py",
        'f"/{name}" if _SHOWABLE.fullmatch(name) else ""',
        'f"/{name}"',
        REFUSALS,
    ),
    Mutant(
        "a token that can't stand in a cookie is refused",
        "gateway/config/secrets.py",
        "    if kind is Kind.TOKEN and not can_be_token(raw):\n",
        "    if kind is Kind.TOKEN and not raw:\n",
        "tests/unit/test_config_secrets.py",
    ),
    Mutant(
        "session cookies that could break a field are not kept",
        "gateway/upstream/reading.py",
        "            match = _SESSION_COOKIE.match(pair.strip())\n",
        '            match = re.match(rb"([^=]*)=(.*)", pair.strip(), re.DOTALL)\n',
        "tests/unit/test_nslb_reading.py",
    ),
    Mutant(
        "session cookies don't grow without end",
        "gateway/tokens/session.py",
        " or len(kept) > _MOST_COOKIES or size > _MOST_COOKIE_BYTES",
        "",
        "tests/unit/test_session.py",
    ),
    Mutant(
        "an account's session is its own",
        "gateway/tokens/account.py",
        "        if self._session.keep(cookies):\n            self._settle()\n",
        "        for other in _SHARED:\n            other._session.keep(cookies)\n            other._settle()\n",
        "tests/functional/test_dial.py::test_the_session_cookie_stays_with_its_account",
    ),
    Mutant(
        "an answer that nobody asked for closes the connection",
        "gateway/upstream/connection.py",
        '        if self._complete:\n            msg = "unsolicited"\n            raise ValueError(msg)\n',
        "",
        "tests/unit/test_connection.py",
    ),
    Mutant(
        "answers are bounded",
        "gateway/upstream/connection.py",
        "        if self._size > MOST_ANSWER_BYTES:\n",
        "        if self._size > 1000 * MOST_ANSWER_BYTES:\n",
        "tests/functional/test_phases.py",
    ),
    Mutant(
        "what may have been sent is not sent again",
        "gateway/upstream/pool.py",
        "            except BaseException:\n                # Whatever it was",
        "            except SentUnanswered:\n                connection.close()\n                continue\n"
        "            except BaseException:\n                # Whatever it was",
        "tests/functional/test_phases.py",
    ),
    Mutant(
        "a secret redacts itself",
        "gateway/model.py",
        "    def __repr__(self) -> str:\n        return _MASK\n",
        "    def __repr__(self) -> str:\n        return repr(self.__value)\n",
        "tests/unit/test_model.py",
    ),
    Mutant(
        "the log shows only known fields",
        "gateway/telemetry/logs.py",
        "if value is not None and name in FIELDS",
        "if value is not None",
        "tests/unit/test_logs.py",
    ),
    Mutant(
        "what libraries log is shown without its values",
        "gateway/telemetry/logs.py",
        'fields["message"] = str(record.msg)',
        'fields["message"] = record.getMessage()',
        "tests/unit/test_logs.py",
    ),
    Mutant(
        "telephone numbers are not repeated from NSLB's words",
        "gateway/upstream/reading.py",
        "    return _NUMBER.sub(_MASK, _CODED.sub(_MASK, text))\n",
        "    return _CODED.sub(_MASK, text)\n",
        "tests/attack/test_secrets.py",
    ),
    Mutant(
        "parts of tokens and anybody's sessions are not repeated from NSLB's words",
        "gateway/upstream/reading.py",
        "    return _NUMBER.sub(_MASK, _CODED.sub(_MASK, text))\n",
        "    return _NUMBER.sub(_MASK, text)\n",
        "tests/unit/test_nslb_reading.py",
    ),
    Mutant(
        "the account's token and session are not repeated from NSLB's words",
        "gateway/upstream/reading.py",
        "                text = text.replace(form, _MASK)\n",
        "                text = text.replace(form, form)\n",
        "tests/unit/test_nslb_reading.py",
    ),
    Mutant(
        "an alert that says nothing of the kind doesn't mean that nothing was sent",
        "gateway/upstream/tls.py",
        "    if version != _TLS_OF_SUCH_ALERTS:\n        return False\n",
        "",
        f"{TLS}::test_only_an_alert_that_belongs_to_the_handshake_says_that_nothing_was_taken",
    ),
    Mutant(
        "a session goes with no other user's token",
        "gateway/tokens/account.py",
        "            self._session.end()\n",
        "            pass\n",
        "tests/unit/test_session.py",
    ),
    Mutant(
        "an answer that says twice what came of the request is not believed",
        "gateway/upstream/reply.py",
        " and _says_it_twice(reply.body)",
        " and False",
        "tests/unit/test_nslb_reading.py",
    ),
    Mutant(
        "a caller that reads no answers is not answered without end",
        "gateway/http/answers.py",
        "        if connection.pressed:\n",
        "        if False:\n",
        "tests/functional/test_slow_callers.py",
    ),
    Mutant(
        "another process's socket is left to it",
        "gateway/listening.py",
        "            if probe.connect_ex(str(path)) != errno.ECONNREFUSED:\n",
        "            if False:\n",
        "tests/functional/test_listening.py",
    ),
    Mutant(
        "faults of the configuration don't repeat values",
        "gateway/config/positions.py",
        'lambda quoted: quoted[0] if len(quoted[0]) <= _ONE_QUOTED else "…"',
        "lambda quoted: quoted[0]",
        "tests/unit/test_config_load.py",
    ),
    Mutant(
        "credentials don't travel in clear",
        "gateway/config/together.py",
        "    yield from _listening(data)\n",
        "",
        "tests/unit/test_config_load.py",
    ),
    Mutant(
        "result codes don't make series without end",
        "gateway/telemetry/metrics.py",
        " and len(self._seen) < self._most",
        "",
        "tests/attack/test_series.py",
    ),
    Mutant(
        "a token whose time is over is not sent",
        "gateway/tokens/account.py",
        "        return self._credential if self._wall() < self._ends else None\n",
        "        return self._credential\n",
        f"{APPLIED}::test_a_token_whose_time_is_over_is_never_sent",
    ),
    Mutant(
        "a token that NSLB refused is not sent again",
        "gateway/tokens/lifecycle.py",
        "        if token is None or token.generation <= self._refused:\n            return None\n",
        "        if token is None:\n            return None\n",
        "tests/tokens/test_static.py",
    ),
    Mutant(
        "the token is asked for when the request is sent",
        "gateway/upstream/pool.py",
        "        if request is None:\n",
        "        if request is None and until < math.inf:\n",
        "tests/tokens/test_static.py",
    ),
    Mutant(
        "an answer that comes late brings no token",
        "gateway/tokens/lifecycle.py",
        "present.generation != generation or value == present.value",
        "value == present.value",
        "tests/tokens/test_in_band.py",
    ),
    Mutant(
        "an answer that comes late is no newer than what was applied for since",
        "gateway/tokens/lifecycle.py",
        "        return Token(value, generation + 1, now, sent + self.lasts)\n",
        "        return Token(value, max(generation + 1, int(now * 1000)), now, sent + self.lasts)\n",
        ORDER,
    ),
    Mutant(
        "who was refused waits for the token of an application that is out",
        "gateway/tokens/account.py",
        "self.credential() is not None and not self._life.asked)",
        "self.credential() is not None)",
        ORDER,
    ),
    Mutant(
        "what is applied for ends what NSLB sent to another replica meanwhile",
        "gateway/tokens/standing.py",
        "    return present if present != after else None\n",
        "    return None if present == after else None\n",
        ORDER,
    ),
    Mutant(
        "what is applied for is newer than what there is here",
        "gateway/tokens/applied.py",
        "next_generation(max(after, attempt.latest), self._wall())",
        "next_generation(after, self._wall())",
        ORDER,
    ),
    Mutant(
        "what NSLB sends while another replica applies is not waited for",
        "gateway/tokens/applied.py",
        "            if token is not None and not working:\n",
        "            if token is not None:\n",
        ORDER,
    ),
    Mutant(
        "who could not give its token to the store looks what is there",
        "gateway/tokens/sharing.py",
        "            else:\n                self.look()\n",
        "",
        ORDER,
    ),
    Mutant(
        "what the store did not get under a lease it is given afterwards",
        "gateway/tokens/account.py",
        "        self._sharing.catch_up()\n",
        "",
        ORDER,
    ),
    Mutant(
        "a token whose time is over is not taken from the store",
        "gateway/tokens/standing.py",
        "    return token if token.expires is None or now < token.expires else None\n",
        "    return token\n",
        ORDER,
    ),
    Mutant(
        "the calls of a replica wait for the second try if another one's first has failed",
        "gateway/tokens/lifecycle.py",
        "            self.failures = failures\n",
        "            pass\n",
        ORDER,
    ),
    Mutant(
        "whoever waits for another's token takes its turn when the lease is over",
        "gateway/tokens/applied.py",
        "            if not lease.working:\n",
        "            if not lease.working or working:\n",
        ORDER,
    ),
    Mutant(
        "the time of a token that NSLB sent began when it was asked",
        "gateway/tokens/lifecycle.py",
        "        return Token(value, generation + 1, now, sent + self.lasts)\n",
        "        return Token(value, generation + 1, now, now + self.lasts)\n",
        "tests/unit/test_lifecycle.py",
    ),
    Mutant(
        "how long ago a request was sent is known to its account",
        "gateway/tokens/account.py",
        "renewed(value, generation, now - seconds_ago, now)",
        "renewed(value, generation, now, now)",
        ORDER,
    ),
    Mutant(
        "a token of another user is not taken from an answer",
        "gateway/tokens/account.py",
        "        if user is not None and before is not None and user != before:\n",
        "        if user is None and before is not None and user != before:\n",
        "tests/tokens/test_in_band.py",
    ),
    Mutant(
        "what can be no token is not taken from an answer",
        "gateway/upstream/reading.py",
        " if found is not None and can_be_token(found) else None",
        " if found is not None else None",
        "tests/tokens/test_in_band.py",
    ),
    Mutant(
        "what can be no token is not taken from the API Fabric",
        "gateway/tokens/fabric.py",
        " or not can_be_token(token.encode())",
        "",
        APPLIED,
    ),
    Mutant(
        "the API Fabric's certificate is verified before the secret is sent",
        "gateway/upstream/tls.py",
        "    context.hostname_checks_common_name = False\n",
        "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n",
        f"{APPLIED}::test_a_fabric_that_cannot_be_trusted_never_sees_the_secret",
    ),
    Mutant(
        "refreshes are bounded",
        "gateway/tokens/lifecycle.py",
        "        return max(0.0, lacking, later - now)\n",
        "        return max(0.0, later - now)\n",
        "tests/unit/test_lifecycle.py",
    ),
    Mutant(
        "after a failure the next refresh waits",
        "gateway/tokens/lifecycle.py",
        "        self._not_before = self._not_hurried_before = now + wait\n",
        "        pass\n",
        "tests/unit/test_lifecycle.py",
    ),
    Mutant(
        "a token is written only in the place of the one it was made for (memory)",
        "gateway/store/shelf.py",
        "        if entry.generation != after or generation <= after:\n",
        "        if generation <= after:\n",
        f"{STORES} -k memory",
    ),
    Mutant(
        "a token is written only in the place of the one it was made for (SQLite)",
        "gateway/store/sqlite_statements.py",
        "WHERE key = :key AND generation = :after AND :generation > :after\n",
        "WHERE key = :key AND :generation > :after\n",
        f"{STORES} -k sqlite",
    ),
    Mutant(
        "a token is written only in the place of the one it was made for (Redis)",
        "gateway/store/redis_scripts.py",
        "if number('g') ~= after or generation <= after then return 0 end\n",
        "if generation <= after then return 0 end\n",
        f"{STORES} -k redis",
    ),
    Mutant(
        "a holder that stalls past its lease can't write (memory)",
        "gateway/store/shelf.py",
        "entry.fence == fence and entry.until > now):\n                return False",
        "entry.fence == fence):\n                return False",
        f"{STORES} -k memory",
    ),
    Mutant(
        "a holder that stalls past its lease can't write (SQLite)",
        "gateway/store/sqlite_statements.py",
        "    AND (:fence IS NULL OR (working AND fence = :fence AND until > :now))\n",
        "    AND (:fence IS NULL OR (working AND fence = :fence))\n",
        f"{STORES} -k sqlite",
    ),
    Mutant(
        "a holder that stalls past its lease can't write (Redis)",
        "gateway/store/redis_scripts.py",
        " or number('u') <= now then return 0 end\n    redis.call",
        " then return 0 end\n    redis.call",
        f"{STORES} -k redis",
    ),
    Mutant(
        "a record is written only in the place of the one that its writer saw (memory)",
        "gateway/store/ledger.py",
        "        if (page.version if page is not None else 0) != after:\n",
        "        if False:\n",
        f"{STORES} -k memory",
    ),
    Mutant(
        "a record is written only in the place of the one that its writer saw (SQLite)",
        "gateway/store/sqlite.py",
        "                if (left if there else 0) != after:\n",
        "                if False:\n",
        f"{STORES} -k sqlite",
    ),
    Mutant(
        "a record is written only in the place of the one that its writer saw (Redis)",
        "gateway/store/redis_scripts.py",
        "if present ~= after then return '0' end\n",
        "",
        f"{STORES} -k redis",
    ),
    Mutant(
        "no record is forgotten for want of room",
        "gateway/store/ledger.py",
        '            raise StoreUnavailable("full")\n',
        "            self._lines.pop(next(iter(self._lines)))\n",
        "tests/unit/test_ledger.py",
    ),
    Mutant(
        "a process that lives is not taken for dead",
        "gateway/store/presence.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
        "            pass\n",
        f"{STORES} -k sqlite",
    ),
    Mutant(
        "behind a SQLite file that is held nobody waits for all the others",
        "gateway/store/sqlite.py",
        "            if self._monotonic() > late:\n",
        "            if False:\n",
        f"{STORES} -k behind_others",
    ),
    Mutant(
        "only an id becomes part of a path",
        "gateway/store/presence.py",
        "        if not _ID.fullmatch(owner):\n",
        "        if not owner:\n",
        f"{STORES} -k sign_of_a_store",
    ),
    Mutant(
        "nobody refreshes alone while the token can be sent",
        "gateway/tokens/applied.py",
        "                if attempt.usable(self._wall()) is not None:\n",
        "                if False:\n",
        "tests/real/test_replicas.py::test_while_redis_is_gone_nobody_refreshes_alone_before_its_token_is_over",
    ),
    Mutant(
        "who was displaced while it was alone waits until it applies alone again",
        "gateway/tokens/applied.py",
        "                self._wait_alone(attempt)\n",
        "                pass\n",
        "tests/tokens/test_turns.py",
    ),
    Mutant(
        "an account knows that its token was applied for alone",
        "gateway/tokens/account.py",
        "self._take(token, alone=renewal.alone)",
        "self._take(token)",
        ORDER,
    ),
    Mutant(
        "a store that is busy for a moment is asked again before anybody applies alone",
        "gateway/tokens/applied.py",
        "            if loop.time() >= give_up:\n",
        "            if True:\n",
        "tests/tokens/test_turns.py",
    ),
    Mutant(
        "accounts that wait for a connection to the fabric have no lease",
        "gateway/tokens/fabric.py",
        "asyncio.Semaphore(_MOST_CONNECTIONS)",
        "asyncio.Semaphore(1_000)",
        "tests/tokens/test_turns.py",
    ),
    Mutant(
        "a token that was made while the store lost everything is kept",
        "gateway/tokens/applied.py",
        "        if self._wall() < until:\n",
        "        if False:\n",
        "tests/tokens/test_turns.py",
    ),
    Mutant(
        "who stalled until its lease was over keeps nothing",
        "gateway/tokens/applied.py",
        "        if self._wall() < until:\n",
        "        if True:\n",
        "tests/tokens/test_turns.py",
    ),
    Mutant(
        "a token is opened only for whom it was sealed",
        "gateway/store/sealing.py",
        '            if document["key"] != key or document["generation"] != stored.generation:\n',
        '            if document["generation"] != stored.generation:\n',
        "tests/unit/test_sealing.py",
    ),
    Mutant(
        "a record is opened only for the key that it was sealed for",
        "gateway/store/sealing.py",
        "        if not content.startswith(_bound(key)):\n",
        "        if False:\n",
        "tests/unit/test_sealing.py",
    ),
    Mutant(
        "tokens are encrypted in a store that lasts",
        "gateway/config/together.py",
        'if scheme in {"sqlite", "redis", "rediss"} and not _list(_at(settings, "encryption_keys")):\n',
        "if scheme == settings:\n",
        "tests/unit/test_config_accounts.py",
    ),
    Mutant(
        "the SQLite file is its owner's alone",
        "gateway/store/sqlite.py",
        "_PRIVATE: Final = 0o600\n",
        "_PRIVATE: Final = 0o644\n",
        f"{STORES} -k owners",
    ),
    Mutant(
        "a SQLite file that was there before is closed to others",
        "gateway/store/sqlite.py",
        "            if mode & stat.S_IRWXO:\n",
        "            if False:\n",
        f"{STORES} -k others",
    ),
    Mutant(
        "the certificate of Redis is verified",
        "gateway/store/redis.py",
        '            "ssl_cert_reqs": "required",\n            "ssl_check_hostname": True,\n',
        '            "ssl_cert_reqs": "none",\n            "ssl_check_hostname": False,\n',
        f"{STORES} -k over_tls",
    ),
    Mutant(
        "the doctor applies for nothing past a store that it can't read",
        "gateway/doctor/command.py",
        "possible = stored and fabrics.get(name, True)\n",
        "possible = fabrics.get(name, True)\n",
        "tests/process/test_doctor.py -k cannot_be",
    ),
    Mutant(
        "the doctor leaves the seals of a store as they are",
        "gateway/doctor/command.py",
        "telemetry, reseals=False)\n",
        "telemetry)\n",
        "tests/process/test_doctor.py -k former_key",
    ),
    Mutant(
        "nothing is sent for a key that the store was not told of",
        "gateway/idempotency.py",
        "version = await self._vault.write(place, entry.encode(), after=0, seconds=self.limit + self.keep)\n",
        "version = 1\n",
        "tests/real/test_many_replicas.py -k many_times_at_once",
    ),
    Mutant(
        "a key stays taken when a call may have been made",
        "gateway/idempotency.py",
        "if problem.type.outcome is not Outcome.UNKNOWN:\n",
        "if problem.type.outcome:\n",
        f"{KEYS} -k stays_unknown",
    ),
    Mutant(
        "a key is of one request",
        "gateway/idempotency.py",
        "if entry.fingerprint != fingerprint:\n",
        "if not entry.fingerprint:\n",
        f"{KEYS} -k another_request",
    ),
    Mutant(
        "a key is of one service",
        "gateway/idempotency.py",
        'f"{service}\\0{key}"',
        'f"{key}"',
        f"{KEYS} -k its_service",
    ),
    Mutant(
        "a call is of one service",
        "gateway/calls/registry.py",
        "if call is None or call.service != service:\n",
        "if call is None:\n",
        f"{CALLS} -k another_service",
    ),
    Mutant(
        "what is told of a call is in the store",
        "gateway/calls/registry.py",
        "                draft = call.copy()\n",
        "                draft = call\n",
        "tests/calls/test_following.py",
    ),
    Mutant(
        "the end of a call is behind all that anybody was told of it",
        "gateway/calls/call.py",
        "whole.append(end if end.number > before else ",
        "whole.append(end if end.number else ",
        "tests/unit/test_call.py",
    ),
    Mutant(
        "a gateway that stops has told the store of its calls",
        "gateway/app.py",
        "        await self._errands.finish()\n",
        "",
        "tests/calls/test_stopping.py",
    ),
    Mutant(
        "the polls of a line end before another call is made",
        "gateway/calls/lines.py",
        "            await asyncio.wait(polls, timeout=_POLL_END_SECONDS)\n",
        "            await asyncio.sleep(0)\n",
        "tests/calls/test_contested.py -k have_ended",
    ),
    Mutant(
        "a release is for the call that is meant",
        "gateway/calls/lines.py",
        "if current is not None and current != call:\n",
        'if current == "":\n',
        f"{CALLS} -k later_call",
    ),
    Mutant(
        "nothing is released while it is not known what became of another call",
        "gateway/calls/lines.py",
        "                await settled.wait()\n",
        "                pass\n",
        "tests/calls/test_contested.py -k ends_none_but",
    ),
    Mutant(
        "a call that may have been made is the one that is meant",
        "gateway/calls/placing.py",
        "            made = _may_be_made(exc, record)\n",
        "            made = False\n",
        "tests/calls/test_contested.py -k may_have_been",
    ),
    Mutant(
        "a dial is not repeated that a gateway may have forgotten",
        "gateway/client/judgement.py",
        "failure.repeat and (self.key is None or self.lasting_store or self.doubt is None)",
        "failure.repeat",
        "tests/client/test_judgement.py",
    ),
    Mutant(
        "a key is taken only by who is seen to be alive",
        "gateway/idempotency.py",
        "        await self._vault.vouched()\n",
        "        pass\n",
        "tests/real/test_many_replicas.py -k takes_no_key",
    ),
    Mutant(
        "what runs here is known here, whatever becomes of the store",
        "gateway/idempotency.py",
        "        entry = self._running.get(place)\n",
        "        entry = None\n",
        "tests/real/test_many_replicas.py -k forgotten_with",
    ),
    Mutant(
        "who listens to Redis can be stopped",
        "gateway/store/redis.py",
        "            while True:\n                cancelled()\n",
        "            while True:\n",
        f"{STORES} -k stopped_at",
    ),
    Mutant(
        "an event is of a call that NSLB can have meant alone",
        "gateway/calls/following.py",
        "        if await self._replaced():\n            return\n\n        await self._all.calls",
        "        await self._all.calls",
        "tests/calls/test_following.py -k late_event",
    ),
    Mutant(
        "no call is made while another is released",
        "gateway/calls/lines.py",
        "        if line in self._releasing:\n            await self._until_released(line, until)\n",
        "",
        "tests/calls/test_contested.py -k can_not_wait",
    ),
    Mutant(
        "nor at another gateway",
        "gateway/calls/lines.py",
        "not self._others(found), found.released(now)\n",
        "not self._others(found), False\n",
        "tests/calls/test_following.py -k is_answered",
    ),
    Mutant(
        "a call is followed and released with the user that made it",
        "gateway/calls/placing.py",
        "        if seat is None or seat.account.line != call.line:\n",
        "        if seat is None:\n",
        "tests/calls/test_accounts.py -k another_user",
    ),
    Mutant(
        "a write that comes late takes no account",
        "gateway/calls/line_records.py",
        "            return step(found) or replace(found)\n",
        "            return step(found) or found\n",
        f"{LATE} -k comes_late",
    ),
    Mutant(
        "a store that was emptied frees no account",
        "gateway/calls/line_records.py",
        "version=0) if line in self._ours else Line()\n",
        "version=0) if not line else Line()\n",
        f"{LATE} -k emptied",
    ),
    Mutant(
        "what nobody can read frees no account",
        "gateway/calls/line_records.py",
        '            raise StoreUnavailable("no key opens it")\n',
        "            found = Line(version=kept.version)\n",
        f"{LATE} -k nobody_can_read",
    ),
    Mutant(
        "a key is not free while its request runs",
        "gateway/idempotency.py",
        "entry.owner == self._vault.owner and place not in self._running:\n",
        "entry.owner == self._vault.owner:\n",
        f"{LATE} -k under_way",
    ),
    Mutant(
        "nothing is released while another gateway makes a call",
        "gateway/calls/line.py",
        "making or self.released(now):\n            return None\n        return replace(self, call=call, rel",
        "doubt or self.released(now):\n            return None\n        return replace(self, call=call, rel",
        "tests/unit/test_line.py",
    ),
    Mutant(
        "an account is not free while its call is released",
        "gateway/calls/line.py",
        "until = self.releasing if self.released(now) else 0.0\n",
        "until = 0.0\n",
        "tests/unit/test_line.py",
    ),
    Mutant(
        "a poll ends with the release of its call",
        "gateway/calls/releasing.py",
        "                await followings.quiet(call)\n",
        "                pass\n",
        "tests/calls/test_following.py -k nobody_polls",
    ),
    Mutant(
        "a poll ends before another call is made",
        "gateway/calls/lines.py",
        "        polls = {poll for end in self._polls.get(line, ()) if (poll := end()) is not None}\n",
        "        polls: set[asyncio.Future[Any]] = set()\n",
        "tests/calls/test_following.py -k here",
    ),
    Mutant(
        "an exclusive account has one call",
        "gateway/calls/line.py",
        "if self.until > now or self.making or self.released(now):\n",
        "if self.until < 0:\n",
        f"{BUSY} -k one_call_each",
    ),
    Mutant(
        "a call that may have been made has its account",
        "gateway/calls/placing.py",
        "return exc.type.outcome is Outcome.UNKNOWN\n",
        "return False\n",
        f"{BUSY} -k undocumented",
    ),
    Mutant(
        "nor is the account free after a lost answer",
        "gateway/calls/placing.py",
        "return record.sent and not isinstance(exc, NotSent)\n",
        "return False\n",
        f"{BUSY} -k may_have_been",
    ),
    Mutant(
        "nothing is sent after the caller's deadline",
        "gateway/upstream/pool.py",
        "if record.late or (until < math.inf and self._loop.time() >= until):\n",
        "if until < 0:\n",
        "tests/calls/test_deadlines.py -k the_store_too_long",
    ),
    Mutant(
        "no secret is in the content of an event",
        "gateway/upstream/reading.py",
        "content = _cleaned(content, secrets) if isinstance(content, dict) else {}\n",
        "content = content if isinstance(content, dict) else {}\n",
        f"{CALLS} -k secret_in_an_event",
    ),
)


def survives(mutant: Mutant, tree: Path) -> str | None:
    """Why a mutant lives, in a tree of its own; `None` when a test fails as it should."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    if original.count(mutant.old) != 1:
        return "the check is no longer where the list says"
    mutated = original.replace(mutant.old, mutant.new)
    if "_SHARED" in mutant.new:
        mutated = mutated.replace("\n\n\nclass Account:\n", "\n_SHARED: list[Account] = []\n\n\nclass Account:\n")
        mutated = mutated.replace(
            "        self.name = name\n", "        self.name = name\n        _SHARED.append(self)\n"
        )
    if "SentUnanswered" in mutant.new:
        mutated = mutated.replace("failures import NotSent", "failures import NotSent, SentUnanswered")
    path.write_text(mutated, encoding="utf-8")
    try:
        tests = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "--no-header",
                "-p",
                "no:cacheprovider",
                *mutant.tests.split(),
            ],
            cwd=tree,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    finally:
        path.write_text(original, encoding="utf-8")
    return None if tests.returncode == 1 else f"its tests ended with {tests.returncode}: {tests.stdout[-300:]}"


def main(words: Sequence[str]) -> int:
    """Try every mutant whose check has all of these words; 1 if one lives."""
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.check for word in words)]
    if not chosen:
        raise SystemExit("No check has all of these words.")
    living = 0
    with tempfile.TemporaryDirectory(prefix="dial-gateway-mutants-") as scratch:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(WORKERS):
            tree = Path(scratch) / f"tree-{number}"
            shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__"))
            trees.put(tree)

        def attempt(mutant: Mutant) -> str | None:
            tree = trees.get()
            try:
                return survives(mutant, tree)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(WORKERS) as workers:
            for mutant, reason in zip(chosen, workers.map(attempt, chosen), strict=True):
                living += reason is not None
                print(f"{'LIVES ' if reason else 'killed'} {mutant.check} ({mutant.tests})", flush=True)
                if reason:
                    print(f"       {reason}", flush=True)
    print(f"\n{len(chosen) - living} of {len(chosen)} checks are held by a test.")
    return 1 if living else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
