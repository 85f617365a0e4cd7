"""The overlays as tests take them: to be changed at will, with a configuration that this machine can load.

Owns which there are, a workload of somebody else with the sidecar, how one value of a manifest is changed, and where
the files of a configuration lie. Refuses to judge.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography.fernet import Fernet

from gateway.config import Configuration, load
from gateway.simulator import APP_KEY, APP_SECRET, Certificates
from tests.deploy.manifests import ROOT, Manifest, rendered

OVERLAYS: Final = ("example", "shared")
CUSTOM: Final = ("PodMonitor", "ServiceMonitor")  # Prometheus Operator's own; soundness.py looks at their fields
VERSION: Final = "1.33"  # the first in which native sidecars need no feature gate
ABSENT: Final = object()
# Workloads of somebody else, one with the label and one without.
JOB: Final = """\
apiVersion: batch/v1
kind: Job
metadata: {name: job, labels: {dial-gateway: sidecar}}
spec:
  template:
    metadata: {labels: {app: job}}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers:
        - name: job
          image: job
          securityContext:
            runAsNonRoot: true
            runAsUser: 1000
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            seccompProfile: {type: RuntimeDefault}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
spec:
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other}}
    spec: {containers: [{name: other, image: other}]}
"""


KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")  # that the component knows


def workload(kind: str, **more: Any) -> Manifest:
    """A workload of one of these kinds with the label, named as its kind is, and more in its pod's specification."""
    once = kind in {"Job", "CronJob"}
    container = next(yaml.safe_load_all(JOB))["spec"]["template"]["spec"]["containers"][0]
    pod = {"automountServiceAccountToken": False, "containers": [container], **more}
    if once:
        pod["restartPolicy"] = "Never"
    spec: Manifest = {"template": {"metadata": {"labels": {"app": kind.lower()}}, "spec": pod}}
    if kind == "CronJob":
        spec = {"schedule": "0 0 * * *", "jobTemplate": {"spec": spec}}
    if not once:
        spec["selector"] = {"matchLabels": {"app": kind.lower()}}
    if kind == "StatefulSet":
        spec["serviceName"] = "statefulset"
    return {
        "apiVersion": "batch/v1" if once else "apps/v1",
        "kind": kind,
        "metadata": {"name": kind.lower(), "labels": {"dial-gateway": "sidecar"}},
        "spec": spec,
    }


@cache
def _overlay(name: str) -> list[Manifest]:
    return rendered(ROOT / "overlays" / name)


def overlay(name: str) -> list[Manifest]:
    """An overlay's manifests, to be changed at will."""
    return copy.deepcopy(_overlay(name))


def of_kind(manifests: Sequence[Manifest], kind: str) -> Manifest:
    """The one manifest of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def change(manifest: Manifest, path: str, value: object) -> None:
    """Put a value where a path of names and numbers leads, or take away what is there: `ABSENT`."""
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    holder: Any = manifest
    for step in steps:
        holder = holder[step]
    if value is ABSENT:
        del holder[last]
    else:
        holder[last] = value


def with_sidecar(workload: Manifest, directory: Path, *others: Manifest) -> list[Manifest]:
    """What the component makes of workloads that are no overlay's."""
    (directory / "workloads.yaml").write_text(yaml.safe_dump_all([workload, *others]))
    component = os.path.relpath(ROOT / "components" / "sidecar", directory)
    kustomization = {
        "resources": ["workloads.yaml"],
        "components": [component],
        "configMapGenerator": [{"name": "dial-gateway", "files": ["gateway.yaml"]}],
    }
    shutil.copy(ROOT / "overlays" / "example" / "gateway.yaml", directory)
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return rendered(directory)


def settings(name: str, directory: Path, certificates: Certificates) -> dict[str, Any]:
    """The configuration of an overlay, with every file that it names in a directory."""
    text: str = next(
        manifest["data"]["gateway.yaml"] for manifest in overlay(name) if "gateway.yaml" in manifest.get("data", {})
    )
    served = certificates.issue("served")
    files = {
        "dial-gateway-ca/nslb-ca.pem": certificates.ca.read_bytes(),
        "dial-gateway-ca/redis-ca.pem": certificates.ca.read_bytes(),
        "dial-gateway-tls/tls.crt": served.certificate.read_bytes(),
        "dial-gateway-tls/tls.key": served.key.read_bytes(),
        "dial-gateway/app-key": APP_KEY.encode(),
        "dial-gateway/app-secret": APP_SECRET.encode(),
        "dial-gateway/redis-password": b"password",
        "dial-gateway/encryption-key": Fernet.generate_key(),
    }
    for path, content in files.items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_bytes(content)
    for mount in ("/etc/", "/var/run/secrets/"):
        text = text.replace(f" {mount}dial-gateway", f" {directory}/dial-gateway")
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def configuration(name: str, directory: Path, certificates: Certificates) -> Configuration:
    """The configuration of an overlay, as a gateway loads it."""
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings(name, directory, certificates)))
    return load(path).configuration
