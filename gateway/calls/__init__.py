"""Calls, from the request that makes one to its end.

Owns what is known of a call, who may follow and release it, and which call NSLB means. Refuses HTTP: what a caller is
told is the business of `http`.
"""

from __future__ import annotations

from gateway.calls.asking import asked
from gateway.calls.call import Call, Happening
from gateway.calls.errands import Errands
from gateway.calls.following import Bell, Following, Followings
from gateway.calls.lines import Lines
from gateway.calls.placing import Accounts, Desk, Seat
from gateway.calls.registry import ID_BYTES, Calls, call_id
from gateway.calls.releasing import Releases

__all__ = [
    "ID_BYTES",
    "Accounts",
    "Bell",
    "Call",
    "Calls",
    "Desk",
    "Errands",
    "Following",
    "Followings",
    "Happening",
    "Lines",
    "Releases",
    "Seat",
    "asked",
    "call_id",
]
