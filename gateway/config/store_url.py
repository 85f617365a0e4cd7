"""Where the store is: the forms of `store.url`.

Owns how it is written and read, and what must hold of a database's file before a gateway uses it. Refuses users and
passwords in it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import PlainValidator, ValidationInfo

from gateway.config.values import is_host, text_schema

_STORE_FORMS: Final = "must be memory:, sqlite:///path, redis://host:port/number or rediss://host:port/number"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the store is: `memory`, `sqlite` with a path, `redis` or `rediss` with host, port and database."""

    kind: Literal["memory", "sqlite", "redis", "rediss"]
    path: Path = Path()
    host: str = ""
    port: int = 0
    database: int = 0

    def __str__(self) -> str:
        return self.kind


def _store_address(value: Any, info: ValidationInfo) -> StoreAddress:
    if not isinstance(value, str):
        raise ValueError(_STORE_FORMS)  # noqa: TRY004 - pydantic takes no TypeError for a fault
    if value == "memory:":
        return StoreAddress("memory")
    if value.startswith("sqlite:///"):
        return StoreAddress("sqlite", path=_database(value.removeprefix("sqlite://"), info))
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in {"redis", "rediss"}:
        raise ValueError(_STORE_FORMS)
    if "@" in rest:
        raise ValueError("must not carry a user or a password: they have keys of their own beside it")
    try:
        parts = urlsplit(value)
        port = parts.port if parts.port is not None else 6379
    except ValueError:
        raise ValueError(_STORE_FORMS) from None
    database = parts.path.removeprefix("/") or "0"
    well_formed = database.isascii() and database.isdigit() and len(database) <= 4  # noqa: PLR2004 - 16 is the usual
    if not is_host(parts.hostname or "") or not port or not well_formed or parts.query or parts.fragment:
        raise ValueError(_STORE_FORMS)
    kind: Literal["redis", "rediss"] = "redis" if scheme == "redis" else "rediss"
    return StoreAddress(kind, host=parts.hostname or "", port=port, database=int(database))


def _database(value: str, info: ValidationInfo) -> Path:
    """The path of an SQLite database that is there, or can be made. Raises `ValueError`."""
    path = Path(value)
    if "\0" in value or path.name in {"", ".."}:
        raise ValueError("must be sqlite:// and the absolute path of a file")
    if info.context is None:
        return path
    try:
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ValueError("the directory is not there, or can't be written to")
        if path.exists() and not path.is_file():
            raise ValueError("is no file")
    except OSError as exc:
        raise ValueError(f"the file can't be read: {exc.strerror or type(exc).__name__}") from None
    if path.exists() and not _is_database(path):
        raise ValueError("the file is no SQLite database")
    return path


def _is_database(path: Path) -> bool:
    """Whether SQLite would take that file for its own.

    The file is not opened without SQLite: when a process closes any descriptor of a file, it loses all of its locks
    on it (POSIX), and a gateway that reloads has some. Whoever opened the database then would take itself for alone.
    """
    import sqlite3  # noqa: PLC0415 - for those who have such a store

    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        try:
            connection.execute("PRAGMA schema_version")
        except sqlite3.OperationalError:
            return True  # somebody writes, or it can't be read now: that is told by the store
        except sqlite3.DatabaseError:
            return False
    return True


StoreUrl = Annotated[
    StoreAddress,
    PlainValidator(_store_address),
    text_schema("memory:, sqlite:///path, redis://host:port/number or rediss://host:port/number."),
]
