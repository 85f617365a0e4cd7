"""Which colour means what, wherever it is shown.

Owns the colours of outcomes and codes. Refuses red to whatever is known to have rung no phone: `unknown` stands out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from deploy.prometheus.objectives import BAD_CODES
from gateway import problems
from gateway.model import Outcome
from gateway.problems import FIXED_CODES, ProblemType

GOOD, WARN, BAD, CALM, FAINT = "green", "orange", "red", "blue", "#8e8e8e"
OUTCOMES: Final = {"accepted": GOOD, "rejected": CALM, "not_sent": WARN, "unknown": BAD}

_WARNING: Final = ("dark-orange", "orange", "light-orange", "dark-yellow", "yellow", "light-yellow")
_CALM: Final = ("blue", "light-blue", "dark-blue")
_FAINT: Final = (FAINT, "#b4b4b4", "#6c6c6c")
_UNKNOWN: Final = frozenset(
    kind.code for kind in vars(problems).values() if isinstance(kind, ProblemType) and kind.outcome is Outcome.UNKNOWN
)
# The first one is of the configuration as it is by default; what else it calls a refusal has shades of the same.
_REFUSED: Final = ("no-agent-available", "upstream-rejected")


def _shaded(codes: Iterable[str], shades: tuple[str, ...]) -> Mapping[str, str]:
    return {code: shades[number % len(shades)] for number, code in enumerate(sorted(codes))}


# Whoever asks wrongly is faint; what we failed in, without having sent it, is a warning.
CODES: Final[Mapping[str, str]] = {
    "ok": GOOD,
    **_shaded(FIXED_CODES - set(BAD_CODES) - set(_REFUSED), _FAINT),
    **_shaded(_REFUSED, _CALM),
    **_shaded(set(BAD_CODES) - _UNKNOWN, _WARNING),
    **dict.fromkeys(sorted(_UNKNOWN), BAD),
}
