"""Write the recording rules; with `--check`, say whether they are as they would be written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deploy.generated import generate
from deploy.prometheus.objectives import recording

RECORDING: Final = Path(__file__).with_name("recording.yaml")

if __name__ == "__main__":
    generate({RECORDING: recording()}, "make rules", __doc__)
