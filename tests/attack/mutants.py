"""Deletes one security check after the other and sees that a test fails for it: `make mutants`.

Owns the list of checks and of the tests that hold them. Refuses a check that is no longer where the list says: then
the list is to be brought up to date, not shortened. Works on a copy of the tree, so it is safe to stop at any time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 120


class Mutant(NamedTuple):
    """A check, the text that is it, what stands there without it, and the tests that must then fail."""

    check: str
    file: str
    old: str
    new: str
    tests: str


TLS = "tests/functional/test_upstream_tls.py"
REFUSALS = "tests/functional/test_refusals.py"
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
        "gateway/upstream/pool.py",
        "            self._policy.check_pins(connection.peer_certificate)\n",
        "",
        f"{TLS}::test_another_certificate_than_the_pinned_one",
    ),
    Mutant(
        "old versions of TLS are refused",
        "gateway/upstream/tls.py",
        "    context.minimum_version = minimum_version\n",
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
        "gateway/http/dial.py",
        "        if wanted not in principal.accounts:\n",
        "        if wanted not in self.tokens:\n",
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
        "            if Operation.CREATE not in principal.operations:\n",
        "            if not principal.operations:\n",
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
        "gateway/http/api.py",
        "        if path != _DIAL:\n",
        "        if not path.endswith(_DIAL):\n",
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
        "    if not _COOKIE_OCTETS.fullmatch(raw):\n",
        "    if not raw:\n",
        "tests/unit/test_config_secrets.py",
    ),
    Mutant(
        "session cookies that could break a field are not kept",
        "gateway/upstream/nslb.py",
        "            match = _SESSION_COOKIE.match(pair.strip())\n",
        '            match = re.match(rb"([^=]*)=(.*)", pair.strip(), re.DOTALL)\n',
        "tests/unit/test_nslb_reading.py",
    ),
    Mutant(
        "session cookies don't grow without end",
        "gateway/tokens.py",
        "len(session) <= _MOST_COOKIES and size <= _MOST_COOKIE_BYTES",
        "session",
        "tests/unit/test_tokens.py",
    ),
    Mutant(
        "an account's session is its own",
        "gateway/http/dial.py",
        "        account.keep_session(verdict.session, token.generation)\n",
        "        for other in accounts.tokens.values():\n"
        "            other.keep_session(verdict.session, other.token.generation)\n",
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
        "gateway/upstream/nslb.py",
        "    return _NUMBER.sub(_MASK, _CODED.sub(_MASK, text))\n",
        "    return _CODED.sub(_MASK, text)\n",
        "tests/attack/test_secrets.py",
    ),
    Mutant(
        "parts of tokens and anybody's sessions are not repeated from NSLB's words",
        "gateway/upstream/nslb.py",
        "    return _NUMBER.sub(_MASK, _CODED.sub(_MASK, text))\n",
        "    return _NUMBER.sub(_MASK, text)\n",
        "tests/unit/test_nslb_reading.py",
    ),
    Mutant(
        "the account's token and session are not repeated from NSLB's words",
        "gateway/upstream/nslb.py",
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
        "gateway/tokens.py",
        "            self._session = {}\n",
        "            pass\n",
        "tests/unit/test_tokens.py",
    ),
    Mutant(
        "an answer that says twice what came of the request is not believed",
        "gateway/upstream/nslb.py",
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
        "gateway/config/load.py",
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
)


def survives(mutant: Mutant, tree: Path) -> str | None:
    """Why a mutant lives, in a tree of its own; `None` when a test fails as it should."""
    path = tree / mutant.file
    original = path.read_text(encoding="utf-8")
    if original.count(mutant.old) != 1:
        return "the check is no longer where the list says"
    mutated = original.replace(mutant.old, mutant.new)
    if "_EVERY" in mutant.new:
        mutated = mutated.replace("class Accounts:\n", "_EVERY: list[StaticToken] = []\n\n\nclass Accounts:\n")
        mutated = mutated.replace(
            "        self.tokens = tokens\n", "        self.tokens = tokens\n        _EVERY[:] = tokens.values()\n"
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


def main() -> int:
    """Try every mutant; 1 if one lives."""
    living = 0
    with tempfile.TemporaryDirectory(prefix="dial-gateway-mutants-") as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__"))
        for mutant in MUTANTS:
            reason = survives(mutant, tree)
            living += reason is not None
            print(f"{'LIVES ' if reason else 'killed'} {mutant.check} ({mutant.tests})", flush=True)
            if reason:
                print(f"       {reason}", flush=True)
    print(f"\n{len(MUTANTS) - living} of {len(MUTANTS)} checks are held by a test.")
    return 1 if living else 0


if __name__ == "__main__":
    raise SystemExit(main())
