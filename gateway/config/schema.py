"""Every key of the configuration: its type, its bounds, its default and what it means.

Owns the shape of the configuration and what can be said of one value alone. Refuses unknown keys, numbers in
quotes and anything that would be accepted and then ignored. What several keys mean together is `load`'s.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator

from gateway.config.store_url import StoreAddress, StoreUrl
from gateway.config.values import (
    Address,
    Code,
    Digest,
    EncryptionKey,
    EndpointUrl,
    FieldSecret,
    FilePath,
    ListenAddress,
    Locale,
    MediumName,
    Model,
    Name,
    NotAfter,
    OperationName,
    Pin,
    ResultCode,
    Seconds,
    ServerName,
    Text,
    TextSecret,
    TokenSecret,
    to_tuple,
    unique,
)
from gateway.model import Medium, Operation
from gateway.problems import FIXED_CODES, UPSTREAM_REJECTED


class ListenTimeouts(Model):
    """How long a caller may take, in seconds."""

    head: Seconds = Field(default=10, description="For the head of a request, from its first byte. Seconds.")
    body: Seconds = Field(default=10, description="For the body of a request. Seconds.")
    idle: Seconds = Field(default=75, description="How long a connection may be idle. Seconds.")


class ServerTLS(Model):
    """TLS of the callers' listener."""

    certificate: FilePath = Field(description="Certificate chain, PEM.")
    key: FilePath = Field(description="Private key of the certificate, PEM.")


class Listen(Model):
    """The callers' listener."""

    address: ListenAddress = Field(
        default_factory=lambda: Address("tcp", host="127.0.0.1", port=8080),
        json_schema_extra={"default": "127.0.0.1:8080"},
    )
    tls: ServerTLS | None = Field(default=None, description="TLS; needed where others than this machine can connect.")
    timeouts: ListenTimeouts = Field(default_factory=ListenTimeouts)


class Admin(Model):
    """The operators' listener."""

    address: ListenAddress = Field(
        default_factory=lambda: Address("tcp", host="127.0.0.1", port=9090),
        json_schema_extra={"default": "127.0.0.1:9090"},
    )


class ClientTLS(Model):
    """How the certificate of a server is verified. It always is."""

    ca: FilePath | None = Field(default=None, description="Authorities to trust, PEM; default: the system's.")
    server_name: ServerName | None = Field(
        default=None, description="The name to send and to verify; default: the host of the address."
    )
    minimum_version: Literal["TLSv1.2", "TLSv1.3"] = Field(default="TLSv1.2", description="The least version to speak.")
    pins: Annotated[tuple[Pin, ...], BeforeValidator(to_tuple), AfterValidator(unique)] = Field(
        default=(), description="If any: the certificate must be one of these, by its SHA-256 fingerprint."
    )
    certificate: FilePath | None = Field(default=None, description="A certificate to show to the server, PEM.")
    key: FilePath | None = Field(default=None, description="Private key of that certificate, PEM.")


class UpstreamTimeouts(Model):
    """How long NSLB may take, in seconds."""

    connect: Seconds = Field(default=2, description="For a connection to stand, TLS included. Seconds.")
    response: Seconds = Field(default=10, description="For the whole answer, from sending the request. Seconds.")
    events: Seconds = Field(default=60, description="For the answer to a long poll for events. Seconds.")


# A field that says more is mandatory with these (RFC 9110, 15.5 and 15.6), and there is nothing more to say.
_EXPLAINED: Final = frozenset({401, 405, 407, 426})


def _answerable(status: int) -> int:
    if status not in {known.value for known in HTTPStatus} - _EXPLAINED:
        raise ValueError("is not a status that stands for itself")
    return status


class ResultMapping(Model):
    """What a `resultCode` becomes."""

    status: Annotated[int, AfterValidator(_answerable)] = Field(default=502, ge=400, le=599, description="HTTP status.")
    code: Code = Field(description="Problem code.")

    @field_validator("code", mode="after")
    @classmethod
    def _own(cls, code: str) -> str:
        if code in FIXED_CODES - {UPSTREAM_REJECTED.code}:
            raise ValueError("is a code with another meaning")
        return code


ResultCodes = dict[OperationName, dict[ResultCode, ResultMapping]]
_DEFAULT_RESULTS: Final = {Operation.CREATE: {"13": ResultMapping(status=503, code="no-agent-available")}}


class Upstream(Model):
    """NSLB."""

    endpoints: Annotated[tuple[EndpointUrl, ...], BeforeValidator(to_tuple), AfterValidator(unique)] = Field(
        min_length=1, max_length=64, description="NSLB's addresses, tried in turn."
    )
    tls: ClientTLS = Field(default_factory=ClientTLS)
    timeouts: UpstreamTimeouts = Field(default_factory=UpstreamTimeouts)
    connections: int = Field(default=100, ge=1, le=10_000, description="At most so many connections to an endpoint.")
    event_connections: int = Field(
        default=1000, ge=1, le=100_000, description="At most so many long polls for events at an endpoint."
    )
    warm: int = Field(default=1, ge=0, le=10_000, description="Idle connections kept ready at each endpoint.")
    idle_seconds: Seconds = Field(default=30, description="An idle connection is closed after this. Seconds.")
    token_header: bool = Field(default=False, description="Send the token as a header field as well.")
    result_codes: ResultCodes = Field(
        default_factory=lambda: _DEFAULT_RESULTS,
        description="Result codes that are more than `upstream-rejected`, for each operation.",
    )

    @field_validator("result_codes", mode="after")
    @classmethod
    def _merge(cls, configured: ResultCodes) -> ResultCodes:
        operations = dict.fromkeys([*_DEFAULT_RESULTS, *configured])
        return {
            operation: {**_DEFAULT_RESULTS.get(operation, {}), **configured.get(operation, {})}
            for operation in operations
        }


class ApplyToken(Model):
    """How to apply for tokens at the API Fabric."""

    url: EndpointUrl = Field(description="https://host:port of the API Fabric.")
    app_key: FieldSecret
    app_secret: TextSecret
    user_id: Annotated[str, Field(max_length=32)] = Field(min_length=1, description="The contact-centre user.")
    user_name: Text | None = Field(default=None, description="Its name; default: the user_id.")
    channel_id: Text = Field(description="Configuration id of the web channel.")
    locale: Locale = Field(default="en", description="Language of the user, as in en or en_US.")
    timeout_seconds: Seconds = Field(default=10, description="For one refresh with all of its requests. Seconds.")
    tls: ClientTLS = Field(default_factory=ClientTLS)


class Account(Model):
    """One contact-centre user on one web channel: its token, or how to apply for one."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["token"]}, {"required": ["apply_token"]}]})

    token: TokenSecret | None = Field(default=None)
    apply_token: ApplyToken | None = Field(default=None, description="How to apply for tokens.")
    lifetime_seconds: Seconds = Field(default=3600, description="How long a token is valid once it was made. Seconds.")
    exclusive: bool = Field(default=False, description="Have one call at a time.")
    max_call_seconds: Seconds = Field(
        default=3600, description="An exclusive account is free again after this, whatever became of its call. Seconds."
    )


class StoreTLS(Model):
    """How the certificate of a store is verified. It always is."""

    ca: FilePath | None = Field(default=None, description="Authorities to trust, PEM; default: the system's.")
    certificate: FilePath | None = Field(default=None, description="A certificate to show to the store, PEM.")
    key: FilePath | None = Field(default=None, description="Private key of that certificate, PEM.")


class Store(Model):
    """What replicas share."""

    url: StoreUrl = Field(default_factory=lambda: StoreAddress("memory"), json_schema_extra={"default": "memory:"})
    encryption_keys: Annotated[tuple[EncryptionKey, ...], BeforeValidator(to_tuple)] = Field(
        default=(), description="What is stored is encrypted with the first; all decrypt."
    )
    username: Text | None = Field(default=None, description="User at Redis.")
    password: TextSecret | None = Field(default=None)
    tls: StoreTLS = Field(default_factory=StoreTLS)


class ApiKeyCredential(Model):
    """An API key of a service."""

    digest: Digest = Field(alias="api_key")
    not_after: NotAfter = Field(default=None)


class Allow(Model):
    """What a service may do."""

    media: Annotated[tuple[MediumName, ...], BeforeValidator(to_tuple), AfterValidator(unique)] = Field(
        default=tuple(Medium), description="Media of calls."
    )
    operations: Annotated[tuple[OperationName, ...], BeforeValidator(to_tuple), AfterValidator(unique)] = Field(
        default=tuple(Operation), description="Operations."
    )


class Service(Model):
    """A microservice that may call."""

    accounts: Annotated[tuple[Name, ...], BeforeValidator(to_tuple), AfterValidator(unique)] = Field(
        min_length=1, description="Accounts that it may use, in turn."
    )
    credentials: Annotated[tuple[ApiKeyCredential, ...], BeforeValidator(to_tuple)] = Field(
        min_length=1, description="What it may prove itself with."
    )
    allow: Allow = Field(default_factory=Allow)
    require_idempotency_key: bool = Field(default=False, description="Refuse a call without an `Idempotency-Key`.")


class Idempotency(Model):
    """What is remembered of requests with an `Idempotency-Key`."""

    keep_seconds: Annotated[float, Field(ge=60, le=2_592_000, allow_inf_nan=False)] = Field(
        default=86_400, description="How long an answer is kept under its key. Seconds."
    )


class Log(Model):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least level to write.")


class Configuration(Model):
    """The configuration of a dial gateway."""

    listen: Listen = Field(default_factory=Listen)
    admin: Admin = Field(default_factory=Admin)
    upstream: Upstream
    accounts: dict[Name, Account] = Field(min_length=1)
    services: dict[Name, Service] = Field(min_length=1)
    store: Store = Field(default_factory=Store)
    idempotency: Idempotency = Field(default_factory=Idempotency)
    drain_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = Field(
        default=25, description="How long requests under way may take after SIGTERM. Seconds."
    )
    log: Log = Field(default_factory=Log)
