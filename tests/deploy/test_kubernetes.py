"""The manifests: valid to the last field, agreed with one another, restricted, with a configuration that is taken."""

from __future__ import annotations

import asyncio
import copy
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography.fernet import Fernet

from gateway.config import Configuration, load
from gateway.simulator import APP_KEY, APP_SECRET, Certificates, Simulator
from tests.conftest import need
from tests.deploy.manifests import ROOT, Manifest, containers, disagreements, insecure, rendered, sources, template
from tests.harness import KEY, Farm, digest, until
from tests.running import Process

README = ROOT.parents[1] / "README.md"
OVERLAYS = ("example", "shared")
CUSTOM = ("PodMonitor", "ServiceMonitor")  # Prometheus Operator's own; test_names_agree looks at their fields
VERSION = "1.33"  # the first in which native sidecars need no feature gate
JOB = """\
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


@cache
def _overlay(name: str) -> list[Manifest]:
    return rendered(ROOT / "overlays" / name)


def overlay(name: str) -> list[Manifest]:
    """An overlay's manifests, to be changed at will."""
    return copy.deepcopy(_overlay(name))


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_manifest_is_valid_to_the_last_field(name: str) -> None:
    for manifest in overlay(name):
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_a_misspelled_field_would_be_noticed() -> None:
    deployment = of_kind(overlay("example"), "Deployment")
    deployment["spec"]["template"]["spec"]["initContainers"][0]["restartpolicy"] = "Always"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSION, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_names_agree(name: str) -> None:
    assert list(disagreements(overlay(name))) == []


@pytest.mark.parametrize(
    ("name", "kind", "path", "value"),
    [
        ("shared", "Service", "spec.selector", {"app": "nobody"}),
        ("shared", "Service", "spec.ports.0.targetPort", "dail"),
        ("shared", "ServiceMonitor", "spec.endpoints.0.port", "metrics"),
        ("shared", "NetworkPolicy", "spec.ingress.0.ports.0.port", "http"),
        ("shared", "PodDisruptionBudget", "spec.selector.matchLabels", {"app": "nobody"}),
        ("shared", "HorizontalPodAutoscaler", "spec.scaleTargetRef.name", "gateway"),
        ("shared", "Deployment", "spec.selector.matchLabels", {"app": "nobody"}),
        ("shared", "Deployment", "spec.template.spec.containers.0.livenessProbe.httpGet.port", "admin"),
        ("example", "PodMonitor", "spec.selector.matchLabels", {"dial-gateway": "no"}),
        ("example", "Deployment", "spec.template.spec.volumes.0.configMap.name", "nobody's"),
        ("example", "Deployment", "spec.template.spec.volumes.4.projected.sources.0.secret.name", "nobody's"),
        ("example", "Deployment", "spec.template.spec.serviceAccountName", "nobody"),
        ("example", "Deployment", "spec.template.spec.initContainers.0.volumeMounts.0.name", "nothing"),
        ("example", "Deployment", "spec.template.spec.initContainers.0.volumeMounts.0.subPath", "gateway.yaml"),
    ],
)
def test_a_name_that_leads_nowhere_would_be_noticed(name: str, kind: str, path: str, value: Any) -> None:
    manifests = overlay(name)
    *steps, last = path.split(".")
    found: Any = of_kind(manifests, kind)
    for step in steps:
        found = found[int(step)] if step.isdigit() else found[step]
    found[last] = value

    assert list(disagreements(manifests)) != []


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_restricted(name: str) -> None:
    for manifest in overlay(name):
        if (pod := template(manifest)) is not None:
            assert list(insecure(pod["spec"])) == []
            assert all("requests" in container["resources"] for container in pod["spec"]["containers"])
    assert (
        of_kind(overlay(name), "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("readOnlyRootFilesystem", False),
        ("allowPrivilegeEscalation", True),
        ("capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        ("runAsUser", 0),
        ("privileged", True),
        ("seccompProfile", {"type": "Unconfined"}),
    ],
)
def test_a_pod_that_is_not_would_be_noticed(field: str, value: object) -> None:
    pod = of_kind(overlay("example"), "Deployment")["spec"]["template"]["spec"]
    pod["initContainers"][0]["securityContext"][field] = value

    assert len(list(insecure(pod))) == 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_gateway_is_asked_how_it_is(name: str) -> None:
    pod = of_kind(overlay(name), "Deployment")["spec"]["template"]["spec"]
    (gateway,) = (container for container in containers(pod) if container["name"] == "dial-gateway")

    asked = {probe: gateway[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}

    assert asked == {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_the_token_of_the_cluster_is_for_gateways_alone() -> None:
    pod = of_kind(overlay("example"), "Deployment")["spec"]["template"]["spec"]
    tokens = [
        source["serviceAccountToken"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    ]

    assert [token["audience"] for token in tokens] == ["dial-gateway"]
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_gateway_has_time_to_drain(name: str, tmp_path: Path, certificates: Certificates) -> None:
    pod = of_kind(overlay(name), "Deployment")["spec"]["template"]["spec"]
    waiting = sum(
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for container in pod["containers"]
    )

    drain = configuration(name, tmp_path, certificates).drain_seconds

    assert drain + waiting + 5 <= pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_its_own_pod_or_tls_reaches_the_callers_listener(
    name: str, tmp_path: Path, certificates: Certificates
) -> None:
    listen = configuration(name, tmp_path, certificates).listen

    assert (listen.address.private, listen.tls is None) == ((True, True) if name == "example" else (False, False))


def test_a_job_gets_a_sidecar_and_a_workload_without_the_label_does_not(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    component = os.path.relpath(ROOT / "components" / "sidecar", tmp_path)
    kustomization = {"resources": ["job.yaml"], "components": [component]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    manifests = rendered(tmp_path)

    job = of_kind(manifests, "Job")
    kubernetes_validate.validate(job, VERSION, strict=True)
    (sidecar,) = job["spec"]["template"]["spec"]["initContainers"]
    # The job is over when its own container is.
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("dial-gateway", "Always")
    assert list(insecure(job["spec"]["template"]["spec"])) == []
    assert "initContainers" not in of_kind(manifests, "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_commands_of_the_readme_make_what_an_overlay_needs(
    name: str, tmp_path: Path, certificates: Certificates
) -> None:
    blocks = re.findall(r"^```sh kubernetes\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if f"overlays/{name}\n" in block)
    (tmp_path / "deploy").symlink_to(ROOT.parent)
    for file in ("nslb-ca.pem", "redis-ca.pem", "app-key", "app-secret", "redis-password", "encryption-key", "key"):
        (tmp_path / file).write_text(file)
    pair = certificates.issue("shared")
    shutil.copy(pair.certificate, tmp_path / "tls.crt")
    shutil.copy(pair.key, tmp_path / "tls.key")
    # There is no cluster: what would be sent to it is printed.
    command = tmp_path / "bin" / "kubectl"
    command.parent.mkdir()
    command.write_text(f"""#!/bin/sh
case "$*" in
    "apply -k "*) {need("kubectl")} kustomize "$3" ;;
    *) {need("kubectl")} "$@" --dry-run=client --output=yaml ;;
esac
echo ---
""")
    command.chmod(0o700)

    done = subprocess.run(
        ["sh", "-ec", block],
        cwd=tmp_path,
        env={"PATH": f"{command.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    manifests = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    namespace = of_kind(overlay(name), "Namespace")["metadata"]["name"]
    assert {manifest["metadata"].get("namespace", namespace) for manifest in manifests} == {namespace}
    made = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    pod = of_kind(overlay(name), "Deployment")["spec"]["template"]["spec"]
    assert set(sources(pod)) <= made.keys()
    # Each file that the configuration names is one of what was made, or comes with the image.
    (written,) = (
        yaml.safe_load(manifest["data"]["gateway.yaml"])
        for (kind, called), manifest in made.items()
        if kind == "ConfigMap" and "gateway.yaml" in manifest.get("data", {}) and called.startswith("dial-gateway")
    )
    files = re.findall(r"'(/(?:etc|var)/[^']+)'", str(written))
    mounts = {mount["mountPath"]: mount["name"] for one in containers(pod) for mount in one["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert len(files) >= 4
    for file in files:
        directory, _, base = file.rpartition("/")
        ((kind, called),) = sources({"volumes": [volumes[mounts[directory]]]})
        assert base in made[kind, called]["data"], file


# --- the configuration


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
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings(name, directory, certificates)))
    return load(path).configuration


async def test_the_application_calls_through_its_sidecar_and_ends_before_it(
    farm: Farm, certificates: Certificates, tmp_path: Path
) -> None:
    """What a pod does from its start to its end, as processes here."""
    simulator: Simulator = await farm.simulator(queue_seconds=0.0, connect_seconds=0.0, talk_seconds=None)
    changed = settings("example", tmp_path, certificates)
    changed["listen"]["address"] = changed["admin"]["address"] = "127.0.0.1:0"
    changed["upstream"] |= {
        "endpoints": list(simulator.endpoints),
        "tls": {"ca": str(simulator.ca), "server_name": simulator.server_name},
    }
    changed["accounts"]["sales"]["apply_token"] |= {
        "url": simulator.fabric_url,
        "tls": {"ca": str(simulator.ca), "server_name": simulator.fabric_name},
    }
    changed["services"]["application"]["credentials"] = [{"api_key": digest(KEY)}]
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(changed))
    key = tmp_path / "key"
    key.write_text(KEY)

    gateway = await Process.serve(path)
    application = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "overlays" / "example" / "application.py"),
        env={**os.environ, "GATEWAY": gateway.base, "GATEWAY_KEY_FILE": str(key), "PAUSE_SECONDS": "0.05"},
        stdout=asyncio.subprocess.PIPE,
    )
    await until(lambda: len(simulator.creates()) >= 3)
    # The kubelet's order: the application's containers, and when they have ended, the sidecars.
    application.send_signal(signal.SIGTERM)
    told, _ = await application.communicate()
    assert application.returncode == 0
    assert await gateway.ended() == 0

    calls = {}
    for line in told.decode().splitlines():
        identifier, status = line.split()
        calls[identifier] = status
    assert len(calls) == len(simulator.creates()) == simulator.rings
    assert set(calls.values()) == {"ended"}
    creates = [line for line in gateway.of("request.forwarded") if line["operation"] == "create"]
    assert [line["outcome"] for line in creates] == ["accepted"] * len(calls)
