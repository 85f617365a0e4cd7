"""The configuration: one YAML file and the files that it names, read whole or not at all.

Owns keys, their meaning, faults with positions, secrets by reference, and noticing changes. Refuses unknown keys,
secrets in the file, and to guess.
"""

from __future__ import annotations

from gateway.config.load import ConfigurationError, Fault, Loaded, json_schema, load
from gateway.config.schema import (
    Account,
    Admin,
    Allow,
    ApiKeyCredential,
    ApplyToken,
    ClientTLS,
    Configuration,
    Listen,
    ListenTimeouts,
    Log,
    ResultMapping,
    ServerTLS,
    Service,
    Store,
    Upstream,
    UpstreamTimeouts,
)
from gateway.config.secrets import SecretFault, SecretReference
from gateway.config.store_url import StoreAddress
from gateway.config.tracing import traced
from gateway.config.values import Address, Endpoint
from gateway.config.watch import Watcher

__all__ = [
    "Account",
    "Address",
    "Admin",
    "Allow",
    "ApiKeyCredential",
    "ApplyToken",
    "ClientTLS",
    "Configuration",
    "ConfigurationError",
    "Endpoint",
    "Fault",
    "Listen",
    "ListenTimeouts",
    "Loaded",
    "Log",
    "ResultMapping",
    "SecretFault",
    "SecretReference",
    "ServerTLS",
    "Service",
    "Store",
    "StoreAddress",
    "Upstream",
    "UpstreamTimeouts",
    "Watcher",
    "json_schema",
    "load",
    "traced",
]
