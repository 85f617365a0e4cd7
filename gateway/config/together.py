"""What several keys of a configuration mean together.

Owns the faults that no key has alone. Refuses to wait for a configuration that is right otherwise: it looks at
whatever could be read of the file, so that all faults are told at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway.config import positions
from gateway.config.files import has_authorities, has_certificate, is_key_of
from gateway.config.values import parse_address

_Fault = tuple[positions.Path, str]


def together(data: Any, directory: Path) -> Iterator[_Fault]:
    """The faults of a document, each with the path of the key that it is told at. Files are relative to a directory."""
    yield from _services(data)
    yield from _accounts(data, directory)
    upstream = _at(data, "upstream")
    warm, connections = _at(upstream, "warm"), _at(upstream, "connections")
    if isinstance(warm, int) and warm > (connections if isinstance(connections, int) else 100):
        yield ("upstream", "warm"), "is more than upstream.connections"
    yield from _listening(data)
    yield from _client_tls(("upstream", "tls"), _at(upstream, "tls"), directory)
    yield from _pair(("listen", "tls"), _at(_at(data, "listen"), "tls"), directory)
    yield from _store(_at(data, "store"), directory)


def value_at(data: Any, path: positions.Path) -> Any:
    """What stands at a path; `None` if nothing does."""
    for part in path:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return None
    return data


def _services(data: Any) -> Iterator[_Fault]:
    accounts = _mapping(_at(data, "accounts"))
    seen: dict[str, str] = {}
    for service, settings in _mapping(_at(data, "services")).items():
        for index, account in enumerate(_list(_at(settings, "accounts"))):
            if isinstance(account, str) and account not in accounts:
                yield ("services", service, "accounts", index), "no account of this name is configured"
        for index, credential in enumerate(_list(_at(settings, "credentials"))):
            digest = _at(credential, "api_key")
            if isinstance(digest, str):
                if digest.lower() in seen:
                    yield ("services", service, "credentials", index, "api_key"), "the same key stands here twice"
                seen[digest.lower()] = service


def _accounts(data: Any, directory: Path) -> Iterator[_Fault]:
    users: set[str] = set()
    for account, settings in _mapping(_at(data, "accounts")).items():
        path = ("accounts", account)
        present = [name for name in ("token", "apply_token") if _at(settings, name) is not None]
        if isinstance(settings, dict) and len(present) != 1:
            yield path, "must have either `token` or `apply_token`"
        applying = _at(settings, "apply_token")
        if not isinstance(applying, dict):
            continue
        yield from _client_tls((*path, "apply_token", "tls"), _at(applying, "tls"), directory)
        user = repr([applying.get(name) for name in ("url", "app_key", "channel_id", "user_id")])
        if user in users:
            yield (
                (*path, "apply_token", "user_id"),
                "another account has the same user; each would end the other's tokens",
            )
        users.add(user)


def _listening(data: Any) -> Iterator[_Fault]:
    listen = _at(data, "listen")
    try:
        address = parse_address(_at(listen, "address"))
    except ValueError:
        return
    if not address.private and _at(listen, "tls") is None:
        yield (
            ("listen", "address"),
            "is open to others than this machine, so credentials would travel in clear: configure listen.tls",
        )


def _store(settings: Any, directory: Path) -> Iterator[_Fault]:
    url = _at(settings, "url")
    scheme = url.partition(":")[0] if isinstance(url, str) else "memory"
    if scheme in {"sqlite", "redis", "rediss"} and not _list(_at(settings, "encryption_keys")):
        yield ("store", "url"), "keeps tokens where others may read them: configure store.encryption_keys"
    if scheme in {"redis", "rediss"} and importlib.util.find_spec("redis") is None:
        yield ("store", "url"), "needs what the extra `redis` installs: pip install 'dial-gateway[redis]'"
    if scheme not in {"redis", "rediss"}:
        for name in ("username", "password"):
            if _at(settings, name) is not None:
                yield ("store", name), "is for Redis alone"
    elif _at(settings, "username") is not None and _at(settings, "password") is None:
        yield ("store", "username"), "needs a password beside it"
    if scheme == "redis" and _at(settings, "password") is not None and not _is_private(str(url)):
        yield ("store", "url"), "leads to another machine, so the password would travel in clear: use rediss://"
    if scheme != "rediss" and _at(settings, "tls") is not None:
        yield ("store", "tls"), "is for rediss:// alone"
    yield from _client_tls(("store", "tls"), _at(settings, "tls"), directory)


def _is_private(url: str) -> bool:
    authority = url.partition("://")[2].partition("/")[0]
    if not authority.rpartition(":")[0] or authority.endswith("]"):
        authority += ":0"
    try:
        return parse_address(authority).private
    except ValueError:
        return True  # no address at all, which is told elsewhere


def _client_tls(path: positions.Path, settings: Any, directory: Path) -> Iterator[_Fault]:
    ca, certificate, key = (_at(settings, name) for name in ("ca", "certificate", "key"))
    if isinstance(ca, str) and (directory / ca).is_file() and not has_authorities(directory / ca):
        yield (*path, "ca"), "the file has no PEM certificate"
    if (certificate is None) != (key is None):
        yield (*path, "certificate" if key is None else "key"), "certificate and key go together"
    yield from _pair(path, settings, directory)


def _pair(path: positions.Path, settings: Any, directory: Path) -> Iterable[_Fault]:
    certificate, key = _at(settings, "certificate"), _at(settings, "key")
    if not isinstance(certificate, str) or not (directory / certificate).is_file():
        return
    if not has_certificate(directory / certificate):
        yield (*path, "certificate"), "the file has no PEM certificate"
    elif not isinstance(key, str) or not (directory / key).is_file():
        return
    elif not is_key_of(directory / key, directory / certificate):
        yield (*path, "key"), "is not the private key of the certificate, or needs a password"


def _at(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _mapping(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}


def _list(data: Any) -> list[Any]:
    return data if isinstance(data, list) else []
