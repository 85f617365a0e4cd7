"""What an answer of NSLB means, whatever it looks like; and what of its words may be shown."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Operation, Outcome, Secret
from gateway.problems import rejection
from gateway.upstream import Reading, Reply

TOKEN = "eyJ0ZW5hbnRJZCI6IjIwMjMi%2BfQ%3D%3D"
SECRETS = (Secret(TOKEN), Secret("node1.a7"), Secret("x"))
JSON = (b"content-type", b"application/json;charset=UTF-8")


READING = Reading({Operation.CREATE: {"13": rejection("no-agent-available", 503)}})


def read(status: int, body: object, *fields: tuple[bytes, bytes]) -> tuple[str, str | None]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    verdict = READING.read(Operation.CREATE, Reply(status, list(fields or (JSON,)), content), SECRETS)
    assert (verdict.problem is None) == (verdict.outcome is Outcome.ACCEPTED)
    if verdict.problem is not None:
        assert verdict.problem.outcome is verdict.outcome
    return verdict.outcome.value, verdict.problem.code if verdict.problem is not None else None


INVALID = ("unknown", "upstream-invalid-response")


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (200, {"resultCode": "0"}, ("accepted", None)),
        (201, {"resultCode": "0", "resultDesc": 7}, ("accepted", None)),
        (200, {"resultCode": "13"}, ("rejected", "no-agent-available")),
        (200, {"resultCode": "1"}, ("rejected", "upstream-rejected")),
        (200, {"resultCode": "00"}, ("rejected", "upstream-rejected")),
        (200, {"resultCode": 0}, INVALID),
        (200, {"resultCode": ""}, INVALID),
        (200, {"resultCode": None}, INVALID),
        (200, {"resultcode": "0"}, INVALID),
        (200, {}, INVALID),
        (200, [], INVALID),
        (200, "0", INVALID),
        (200, b"", INVALID),
        (200, b'{"resultCode":"0"', INVALID),
        (200, b'{"resultCode":"0"}x', INVALID),
        (200, b'{"resultCode":"13","resultCode":"0"}', INVALID),
        (200, b'{"result\\u0043ode":"13","resultCode":"0"}', INVALID),
        (200, {"content": {"resultCode": "5"}, "resultCode": "0"}, ("accepted", None)),
        (200, {"resultCode": "0", "resultDesc": "\u00e4"}, ("accepted", None)),
        (204, b"", INVALID),
        (302, {"resultCode": "0"}, INVALID),
        (302, {"resultCode": "5"}, INVALID),
        (400, b"", ("rejected", "upstream-rejected")),
        (404, b"<html>", ("rejected", "upstream-rejected")),
        (400, {"resultCode": "13"}, ("rejected", "no-agent-available")),
        (401, b"", ("rejected", "upstream-credential-rejected")),
        (401, {"resultCode": "0"}, ("rejected", "upstream-credential-rejected")),
        (403, {"resultCode": "9"}, ("rejected", "upstream-credential-rejected")),
        (499, {"resultCode": "0"}, ("rejected", "upstream-rejected")),
        (500, {"resultCode": "5"}, ("rejected", "upstream-rejected")),
        (500, {"resultCode": "0"}, INVALID),
        (500, b"", INVALID),
        (502, b"<html>", INVALID),
        (999, b"", INVALID),
    ],
)
def test_what_an_answer_means(status: int, body: object, meaning: tuple[str, str | None]) -> None:
    assert read(status, body) == meaning


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ([(b"content-type", b"application/json")], True),
        ([(b"content-type", b"Application/JSON ; charset=utf-8")], True),
        ([(b"content-type", b"application/problem+json")], True),
        ([(b"x-nothing", b"said")], True),
        ([(b"content-type", b"text/html")], False),
        ([(b"content-type", b"")], False),
        ([JSON, (b"content-encoding", b"identity")], True),
        ([JSON, (b"content-encoding", b"gzip")], False),
    ],
)
def test_an_answer_says_that_it_is_json_or_says_nothing(fields: list[tuple[bytes, bytes]], accepted: bool) -> None:
    assert (read(200, {"resultCode": "0"}, *fields)[0] == "accepted") == accepted


@given(status=st.integers(100, 999), body=st.binary(max_size=80), kind=st.binary(max_size=20))
def test_no_answer_makes_reading_fail_or_be_accepted_by_chance(status: int, body: bytes, kind: bytes) -> None:
    assert read(status, body, (b"content-type", kind), (b"set-cookie", body))[0] != "accepted"


@pytest.mark.parametrize("status", [401])
def test_only_a_401_asks_for_a_newer_token(status: int) -> None:
    for number in range(100, 600):
        verdict = READING.read(Operation.CREATE, Reply(number, [JSON], b"{}"), SECRETS)
        assert verdict.unauthorised == (number == status)
        done = READING.read(Operation.CREATE, Reply(number, [JSON], b'{"resultCode":"0"}'), SECRETS)
        assert not done.unauthorised


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("connect successfully.", "connect successfully."),
        (f"token {TOKEN} is bad", "token *** is bad"),
        (f"token {unquote(TOKEN)} is bad", "token *** is bad"),
        ("call to +49 170 55501234 failed", "call to *** failed"),
        ("0170/555-01-23", "***"),
        ("(0170) 5550123", "(***"),
        ("error 123456 at 12:30", "error 123456 at 12:30"),
        ("x" * 1000, "x" * 256),
        (f"token {TOKEN[:30]}... is bad", "token ***... is bad"),
        (f"token {TOKEN.lower()} is bad", "token *** is bad"),
        ("session node1.a7 is x", "session *** is x"),
        ("session 7A1F0C55D2E94B3C8890AB12CD34EF56 was not found", "session *** was not found"),
        ("internationalisationalismus is a word", "internationalisationalismus is a word"),
    ],
)
def test_words_are_shown_without_the_token_and_without_numbers(said: str, shown: str) -> None:
    body = json.dumps({"resultCode": "7", "resultDesc": said}).encode()
    verdict = READING.read(Operation.CREATE, Reply(200, [JSON], body), SECRETS)

    assert (verdict.result_code, verdict.description) == ("7", shown)


@pytest.mark.parametrize(("code", "shown"), [("+4917055501234", "***"), (TOKEN, "***"), ("A" * 100, "A" * 32)])
def test_codes_are_shown_with_the_same_care(code: str, shown: str) -> None:
    verdict = READING.read(Operation.CREATE, Reply(200, [JSON], json.dumps({"resultCode": code}).encode()), SECRETS)

    assert verdict.result_code == shown


@pytest.mark.parametrize(
    ("field", "kept"),
    [
        (b"JSESSIONID=abc; Path=/; HttpOnly", {b"JSESSIONID": b"abc"}),
        (b"JSESSIONID_1.x-y=abc", {b"JSESSIONID_1.x-y": b"abc"}),
        (b"JSESSIONID=abc%2F==", {b"JSESSIONID": b"abc%2F=="}),
        (b"JSESSIONID=", {b"JSESSIONID": b""}),
        (b"JSESSIONID=abc; Max-Age=0", {b"JSESSIONID": b""}),
        (b"JSESSIONID=abc; max-age=-1; Path=/", {b"JSESSIONID": b""}),
        (b"JSESSIONID=abc; Max-Age=100", {b"JSESSIONID": b"abc"}),
        (b"ccmessaging-token=evil", None),
        (b"other=abc", None),
        (b"jsessionid=abc", None),
        (b'JSESSIONID="abc"', None),
        (b"JSESSIONID=a b", None),
        (b"JSESSIONID=a,b", None),
        (b"JSESSIONID=a\rX: y", None),
        (b"JSESSIONID=a\nX: y", None),
        (b"JSESSIONID=a\x00", None),
        (b"JSESSIONID=\xff", None),
        (b"JSESSIONID", None),
        (b"JSESSIONID=" + b"x" * 1025, None),
        (b"JSESSION" + b"x" * 25 + b"=a", None),
    ],
)
def test_session_cookies_are_kept_if_they_cannot_break_a_field(field: bytes, kept: dict[bytes, bytes] | None) -> None:
    reply = Reply(200, [JSON], b'{"resultCode":"0"}', [(b"set-cookie", field)])

    assert READING.read(Operation.CREATE, reply, SECRETS).session == kept
