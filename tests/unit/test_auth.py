"""Whose key it is: found by its digest, compared whole, expired to the second, and never two at once."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.auth import ApiKey, ApiKeys, new_key, presented
from gateway.auth.credentials import Absence
from gateway.model import Principal

KEY = b"dgw_" + b"k" * 43
DIGEST = hashlib.sha256(KEY).digest()
BILLING = Principal("billing", ("sales",), frozenset(), frozenset())


def altered(digest: bytes, index: int) -> bytes:
    """The same digest with one byte changed."""
    changed = bytearray(digest)
    changed[index] ^= 1
    return bytes(changed)


def test_a_key_is_found_by_its_digest() -> None:
    keys = ApiKeys([ApiKey(DIGEST, None, BILLING)])

    assert keys.identify(KEY, 0.0) == (BILLING, "accepted")
    for wrong in (b"", KEY[:-1], KEY + b"x", b"x" + KEY[1:], KEY.upper(), DIGEST, DIGEST.hex().encode()):
        assert keys.identify(wrong, 0.0) == (None, "unknown")


@pytest.mark.parametrize("index", range(32))
def test_a_digest_that_differs_in_any_one_byte_is_another_key(index: int) -> None:
    keys = ApiKeys([ApiKey(altered(DIGEST, index), None, BILLING)])

    assert keys.identify(KEY, 0.0) == (None, "unknown")


def test_without_any_key_nobody_is_known() -> None:
    assert ApiKeys([]).identify(KEY, 0.0) == (None, "unknown")


def test_a_key_holds_until_the_second_of_its_end() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    keys = ApiKeys([ApiKey.until(DIGEST, end, BILLING)])

    assert keys.identify(KEY, end.timestamp() - 0.001) == (BILLING, "accepted")
    assert keys.identify(KEY, end.timestamp()) == (None, "expired")


def test_a_service_may_have_several_keys_and_each_is_its_own() -> None:
    other = Principal("care", ("sales",), frozenset(), frozenset())
    second = b"dgw_second"
    keys = ApiKeys([ApiKey(DIGEST, None, BILLING), ApiKey(hashlib.sha256(second).digest(), None, other)])

    assert keys.identify(KEY, 0.0)[0] is BILLING
    assert keys.identify(second, 0.0)[0] is other


def test_the_same_key_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        ApiKeys([ApiKey(DIGEST, None, BILLING), ApiKey(DIGEST, None, BILLING)])


def test_new_keys_are_recognisable_and_have_256_random_bits() -> None:
    keys = {new_key().reveal() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith(b"dgw_") and len(key) == 47 for key in keys)


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(
    "pairs",
    [
        [("Authorization", "Bearer abc")],
        [("authorization", "bearer abc")],
        [("AUTHORIZATION", "BEARER  abc")],
        [("X-API-Key", "abc")],
        [("Cookie", "x"), ("x-api-key", "abc")],
    ],
)
def test_one_credential_is_taken(pairs: list[tuple[str, str]]) -> None:
    assert presented(fields(*pairs)) == b"abc"


@pytest.mark.parametrize(
    ("pairs", "absence"),
    [
        ([], Absence.MISSING),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer a")], Absence.AMBIGUOUS),
        ([("X-API-Key", "a"), ("X-API-Key", "a")], Absence.AMBIGUOUS),
        ([("Authorization", "Bearer a"), ("X-API-Key", "a")], Absence.AMBIGUOUS),
        ([("Authorization", "Basic a")], Absence.MALFORMED),
        ([("Authorization", "Bearera")], Absence.MALFORMED),
        ([("Authorization", "Bearer")], Absence.MALFORMED),
        ([("Authorization", "Bearer a b")], Absence.MALFORMED),
        ([("Authorization", "")], Absence.MALFORMED),
        ([("X-API-Key", "")], Absence.MALFORMED),
        ([("X-API-Key", "ä")], Absence.MALFORMED),
        ([("X-API-Key", "a\tb")], Absence.MALFORMED),
        ([("X-API-Key", "a\udcff")], Absence.MALFORMED),
    ],
)
def test_everything_else_is_none(pairs: list[tuple[str, str]], absence: Absence) -> None:
    assert presented(fields(*pairs)) is absence
