"""The Helm chart as Helm renders it.

Owns the command. Refuses to know what should come of it.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache

import yaml

from deploy.helm.__main__ import CHART
from deploy.helm.chart import NAME
from tests.conftest import need
from tests.deploy.manifests import Manifest
from tests.deploy.overlays import VERSION


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished command of Helm's."""
    command = [need("helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def made(*arguments: str) -> dict[str, Manifest]:
    """The manifests that Helm makes of the chart, by their kinds."""
    done = helm("template", NAME, str(CHART), "--namespace", NAME, "--kube-version", VERSION, *arguments)
    assert done.returncode == 0, done.stderr
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}


@cache
def by_default() -> str:
    """The manifests with the chart's own values, by their kinds, as JSON."""
    return json.dumps(made())
