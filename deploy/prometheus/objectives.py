"""The objectives, which dials miss them, and the rules that measure it.

Owns the list of bad codes and the objectives: the recording rules, and through their series the alerts and the
dashboards, have them from here. Refuses alerts, which are written by hand and know no objective, only burn rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# A dial is bad if it failed for a reason that is not its caller's: of the gateway, of its store, of the tokens, or of
# the way to NSLB. What the contact centre refused (`upstream-rejected`, `no-agent-available` and what else the
# configuration calls it), a busy account, and a wrong request are not; nor is a gateway that stops, which has others
# beside it.
BAD_CODES: Final = (
    "internal", "outcome-unknown", "overloaded", "store-unavailable", "token-unavailable",
    "upstream-credential-rejected", "upstream-disconnected", "upstream-invalid-response", "upstream-timeout",
    "upstream-unreachable", "upstream-untrusted",
)  # fmt: skip
BAD: Final = f'code=~"{"|".join(BAD_CODES)}"'
MAY_FAIL: Final = 0.001  # 99.9 % of the dials are not bad
MAY_BE_SLOW: Final = 0.01  # 99 % of those that were accepted took a second at most
WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")

_HEADER: Final = """\
# `make rules` writes this from deploy/prometheus/objectives.py, which has the objectives and says which dials are bad.
#
# How many dials there were, and how many of them missed an objective; and how fast that uses its budget up, by job: at
# a burn rate of 1 it lasts for 30 days.
groups:
  - name: dial-gateway-objectives
    rules:
"""
_DIALS: Final = 'gateway_requests_total{operation="create"}'
_BAD_DIALS: Final = f'gateway_requests_total{{operation="create",{BAD}}}'
_ACCEPTED: Final = 'gateway_request_duration_seconds_count{operation="create",outcome="accepted"}'
_IN_TIME: Final = 'gateway_request_duration_seconds_bucket{operation="create",outcome="accepted",le="1.0"}'


def recording() -> str:
    """The recording rules, as YAML."""
    return _HEADER + "".join(
        f"      - record: {name}\n        expr: >-\n          {expression}\n"
        for window in WINDOWS
        for name, expression in _rules(window)
    )


def _rules(window: str) -> Iterator[tuple[str, str]]:
    dials, bad = f"job:gateway_dials:increase{window}", f"job:gateway_dials_bad:increase{window}"
    yield dials, _increase(_DIALS, window)
    # A job that had no bad dial at all has no such series.
    yield bad, f"{_increase(_BAD_DIALS, window)} or 0 * {dials}"
    yield f"job:gateway_dials_bad:burn_rate{window}", f"{bad} / ({dials} > 0) / {MAY_FAIL}"
    accepted, slow = f"job:gateway_dials_accepted:increase{window}", f"job:gateway_dials_slow:increase{window}"
    yield accepted, _increase(_ACCEPTED, window)
    yield slow, f"{accepted} - {_increase(_IN_TIME, window)}"
    yield f"job:gateway_dials_slow:burn_rate{window}", f"{slow} / ({accepted} > 0) / {MAY_BE_SLOW}"


def _increase(counter: str, window: str) -> str:
    return f"sum by (job) (increase({counter}[{window}]))"
