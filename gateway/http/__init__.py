"""HTTP on our side: the listener for callers, the listener for operators, and the way of a request between them.

Owns parsing, authentication's place in the order of things, and the one place that turns errors into answers.
Refuses everything that is not exactly a documented request.
"""

from __future__ import annotations

from gateway.http.api import CallersApi
from gateway.http.exchange import Runtime
from gateway.http.fields import new_record
from gateway.http.listener import CallersServer, Limits
from gateway.http.operators import Health, operators_application

__all__ = ["CallersApi", "CallersServer", "Health", "Limits", "Runtime", "new_record", "operators_application"]
