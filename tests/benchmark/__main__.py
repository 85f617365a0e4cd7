"""`python -m tests.benchmark [--quick] [--json FILE] [--baseline DIRECTORY] [SECTION…]`, or `make benchmark`.

Measures the gateway beside nginx on this machine and prints a table for each section, with what is to be
reached beside what was. nginx and wrk must be installed. The contender has one core, the contact centre (an
nginx too) and the load have another one, everything is on 127.0.0.1, and all of it is over in three minutes
(`--quick`: 45 seconds).

Figures vary from run to run, so a target that was missed is no failure. Exit codes: 0 measured, 1 something
could not be measured, 2 misuse.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from tests.benchmark.figures import table
from tests.benchmark.load import CannotMeasure
from tests.benchmark.machine import CONTENDER_CORE, OTHER_CORE, Missing
from tests.benchmark.sections import SECTIONS, Effort

_WHOLE: Final = Effort(rounds=8, seconds=1.5, steady_rounds=5, steady_seconds=2.5, starts=5, batches=200, streams=1000)
_QUICK: Final = Effort(rounds=3, seconds=0.8, steady_rounds=2, steady_seconds=1.5, starts=3, batches=50, streams=200)
_WHOLE_SECONDS: Final = 175
_QUICK_SECONDS: Final = 44


def main() -> int:
    """Measure what the arguments ask for; the exit code."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := {*options.sections} - {*SECTIONS}:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    effort = _QUICK if options.quick else _WHOLE
    if options.baseline is not None:
        effort = replace(effort, baseline=options.baseline.resolve())
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_QUICK_SECONDS if options.quick else _WHOLE_SECONDS)
    # What is started from here inherits it; a contender then moves to its own core.
    os.sched_setaffinity(0, {OTHER_CORE})
    if CONTENDER_CORE == OTHER_CORE:
        print("There is one core only, so the load takes time from what it measures.\n")
    measured: dict[str, list[dict[str, object]]] = {}
    code = 0
    for name in options.sections or SECTIONS:
        section = SECTIONS[name]
        try:
            with tempfile.TemporaryDirectory(prefix="dial-gateway-") as scratch:
                figures = list(section(Path(scratch), effort))
        except (CannotMeasure, Missing) as exc:
            print(f"{name} could not be measured: {exc}\n", file=sys.stderr)
            code = 1
            continue
        print(table(f"{name}: {section.__doc__}", figures), flush=True)
        measured[name] = [figure.document() for figure in figures]
    if options.json is not None:
        options.json.write_text(json.dumps({"quick": options.quick, "sections": measured}, indent=2) + "\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.benchmark", description="Measure the gateway beside nginx.")
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"all by default: {', '.join(SECTIONS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="DIRECTORY",
        help="another source tree whose gateway is measured in turn",
    )
    return parser


def _stop(*_: object) -> NoReturn:
    raise SystemExit(1)


def _too_long(*_: object) -> NoReturn:
    raise CannotMeasure("the machine is too busy: it took too long")


if __name__ == "__main__":
    raise SystemExit(main())
