"""The manifests as the cluster would get them, and what must hold of them that no schema says.

Owns the rendering, and the rules of Pod Security (restricted) and of names that must agree. Refuses to know what an
overlay is for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conftest import need

ROOT: Final = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
# What people make themselves, because it holds secrets or is theirs (README, "In Kubernetes").
GIVEN: Final = frozenset({"dial-gateway-ca", "dial-gateway", "dial-gateway-tls", "application"})
Manifest = dict[str, Any]


def rendered(directory: Path) -> list[Manifest]:
    """The manifests of an overlay."""
    done = subprocess.run(
        [need("kubectl"), "kustomize", str(directory)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def template(manifest: Manifest) -> Manifest | None:
    """The pod template of a workload; a CronJob has it in its template of Jobs."""
    spec = manifest.get("spec", {})
    found: Manifest | None = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return found


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod's specification."""
    return [*pod.get("initContainers", ()), *pod["containers"]]


def insecure(pod: Manifest) -> Iterator[str]:
    """What Pod Security's profile `restricted` would refuse of a pod, and a root that can be written to."""
    shared = pod.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    if pod.get("automountServiceAccountToken") is not False:
        yield "a token of the cluster that nothing here needs"
    for volume in pod.get("volumes", ()):
        if not volume.keys() & {"configMap", "secret", "emptyDir", "projected"}:
            yield f"volume {volume['name']}"
    for container in containers(pod):
        own = container.get("securityContext", {})
        both = shared | own
        wanted = {
            "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser", 0) > 0,
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "seccompProfile": both.get("seccompProfile", {}).get("type") in {"RuntimeDefault", "Localhost"},
            "privileged": not own.get("privileged"),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "hostPort": not any("hostPort" in port for port in container.get("ports", ())),
        }
        yield from (f"{container['name']}: {name}" for name, right in wanted.items() if not right)


def disagreements(manifests: list[Manifest]) -> Iterator[str]:
    """Names that lead nowhere: of labels, ports, volumes, configuration and workloads."""
    pods = [pod for manifest in manifests if (pod := template(manifest))]
    made = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    for manifest in manifests:
        where = f"{manifest['kind']} {manifest['metadata']['name']}"
        spec = manifest.get("spec", {})
        if (pod := template(manifest)) is not None:
            selector = spec.get("selector", {}).get("matchLabels", {})
            if not matches(selector, pod["metadata"]["labels"]) or (manifest["kind"] == "Deployment" and not selector):
                yield f"{where}: its selector"
            yield from (f"{where}: {name}" for name in dangling(pod["spec"], made))
        elif manifest["kind"] == "ServiceMonitor":
            yield from (f"{where}: {port}" for port in unserved(spec, manifests))
        elif manifest["kind"] == "HorizontalPodAutoscaler":
            if not any(is_target(spec["scaleTargetRef"], other) for other in manifests):
                yield f"{where}: its target"
        elif (chosen := chosen_by(manifest)) is not None:
            selector, wanted = chosen
            found = [pod for pod in pods if matches(selector, pod["metadata"]["labels"])]
            if not found:
                yield f"{where}: it chooses no pod"
            for pod in found:
                yield from (f"{where}: {port}" for port in unknown(wanted, pod["spec"], manifest["kind"]))


def unknown(wanted: list[str | int], pod: Manifest, kind: str) -> Iterator[str | int]:
    """The ports that nobody listens at in a pod, or that a manifest of this kind can't find there."""
    ports = [port for one in containers(pod) for port in one.get("ports", ())]
    known = {port["name"] for port in ports} | {port["containerPort"] for port in ports}
    if kind == "NetworkPolicy":
        # Not every network plugin finds the names of ports of native sidecars.
        known -= {port["name"] for one in pod.get("initContainers", ()) for port in one.get("ports", ())}
    yield from (port for port in wanted if port not in known)


def chosen_by(manifest: Manifest) -> tuple[dict[str, str], list[str | int]] | None:
    """The labels of the pods that a manifest chooses, and the ports that it wants of them, by name or number."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Service":
            return spec["selector"], [port["targetPort"] for port in spec["ports"]]
        case "NetworkPolicy":
            wanted = [port["port"] for rule in spec.get("ingress", ()) for port in rule.get("ports", ())]
            return spec["podSelector"]["matchLabels"], wanted
        case "PodDisruptionBudget":
            return spec["selector"]["matchLabels"], []
        case "PodMonitor":
            return spec["selector"]["matchLabels"], [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]]
        case _:
            return None


def unserved(monitor: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    """The ports of a ServiceMonitor that none of its Services has."""
    names = {
        port["name"]
        for service in manifests
        if service["kind"] == "Service" and matches(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
        for port in service["spec"]["ports"]
    }
    yield from (endpoint["port"] for endpoint in monitor["endpoints"] if endpoint["port"] not in names)


def jobs(manifests: list[Manifest], namespace: str) -> Iterator[str]:
    """What Prometheus Operator calls the jobs of the monitors; no monitor has a `jobLabel`."""
    for monitor in manifests:
        assert "jobLabel" not in monitor.get("spec", {})
        if monitor["kind"] == "PodMonitor":
            yield f"{namespace}/{monitor['metadata']['name']}"
        elif monitor["kind"] == "ServiceMonitor":
            chosen = monitor["spec"]["selector"]["matchLabels"]
            for service in manifests:
                if service["kind"] == "Service" and matches(chosen, service["metadata"]["labels"]):
                    yield service["metadata"]["name"]


def is_target(reference: dict[str, str], manifest: Manifest) -> bool:
    """Whether a reference is to this manifest."""
    return reference == {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "name": manifest["metadata"]["name"],
    }


def dangling(pod: Manifest, made: set[tuple[str, str]]) -> Iterator[str]:
    """Mounts without a volume, volumes without a source, probes without a port, an account that is not there."""
    account = "ServiceAccount", pod.get("serviceAccountName", "default")
    if account not in {*made, ("ServiceAccount", "default")}:
        yield f"{account[1]} is no account"
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    yield from (
        f"{name} is made by nobody" for kind, name in sources(pod) if name not in GIVEN and (kind, name) not in made
    )
    for container in containers(pod):
        ports = {port["name"] for port in container.get("ports", ())}
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{mount['name']} is no volume"
            if "subPath" in mount:
                yield f"{mount['mountPath']} would never be renewed"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container and container[probe]["httpGet"]["port"] not in ports:
                yield f"{container['name']}: {probe}"


def sources(pod: Manifest) -> Iterator[tuple[str, str]]:
    """Kind and name of what a pod's volumes show."""
    for volume in pod.get("volumes", ()):
        for source in (volume, *volume.get("projected", {}).get("sources", ())):
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]
            if "secret" in source:
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether a selector chooses these labels."""
    return selector.items() <= labels.items()
