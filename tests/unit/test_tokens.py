"""The token and the session of an account: exact, counted, and its own."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from gateway.model import Secret
from gateway.tokens import StaticToken


class Kept:
    """Where a token is kept, and how often it was asked."""

    def __init__(self, value: str) -> None:
        self.value: str | Exception = value
        self.reads = 0

    def __call__(self) -> Secret:
        self.reads += 1
        if isinstance(self.value, Exception):
            raise self.value
        return Secret(self.value)


@pytest.fixture
def kept() -> Kept:
    return Kept("one%2F%3D==")


@pytest.fixture
def token(kept: Kept) -> StaticToken:
    return StaticToken("sales", Secret("one%2F%3D=="), kept, "file", lambda: 7.0)


def test_the_cookie_is_the_token_byte_for_byte_and_then_the_session(token: StaticToken) -> None:
    assert token.cookie == b"ccmessaging-token=one%2F%3D=="
    token.keep_session({b"JSESSIONID": b"a", b"JSESSIONID2": b"b"}, 1)
    assert token.cookie == b"ccmessaging-token=one%2F%3D==; JSESSIONID=a; JSESSIONID2=b"
    token.keep_session({b"JSESSIONID": b""}, 1)
    assert token.cookie == b"ccmessaging-token=one%2F%3D==; JSESSIONID2=b"


def test_the_same_value_again_is_nothing_newer(token: StaticToken, kept: Kept) -> None:
    assert token.renew(1) is None
    assert (token.token.generation, kept.reads) == (1, 1)


def test_another_value_is_the_next_generation_with_a_session_of_its_own(token: StaticToken, kept: Kept) -> None:
    token.keep_session({b"JSESSIONID": b"a"}, 1)
    kept.value = "two"

    renewed = token.renew(1)

    assert renewed is token.token
    assert (token.token.generation, token.token.value.reveal()) == (2, b"two")
    assert token.cookie == b"ccmessaging-token=two"
    token.keep_session({b"JSESSIONID": b"late"}, 1)
    assert token.cookie == b"ccmessaging-token=two"
    token.keep_session({b"JSESSIONID": b"b"}, 2)
    assert token.cookie == b"ccmessaging-token=two; JSESSIONID=b"


def of(user: str, number: int) -> str:
    """A token as the interface page describes it."""
    document = {"tenantId": "7", "channelId": "2023", "userId": user, "number": number}
    return quote(base64.b64encode(json.dumps(document).encode()))


def test_the_next_token_of_the_same_user_goes_on_with_the_session_and_anothers_does_not(kept: Kept) -> None:
    token = StaticToken("sales", Secret(of("anna", 1)), kept, "file", lambda: 7.0)
    token.keep_session({b"JSESSIONID": b"a"}, 1)

    assert token.replace(Secret(of("anna", 2)))
    assert token.cookie == f"ccmessaging-token={of('anna', 2)}; JSESSIONID=a".encode()
    assert token.secrets == (Secret(of("anna", 2)), Secret("a"))
    assert token.replace(Secret(of("otto", 3)))
    assert token.cookie == f"ccmessaging-token={of('otto', 3)}".encode()
    assert len(token.secrets) == 1


def test_who_comes_late_with_an_old_generation_gets_the_present_token_without_reading(
    token: StaticToken, kept: Kept
) -> None:
    kept.value = "two"
    token.renew(1)

    assert token.renew(1) is token.token
    assert kept.reads == 1


@pytest.mark.parametrize("fault", [FileNotFoundError(), ValueError("empty")])
def test_a_place_that_cannot_be_read_has_nothing_newer(token: StaticToken, kept: Kept, fault: Exception) -> None:
    kept.value = fault

    assert token.renew(1) is None
    assert token.cookie == b"ccmessaging-token=one%2F%3D=="


def test_a_session_does_not_grow_without_end(token: StaticToken) -> None:
    token.keep_session({b"JSESSIONID": b"a"}, 1)
    before = token.cookie
    token.keep_session({b"JSESSION%d" % number: b"x" for number in range(5)}, 1)
    token.keep_session({b"JSESSIONID": b"x" * 5000}, 1)

    assert token.cookie == before


def test_a_new_configuration_goes_on_with_the_session_of_the_same_token(token: StaticToken, kept: Kept) -> None:
    token.keep_session({b"JSESSIONID": b"a"}, 1)
    token.follow(Secret("one%2F%3D=="), kept, "env")
    assert (token.token.generation, token.origin) == (1, "env")
    assert token.cookie == b"ccmessaging-token=one%2F%3D==; JSESSIONID=a"
    token.follow(Secret("three"), kept, "env")
    assert (token.token.generation, token.cookie) == (2, b"ccmessaging-token=three")
