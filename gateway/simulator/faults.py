"""Owns the faults that can be ordered: their kinds, their arguments, and which request or connection meets which.

Refuses an order that could never be met, or that has an argument its kind does not know: a typo is not a quiet success.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

OPERATIONS = ("create", "check", "events", "drop")
FABRIC_OPERATIONS = ("tokenByAkSk", "applyToken")

CONNECTION_KINDS: Mapping[str, frozenset[str]] = {
    "reset-accept": frozenset(),
    "reset-handshake": frozenset(),
    "reset-idle": frozenset({"after"}),
}
REQUEST_KINDS: Mapping[str, frozenset[str]] = {
    # in the place of an answer
    "reset-request": frozenset({"perform"}),
    "close-request": frozenset({"perform"}),
    "silence": frozenset({"perform"}),
    "status": frozenset({"perform", "status", "body", "headers"}),
    "result-code": frozenset({"perform", "code", "description"}),
    "garbage": frozenset({"perform", "data"}),
    "not-json": frozenset({"perform", "body"}),
    "no-result-code": frozenset({"perform"}),
    "redirect": frozenset({"perform", "status", "location"}),
    "oversize": frozenset({"perform", "bytes"}),
    # done to the normal answer
    "delay": frozenset({"seconds"}),
    "reset-answer": frozenset(),
    "reset-after": frozenset(),
    "close-after": frozenset(),
    "close": frozenset(),
    "content-type": frozenset({"value"}),
    "truncated": frozenset({"missing"}),
    "chunked": frozenset(),
    "informational": frozenset(),
    "unsolicited": frozenset({"body"}),
    "encoded": frozenset(),
    "headers-flood": frozenset({"bytes"}),
    # done to the token, before it is checked
    "expire-now": frozenset(),
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "after": (int, float),
    "delay": (int, float),
    "seconds": (int, float),
    "perform": (bool,),
    "status": (int,),
    "bytes": (int,),
    "missing": (int,),
    "headers": (dict,),
}
_FIRST_STATUS, _LAST_STATUS = 200, 599


class Fault:
    """An order for one thing to go wrong, `times` times (None: until it is cleared).

    `operation` is one of the four, `*` for any of the four, `tokenByAkSk` or `applyToken` at the API Fabric. For the
    faults of a connection (`reset-accept`, `reset-handshake`, `reset-idle`) it is `*` (NSLB) or `fabric`, and they
    are met by the next connection that is accepted. `endpoint` limits it to one NSLB listener, by index.

    Every fault of a request takes `delay` (seconds before the answer). The faults that stand in the place of an answer
    take `perform`: whether the operation is carried out all the same. By default a create or drop is, for
    `reset-request`, `close-request`, `silence`, `garbage`, `not-json`, `no-result-code` and `oversize` (the phone
    rings, and the caller is not told), and is not for `status`, `result-code` and `redirect`. Check and events never
    are. `ValueError` for an unknown kind, operation or argument, or a value of a wrong type.
    """

    def __init__(
        self,
        kind: str,
        operation: str = "*",
        times: int | None = 1,
        *,
        endpoint: int | None = None,
        **args: Any,
    ) -> None:
        self.kind = kind
        self.operation = operation
        self.times = times
        self.endpoint = endpoint
        self.args = args
        self.of_connection = kind in CONNECTION_KINDS
        if self.of_connection:
            known = CONNECTION_KINDS[kind]
            operations: tuple[str, ...] = ("*", "fabric")
        elif kind in REQUEST_KINDS:
            known = REQUEST_KINDS[kind] | {"delay"}
            operations = ("*", *OPERATIONS, *FABRIC_OPERATIONS)
        else:
            raise ValueError(f"unknown kind of fault: {kind!r}")
        if operation not in operations:
            raise ValueError(f"{kind}: unknown operation: {operation!r}")
        if times is not None and not _whole(times, 1):
            raise ValueError(f"{kind}: times is a number from 1, or None")
        if endpoint is not None and not _whole(endpoint, 0):
            raise ValueError(f"{kind}: endpoint is an index, or None")
        for name, value in args.items():
            if name not in known:
                raise ValueError(f"{kind}: unknown argument: {name!r}")
            types = _TYPES.get(name, (str,))
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise ValueError(f"{kind}: {name} has a wrong type")
        if "status" in args and not _FIRST_STATUS <= args["status"] <= _LAST_STATUS:
            raise ValueError(f"{kind}: a status from {_FIRST_STATUS} to {_LAST_STATUS}")

    def __repr__(self) -> str:
        return f"Fault({self.kind!r}, {self.operation!r}, times={self.times}, endpoint={self.endpoint}, **{self.args})"

    @property
    def stands_in(self) -> bool:
        """It stands in the place of an answer."""
        return "perform" in REQUEST_KINDS.get(self.kind, ())

    @property
    def answers(self) -> bool:
        """Something is answered that is HTTP, though it may be damaged."""
        return self.kind not in ("reset-request", "close-request", "silence", "garbage")

    @property
    def delay(self) -> float:
        """Seconds before the answer."""
        return float(self.args.get("seconds", self.args.get("delay", 1.0 if self.kind == "delay" else 0.0)))

    def performs(self, operation: str | None) -> bool:
        """Whether the operation is carried out before this fault takes the place of its answer."""
        if operation not in ("create", "drop"):
            return False
        return bool(self.args.get("perform", self.kind not in ("status", "result-code", "redirect")))

    def to_json(self) -> dict[str, object]:
        """How the control port shows it, and takes it."""
        return {
            "kind": self.kind,
            "operation": self.operation,
            "times": self.times,
            "endpoint": self.endpoint,
            **self.args,
        }


class Faults:
    """The orders that wait, oldest first. One request (or connection) meets one fault at most."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Fault, list[int]]] = []

    def add(self, fault: Fault) -> None:
        """Order a fault, after those that wait."""
        self._waiting.append((fault, [fault.times or 0]))

    def clear(self) -> None:
        """Forget those that wait."""
        self._waiting.clear()

    def waiting(self) -> list[dict[str, object]]:
        """What has not been met yet, `times` being those that are left."""
        return [fault.to_json() | {"times": left[0] or None} for fault, left in self._waiting]

    def for_connection(self, place: str, endpoint: int) -> Fault | None:
        """The fault for a connection just accepted; `place` is `*` (NSLB) or `fabric`."""
        return self._take(lambda fault: fault.of_connection and fault.operation == place, endpoint)

    def for_request(self, operation: str | None, endpoint: int) -> Fault | None:
        """The fault for a request just read; None when it is for no known operation."""
        if operation is None:
            return None
        names = {operation, "*"} if operation in OPERATIONS else {operation}
        return self._take(lambda fault: not fault.of_connection and fault.operation in names, endpoint)

    def _take(self, wanted: Callable[[Fault], bool], endpoint: int) -> Fault | None:
        for position, (fault, left) in enumerate(self._waiting):
            if wanted(fault) and fault.endpoint in (None, endpoint):
                if fault.times is not None:
                    left[0] -= 1
                    if not left[0]:
                        del self._waiting[position]
                return fault
        return None


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
