"""What is seen of the gateway: one record of each request, and the sinks that it feeds.

Owns the record, the log lines and the metrics. Refuses to decide anything about a request, and to show
anything that is not on a list of known fields.
"""

from __future__ import annotations

from gateway.telemetry.logs import LineWriter, Log
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.output import Output
from gateway.telemetry.record import Attempt, Record, Telemetry

__all__ = ["Attempt", "LineWriter", "Log", "Metrics", "Output", "Record", "Telemetry"]
