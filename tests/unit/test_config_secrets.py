"""Secrets are fetched from where they are kept, byte for byte, and what can't be one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import SecretFault
from gateway.config.secrets import MOST_BYTES, SecretReference, fetch
from gateway.model import Secret


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
        (b"x" * MOST_BYTES, b"x" * MOST_BYTES),
    ],
)
def test_a_secret_is_taken_byte_for_byte_but_for_one_newline_at_its_end(
    tmp_path: Path, content: bytes, value: bytes
) -> None:
    assert fetch("file", file(tmp_path, content), {}).reveal() == value


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\r\n", b"abc\n\n", b"a\nb", b"a\tb", b"a\x00b", b"\x7f", b"a b", b'a"b', b"a;b", b"a,b", b"a\\b",
     "ä".encode(), b"\xff", b"a\r\nSet-Cookie: x", b"x" * (MOST_BYTES + 1)],
)  # fmt: skip
def test_what_is_empty_or_cannot_stand_in_a_cookie_is_a_fault_that_does_not_repeat_it(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(SecretFault) as raised:
        fetch("file", file(tmp_path, content), {})
    assert "Set-Cookie" not in str(raised.value)


def test_a_secret_can_be_in_the_environment() -> None:
    assert fetch("env", "NAME", {"NAME": "abc"}).reveal() == b"abc"
    with pytest.raises(SecretFault, match="no such variable"):
        fetch("env", "NAME", {})
    with pytest.raises(SecretFault, match="empty"):
        fetch("env", "NAME", {"NAME": ""})


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SecretFault, match="No such file"):
        fetch("file", str(tmp_path / "absent"), {})
    with pytest.raises(SecretFault, match="directory"):
        fetch("file", str(tmp_path), {})


def test_a_reference_reads_again_and_shows_nothing(tmp_path: Path) -> None:
    location = file(tmp_path, b"one")
    reference = SecretReference("file", location, Secret("one"), {"OTHER": "two"})
    (tmp_path / "secret").write_bytes(b"three\n")

    assert reference.reread().reveal() == b"three"
    assert reference.value.reveal() == b"one"
    assert "one" not in repr(reference)
    assert "two" not in repr(reference)
