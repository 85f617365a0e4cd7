"""`make dashboards`: write each dashboard as JSON; with `--check`, say which are not as they would be written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.callers import callers
from deploy.grafana.overview import overview
from deploy.grafana.process import process
from deploy.grafana.upstream import upstream

HERE: Final = Path(__file__).parent


def documents() -> Mapping[str, str]:
    """The dashboards as JSON, by name."""
    made = {"overview": overview(), "upstream": upstream(), "callers": callers(), "process": process()}
    return {name: JSONEncoder(sort_keys=True, indent=2).encode(page) + "\n" for name, page in made.items()}


def main() -> None:
    """Ends with 1 if `--check` finds a file that is not as it would be written."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana", description=__doc__)
    parser.add_argument("--check", action="store_true")
    stale = []
    check = parser.parse_args().check
    for name, document in documents().items():
        path = HERE / f"{name}.json"
        if check:
            if not path.is_file() or path.read_text() != document:
                stale.append(path.name)
        else:
            path.write_text(document)
    if stale:
        sys.exit(f"{', '.join(stale)}: not as it would be written; run `make dashboards`")


if __name__ == "__main__":
    main()
