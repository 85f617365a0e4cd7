"""What schemathesis needs to know of the gateway: which calls there are, and that a stream must be ended.

Owns what is changed of the requests that it makes up (test_openapi.py). Runs in its process.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, Final

import schemathesis

_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_calls: Final[list[str]] = []
_turn: Final = itertools.count()


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Any, response: Any) -> None:
    """Note the calls that were made."""
    if response.status_code == 201:
        _calls.append(response.json()["id"])


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Ask for calls that there are, now and then for a stream, and always with enough time."""
    identifier = case.path_parameters.get("id")
    if isinstance(identifier, str) and _ID.fullmatch(identifier) and identifier not in _calls and _calls:
        case.path_parameters["id"] = _calls[-1]
    seconds = str(case.headers.get("Request-Timeout", "1"))
    if case.operation.path.endswith("/events"):
        if next(_turn) % 2:
            case.headers["Accept"] = "text/event-stream"
        if _SECONDS.fullmatch(seconds) and float(seconds):
            case.headers["Request-Timeout"] = "0.1"  # a stream would last as long as its call
    elif _SECONDS.fullmatch(seconds) and float(seconds):
        # A time that is too short ends as 503 or 504, as it should; test_deadlines.py shows that.
        case.headers["Request-Timeout"] = "5"
