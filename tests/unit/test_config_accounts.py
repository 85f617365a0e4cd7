"""Accounts that apply for tokens, and stores: what can't work or isn't safe is a fault before the start."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import sqlite3
from pathlib import Path

import pytest

from gateway.config import Configuration, ConfigurationError, load
from gateway.simulator import Certificates

TEXT = """\
upstream: {endpoints: ["https://10.10.10.2:18446"]}
accounts:
  sales: {token: {file: token}}
  support:
    apply_token: {url: "https://fabric.example", app_key: {file: app-key}, app_secret: {file: app-secret}, user_id: u, channel_id: "2023"}
services:
  billing: {accounts: [sales], credentials: [{api_key: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]}
"""  # noqa: E501
KEYS = "encryption_keys: [{file: key}]"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name, content in (("token", "abc"), ("app-key", "app"), ("app-secret", 'a "secret"; ä'), ("password", "p w")):
        (tmp_path / name).write_text(content)
    (tmp_path / "key").write_bytes(base64.urlsafe_b64encode(bytes(32)))
    return tmp_path / "gateway.yaml"


def read(path: Path, text: str) -> Configuration:
    path.write_text(text)
    return load(path, {}).configuration


def faults(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load(path, {})
    return [str(fault).removeprefix(f"{path}:").partition(": ")[2] for fault in raised.value.faults]


def test_an_account_that_applies_has_the_documented_defaults(path: Path) -> None:
    applying = read(path, TEXT).accounts["support"].apply_token

    assert applying is not None
    assert str(applying.url) == "https://fabric.example:443"
    assert (applying.locale, applying.timeout_seconds, applying.user_name) == ("en", 10, None)
    assert applying.app_secret.value.reveal() == 'a "secret"; ä'.encode()
    assert "secret" not in repr(applying).replace("app_secret", "").replace("app-secret", "")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("sales: {token: {file: token}}", "sales: {}", "accounts.sales: must have either `token` or `apply_token`"),
        (
            "sales: {token: {file: token}}",
            "sales: {token: null}",
            "accounts.sales: must have either `token` or `apply_token`",
        ),
        (
            "    apply_token:",
            "    token: {file: token}\n    apply_token:",
            "accounts.support: must have either `token` or `apply_token`",
        ),
        (
            "https://fabric.example",
            "http://fabric.example",
            "accounts.support.apply_token.url: must begin with https://, because the token must not travel in clear",
        ),
        ("user_id: u", "user_id: ''", "accounts.support.apply_token.user_id: must not be empty"),
        ("user_id: u", f"user_id: {'u' * 33}", "accounts.support.apply_token.user_id: is too long"),
        ('channel_id: "2023"', "channel_id: 2023", "accounts.support.apply_token.channel_id: must be text"),
        ("user_id: u", "user_id: u, locale: english", "accounts.support.apply_token.locale: is not well formed"),
        (
            "user_id: u",
            'user_id: u, user_name: "a\\u0007"',
            "accounts.support.apply_token.user_name: has a character that can't be printed",
        ),
        (
            "user_id: u",
            "user_id: u, tls: {ca: token}",
            "accounts.support.apply_token.tls.ca: the file has no PEM certificate",
        ),
        (
            "user_id: u",
            "user_id: u, tls: {key: token}",
            "accounts.support.apply_token.tls.key: certificate and key go together",
        ),
        ("user_id: u", "user_id: u, timeout: 1", "accounts.support.apply_token.timeout: unknown key"),
        (
            "app_secret: {file: app-secret}",
            "app_secret: hunter2",
            "accounts.support.apply_token.app_secret: must be {file: path} or {env: NAME}; a secret is never written",
        ),
        (
            "{file: app-key}",
            "{file: app-secret}",
            "accounts.support.apply_token.app_key: the secret has a character that can't stand in a header field",
        ),
    ],
)
def test_what_cannot_be_applied_with_is_a_fault(path: Path, old: str, new: str, fault: str) -> None:
    found = faults(path, TEXT.replace(old, new))

    assert any(line.startswith(fault) for line in found), found
    assert "hunter2" not in "".join(found)


def test_two_accounts_of_one_user_would_end_each_others_tokens(path: Path) -> None:
    lines = TEXT.splitlines()
    again = [*lines[:5], "  other:", lines[4], *lines[5:]]

    assert faults(path, "\n".join(again)) == [
        "accounts.other.apply_token.user_id: another account has the same user; each would end the other's tokens"
    ]
    assert read(path, "\n".join(again).replace("user_id: u", "user_id: v", 1)).accounts.keys() == {
        "sales",
        "support",
        "other",
    }


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "sqlite:///{directory}/state.db",
        "redis://127.0.0.1",
        "redis://redis.example:6380/3",
        "rediss://[::1]:6379/0",
    ],
)
def test_a_store_can_be_of_these_kinds(path: Path, url: str) -> None:
    text = TEXT + f"store: {{url: '{url.replace('/{directory}', str(path.parent))}', {KEYS}}}\n"

    store = read(path, text).store

    assert store.url.kind == url.partition(":")[0]
    assert len(store.encryption_keys) == 1
    assert "redis.example" not in str(store.url)


@pytest.mark.parametrize("begin", ["sqlite:///", "sqlite:////"])
def test_a_database_that_is_there_is_known_again(path: Path, begin: str) -> None:
    file = path.parent / "state #1?.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (c)")

    store = read(path, TEXT + f"store: {{url: '{begin}{str(file)[1:]}', {KEYS}}}\n").store

    assert store.url.path is not None
    assert store.url.path.samefile(file)


@pytest.mark.parametrize(
    ("store", "fault"),
    [
        (
            "{url: 'redis://127.0.0.1'}",
            "store.url: keeps tokens where others may read them: configure store.encryption_keys",
        ),
        (
            "{url: 'sqlite:////tmp/state.db', encryption_keys: []}",
            "store.url: keeps tokens where others may read them: configure store.encryption_keys",
        ),
        (f"{{url: postgres://a, {KEYS}}}", "store.url: must be memory:, sqlite:///path, redis://host"),
        (f"{{url: 'sqlite://state.db', {KEYS}}}", "store.url: must be memory:, sqlite:///path, redis://host"),
        (f"{{url: 'redis://', {KEYS}}}", "store.url: must be memory:, sqlite:///path, redis://host"),
        (f"{{url: 'redis://a:b', {KEYS}}}", "store.url: must be memory:, sqlite:///path, redis://host"),
        (f"{{url: 'redis://a/b', {KEYS}}}", "store.url: must be memory:, sqlite:///path, redis://host"),
        (f"{{url: 'redis://a?db=1', {KEYS}}}", "store.url: must be memory:, sqlite:///path, redis://host"),
        (f"{{url: 'redis://u:hunter2@a', {KEYS}}}", "store.url: must not carry a user or a password"),
        (f"{{url: 'sqlite:////nowhere/at/all.db', {KEYS}}}", "store.url: the directory is not there"),
        (f"{{url: 'sqlite:////tmp', {KEYS}}}", "store.url: is no file"),
        (f"{{url: 'sqlite:///{{directory}}/token', {KEYS}}}", "store.url: the file is no SQLite database"),
        ("{encryption_keys: [{file: token}]}", "store.encryption_keys.0: the secret is no key"),
        ("{password: {file: password}}", "store.password: is for Redis alone"),
        ("{tls: {}}", "store.tls: is for rediss:// alone"),
        (f"{{url: 'redis://127.0.0.1', username: u, {KEYS}}}", "store.username: needs a password beside it"),
        (
            f"{{url: 'redis://redis.example', password: {{file: password}}, {KEYS}}}",
            "store.url: leads to another machine, so the password would travel in clear: use rediss://",
        ),
        (f"{{url: 'rediss://a', tls: {{ca: token}}, {KEYS}}}", "store.tls.ca: the file has no PEM certificate"),
        (f"{{url: 'rediss://a', tls: {{server_name: a}}, {KEYS}}}", "store.tls.server_name: unknown key"),
    ],
)
def test_a_store_that_cannot_work_or_is_not_safe_is_a_fault(path: Path, store: str, fault: str) -> None:
    found = faults(path, TEXT + f"store: {store.replace('/{directory}', str(path.parent))}\n")

    assert any(line.startswith(fault) for line in found), found
    assert "hunter2" not in "".join(found)


def test_redis_over_tls_has_a_user_a_password_and_an_authority(path: Path, certificates: Certificates) -> None:
    tls = f"tls: {{ca: {certificates.ca}}}"
    text = f"store: {{url: 'rediss://a', username: u, password: {{file: password}}, {tls}, {KEYS}}}"

    store = read(path, TEXT + text).store

    assert store.password is not None
    assert store.password.value.reveal() == b"p w"
    assert store.tls.ca == certificates.ca
    assert "p w" not in repr(store)


def test_a_store_whose_extra_is_not_installed_is_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "redis" else found(name))

    assert faults(path, TEXT + f"store: {{url: 'redis://127.0.0.1', {KEYS}}}\n") == [
        "store.url: needs what the extra `redis` installs: pip install 'dial-gateway[redis]'"
    ]
    assert read(path, TEXT + f"store: {{{KEYS}}}\n").store.url.kind == "memory"
