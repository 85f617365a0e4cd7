"""Write each dashboard as JSON; with `--check`, say which are not as they would be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.generated import generate
from deploy.grafana.callers import callers
from deploy.grafana.overview import overview
from deploy.grafana.process import process
from deploy.grafana.upstream import upstream

HERE: Final = Path(__file__).parent


def documents() -> Mapping[str, str]:
    """The dashboards as JSON, by name."""
    made = {"overview": overview(), "upstream": upstream(), "callers": callers(), "process": process()}
    return {name: JSONEncoder(sort_keys=True, indent=2).encode(page) + "\n" for name, page in made.items()}


if __name__ == "__main__":
    generate({HERE / f"{name}.json": text for name, text in documents().items()}, "make dashboards", __doc__)
