"""Whether requests are traced: the standard environment variables of OpenTelemetry, as far as they decide that.

Owns which of them switch the export on, and what this gateway can't do of what they ask for. Refuses to read the
others: the SDK does so itself, once it is imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Final

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"


def traced(environ: Mapping[str, str]) -> bool:
    """Whether spans are exported: an exporter or an endpoint is named, and nothing says that there is none.

    Without either the specification would have them sent to this machine, where mostly nobody listens.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get(_EXPORTER, "").strip()
    return exporter != "none" and bool(exporter or any(environ.get(name) for name in _ENDPOINTS))


def tracing_faults(environ: Mapping[str, str]) -> Iterator[str]:
    """What is asked for and can't be done."""
    if not traced(environ):
        return
    exporter = environ.get(_EXPORTER, "").strip()
    if exporter not in {"", "otlp"}:
        yield f"{_EXPORTER} is not otlp or none"
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        yield f"{' or '.join(_PROTOCOLS)} is not {_PROTOCOL}"
    if not _installed():
        yield "traces need what the extra `otel` installs: pip install 'dial-gateway[otel]'"


def _installed() -> bool:
    # `opentelemetry` alone is a namespace that others may have brought.
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
