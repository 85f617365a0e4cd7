"""What can stand as a value of the configuration: addresses, endpoints, files, secrets, digests, dates.

Owns how each of them is written and read. Refuses what is insecure (`http://`) and what has two readings, and never
repeats a value in a message.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from gateway.config.files import open_to_read
from gateway.config.secrets import Kind, SecretFault, SecretReference, fetch
from gateway.model import Medium, Operation

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_DIGEST: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")
_PIN: Final = re.compile(r"sha256:((?:[0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2})")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class Model(BaseModel):
    """Frozen, strict, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `tcp` with host and port, or `unix` with a path."""

    kind: Literal["tcp", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def private(self) -> bool:
        """Whether only this machine can connect."""
        if self.kind == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of NSLB."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"


def parse_address(value: Any) -> Address:
    """Read host:port, [IPv6]:port or unix:/path. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError("must be host:port or unix:/path")  # noqa: TRY004 - pydantic takes no TypeError for a fault
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > 100:  # noqa: PLR2004 - sun_path
            raise ValueError("must be unix: and an absolute path of at most 100 bytes")
        return Address(kind="unix", path=path)
    host, colon, port = value.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host != bare
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:  # noqa: PLR2004
        raise ValueError("must be host:port or unix:/path, with a port from 0 to 65535")
    if bracketed != (":" in bare) or not is_host(bare):
        raise ValueError("must name a host before the port, an IPv6 address in brackets")
    return Address(kind="tcp", host=bare, port=int(port))


def _endpoint(value: Any) -> Endpoint:
    if not isinstance(value, str) or not value.startswith("https://"):
        raise ValueError("must begin with https://, because the token must not travel in clear")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("must be https://host:port") from None
    host = parts.hostname or ""
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user or a password")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValueError("must be https://host:port and nothing behind it; the paths are the interface's")
    if not is_host(host) or port == 0:
        raise ValueError("must be https://host:port")
    return Endpoint(host=host, port=port if port is not None else 443)


def is_host(host: str) -> bool:
    """Whether that can be a host's name, or is an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True


def _server_name(value: Any) -> Any:
    if isinstance(value, str) and not is_host(value):
        raise ValueError("must be the name of a host, or an address")
    return value


def _file(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    path: Path = info.context["directory"] / value if info.context else Path(value)
    if info.context is not None:
        info.context["files"].add(path)
        try:
            open_to_read(path).close()
        except OSError as exc:
            raise ValueError(f"the file can't be read: {exc.strerror or type(exc).__name__}") from None
    return path


def _secret(kind: Kind, value: Any, info: ValidationInfo) -> SecretReference:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in {"file", "env"}:
        raise ValueError("must be {file: path} or {env: NAME}; a secret is never written here")
    ((origin, location),) = value.items()
    if not isinstance(location, str) or not location or "\0" in location:
        raise ValueError(f"{origin} must name a {'file' if origin == 'file' else 'variable'}")
    context = info.context or {"directory": Path(), "files": set(), "environ": {}}
    if origin == "file":
        path = context["directory"] / location
        context["files"].add(path)
        location = str(path)
    try:
        secret = fetch(origin, location, kind, context["environ"])
    except SecretFault as exc:
        raise ValueError(str(exc)) from None
    return SecretReference(origin, location, kind, secret, context["environ"])


def _secret_of(kind: Kind) -> PlainValidator:
    return PlainValidator(partial(_secret, kind))


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("has a character that can't be printed")
    return value


def _result_code(value: str) -> str:
    if value == "0":
        raise ValueError("is success, which can't be given another meaning")
    return value


def _digest(value: Any) -> bytes:
    match = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be sha256: and 64 hexadecimal digits, as `dial-gateway key new` prints them")
    return bytes.fromhex(match[1])


def _pin(value: Any) -> str:
    match = _PIN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be sha256: and the 64 hexadecimal digits of the certificate's fingerprint")
    return "sha256:" + match[1].replace(":", "").lower()


def _not_after(value: Any) -> datetime:
    if isinstance(value, datetime):
        try:
            return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)
        except OverflowError:
            raise ValueError("is out of range") from None
    if isinstance(value, date):
        try:
            return datetime(value.year, value.month, value.day, tzinfo=UTC) + timedelta(days=1)
        except OverflowError:
            pass
    raise ValueError("must be a date, as in 2027-01-31, or a time, as in 2027-01-31T12:00:00Z")


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same values; a fault if one of them stands there twice."""
    if len(set(map(str, values))) != len(values):
        raise ValueError("names something twice")
    return values


def to_tuple(value: Any) -> Any:
    """A list as the tuple that a frozen configuration keeps."""
    return tuple(value) if isinstance(value, list) else value


def text_schema(description: str, **more: Any) -> WithJsonSchema:
    """How a value that is written as text stands in the JSON Schema."""
    return WithJsonSchema({"type": "string", "description": description, **more})


FilePath = Annotated[Path, PlainValidator(_file), text_schema("Path of a file, relative to this file.")]
ListenAddress = Annotated[
    Address,
    PlainValidator(parse_address),
    text_schema("host:port, [IPv6]:port or unix:/path; port 0 means any free port."),
]
EndpointUrl = Annotated[
    Endpoint, PlainValidator(_endpoint), text_schema("https://host:port of one NSLB address.", pattern="^https://")
]
_SECRET_SCHEMA: Final = WithJsonSchema(
    {
        "type": "object",
        "description": "Where a secret is kept; it is never written here.",
        "properties": {"file": {"type": "string"}, "env": {"type": "string"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
)
TokenSecret = Annotated[SecretReference, _secret_of(Kind.TOKEN), _SECRET_SCHEMA]
FieldSecret = Annotated[SecretReference, _secret_of(Kind.FIELD), _SECRET_SCHEMA]
TextSecret = Annotated[SecretReference, _secret_of(Kind.TEXT), _SECRET_SCHEMA]
EncryptionKey = Annotated[SecretReference, _secret_of(Kind.ENCRYPTION_KEY), _SECRET_SCHEMA]
Locale = Annotated[str, Field(pattern=r"^[a-z]{2}(_[A-Z]{2})?$")]
Text = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]
Digest = Annotated[
    bytes, PlainValidator(_digest), text_schema("SHA-256 of the whole key.", pattern="^sha256:[0-9a-fA-F]{64}$")
]
Pin = Annotated[str, PlainValidator(_pin), text_schema("SHA-256 of a DER certificate.", pattern="^sha256:")]
NotAfter = Annotated[
    datetime | None,
    PlainValidator(_not_after),
    text_schema("A date, whose day is the last one (UTC), or a time; the key holds no longer."),
]
ServerName = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_server_name)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME)]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
ResultCode = Annotated[str, Field(pattern=r"^[0-9]{1,6}$"), AfterValidator(_result_code)]


def _enumerated(kind: type[Medium | Operation]) -> BeforeValidator:
    values = {member.value: member for member in kind}

    def convert(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return values[value]

    return BeforeValidator(convert)


MediumName = Annotated[Medium, _enumerated(Medium)]
OperationName = Annotated[Operation, _enumerated(Operation)]
