"""Secrets are fetched from where they are kept, byte for byte, and what can't be one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import SecretFault
from gateway.config.secrets import MOST_BYTES, Kind, SecretReference, fetch
from gateway.model import MOST_TOKEN_BYTES, Secret


def file(directory: Path, content: bytes) -> str:
    path = directory / "secret"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"abc", b"abc"),
        (b"abc\n", b"abc"),
        (b"abc\r\n", b"abc"),
        (b"eyJ0%2B%2F%3D+/=", b"eyJ0%2B%2F%3D+/="),
        (b"x" * MOST_TOKEN_BYTES, b"x" * MOST_TOKEN_BYTES),
    ],
)
def test_a_secret_is_taken_byte_for_byte_but_for_one_newline_at_its_end(
    tmp_path: Path, content: bytes, value: bytes
) -> None:
    assert fetch("file", file(tmp_path, content), Kind.TOKEN, {}).reveal() == value


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\r\n", b"abc\n\n", b"a\nb", b"a\tb", b"a\x00b", b"\x7f", b"a b", b'a"b', b"a;b", b"a,b", b"a\\b",
     "ä".encode(), b"\xff", b"a\r\nSet-Cookie: x", b"x" * (MOST_TOKEN_BYTES + 1),
     b"x" * (MOST_BYTES + 1)],
)  # fmt: skip
def test_what_is_empty_or_cannot_stand_in_a_cookie_is_a_fault_that_does_not_repeat_it(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(SecretFault) as raised:
        fetch("file", file(tmp_path, content), Kind.TOKEN, {})
    assert "Set-Cookie" not in str(raised.value)


def test_a_secret_can_be_in_the_environment() -> None:
    assert fetch("env", "NAME", Kind.TOKEN, {"NAME": "abc"}).reveal() == b"abc"
    with pytest.raises(SecretFault, match="no such variable"):
        fetch("env", "NAME", Kind.TOKEN, {})
    with pytest.raises(SecretFault, match="empty"):
        fetch("env", "NAME", Kind.TOKEN, {"NAME": ""})


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SecretFault, match="No such file"):
        fetch("file", str(tmp_path / "absent"), Kind.TOKEN, {})
    with pytest.raises(SecretFault, match="directory"):
        fetch("file", str(tmp_path), Kind.TOKEN, {})


def test_a_reference_reads_again_and_shows_nothing(tmp_path: Path) -> None:
    location = file(tmp_path, b"one")
    reference = SecretReference("file", location, Kind.TOKEN, Secret("one"), {"OTHER": "two"})
    (tmp_path / "secret").write_bytes(b"three\n")

    assert reference.reread().reveal() == b"three"
    assert reference.value.reveal() == b"one"
    assert "one" not in repr(reference)
    assert "two" not in repr(reference)


KEY = b"c2l4dGVlbiBieXRlcyBhbmQgc2l4dGVlbiBieXRlcyE="


@pytest.mark.parametrize(
    ("kind", "content", "value"),
    [
        (Kind.FIELD, b"app;key,1\n", b"app;key,1"),
        (Kind.TEXT, 'pa ss"w\u00f6rd;\n'.encode(), 'pa ss"w\u00f6rd;'.encode()),
        (Kind.ENCRYPTION_KEY, KEY, KEY),
    ],
)
def test_what_may_be_in_a_secret_depends_on_what_it_is_for(
    tmp_path: Path, kind: Kind, content: bytes, value: bytes
) -> None:
    assert fetch("file", file(tmp_path, content), kind, {}).reveal() == value


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (Kind.FIELD, b"app key", "header field"),
        (Kind.FIELD, "\u00e4".encode(), "header field"),
        (Kind.FIELD, b"a\r\nb", "second line"),
        (Kind.TEXT, b"\xff", "UTF-8"),
        (Kind.TEXT, b"a\nb", "second line"),
        (Kind.ENCRYPTION_KEY, b"abc", "no key"),
        (Kind.ENCRYPTION_KEY, KEY[:-4], "no key"),
        (Kind.ENCRYPTION_KEY, KEY + b"!", "no key"),
    ],
)
def test_what_cannot_be_used_for_that_is_a_fault(tmp_path: Path, kind: Kind, content: bytes, words: str) -> None:
    with pytest.raises(SecretFault, match=words):
        fetch("file", file(tmp_path, content), kind, {})
