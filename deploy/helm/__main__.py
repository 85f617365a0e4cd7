"""Write the Helm chart, of what kustomize makes of the overlay `shared`; with `--check`, say whether it is so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from deploy.generated import generate
from deploy.helm.chart import NAME, chart
from gateway import __version__

HERE: Final = Path(__file__).parent
CHART: Final = HERE / NAME
_OVERLAY: Final = HERE.parent / "kubernetes" / "overlays" / "shared"


def documents() -> Mapping[Path, str]:
    """The files of the chart, by their paths."""
    # That of the locked requirements: it lies beside the interpreter.
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", _OVERLAY], capture_output=True, text=True, check=True)  # noqa: S603 - of this tree alone
    made = chart(list(yaml.safe_load_all(done.stdout)), __version__)
    return {CHART / name: text for name, text in made.items()}


if __name__ == "__main__":
    generate(documents(), "make chart", __doc__)
