"""What must hold of a workload with a gateway, and no schema says: files, ports, time to end, where and how many it is.

Owns one rule for each, and `unsound`, which asks all of them and those of `reach`. Refuses to know an overlay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.deploy.gateways import Gateway, gateways
from tests.deploy.manifests import Manifest, containers, is_target, matches, template
from tests.deploy.reach import unreachable

PROBES: Final = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
SPREAD: Final = {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
DEFAULT_GRACE_SECONDS: Final = 30
LAST_SECONDS: Final = 5  # what a gateway that has drained takes to be gone
_OTHERS, _GROUP, _OWNER = 0o004, 0o040, 0o400
_TOO_MUCH: Final = ~0o644  # what 440 is as well, when it was meant to be 0440


def unsound(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Everything that does not hold."""
    for gateway in gateways(manifests):
        for rule in (_started, _listening, _ended):
            yield from (f"{gateway.where}: {fault}" for fault in rule(gateway))
    for manifest in manifests:
        where = f"{manifest['kind']} {manifest['metadata']['name']}"
        if (found := template(manifest)) is not None:
            yield from (f"{where}: {fault}" for fault in _unreadable(found["spec"]))
        if manifest["kind"] == "Deployment":
            yield from (f"{where}: {fault}" for fault in _scaled(manifest, manifests))
    yield from unreachable(manifests)


def _started(gateway: Gateway) -> Iterator[str]:
    """A sidecar is one that runs on, and is started before its application; Kubernetes asks each how it is."""
    if gateway.sidecar and gateway.container.get("restartPolicy") != "Always":
        yield "it is no sidecar, and its application would wait for its end"
    if not gateway.sidecar and "restartPolicy" in gateway.container:
        yield "it is no sidecar, and its pod says when it is started anew"
    for probe, path in PROBES.items():
        asked = gateway.container.get(probe, {}).get("httpGet", {})
        if (asked.get("path"), gateway.number(asked.get("port", ""))) != (path, gateway.admin):
            yield f"its {probe} asks for something else"


def _listening(gateway: Gateway) -> Iterator[str]:
    """Its ports are those of its configuration."""
    declared = {port["containerPort"] for port in gateway.container.get("ports", ())}
    if declared != gateway.listening:
        yield f"it has the ports {sorted(declared)}, and listens at {sorted(gateway.listening)}"


def _ended(gateway: Gateway) -> Iterator[str]:
    """It has time to drain, even if nothing else in its pod takes any."""
    sleep = gateway.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    needed = gateway.drain_seconds + sleep + LAST_SECONDS
    if gateway.pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS) < needed:
        yield f"it needs {needed:g} seconds to end"


def _unreadable(pod: Manifest) -> Iterator[str]:
    """Files of volumes that those who mount them can't read, or can do more with."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    for container in containers(pod):
        both = pod.get("securityContext", {}) | container.get("securityContext", {})
        # They are root's, of the group that the pod says.
        bits = _OTHERS | (_GROUP if "fsGroup" in both or both.get("runAsGroup") == 0 else 0)
        bits |= _OWNER if both.get("runAsUser") == 0 else 0
        for mount in container.get("volumeMounts", ()):
            for mode in _modes(volumes.get(mount["name"], {})):
                if mode & _TOO_MUCH or not mode & bits:
                    yield f"{container['name']} does not read {mount['name']}, of mode {mode:04o}"


def _modes(volume: Manifest) -> Iterator[int]:
    """The modes of a volume's files."""
    for kind in ("secret", "configMap", "projected"):
        source: dict[str, Any] | None = volume.get(kind)
        if source is None:
            continue
        yield source.get("defaultMode", 0o644)
        for inner in (source, *(one for part in source.get("sources", ()) for one in part.values())):
            yield from (item["mode"] for item in inner.get("items", ()) if "mode" in item)


def _scaled(deployment: Manifest, manifests: Sequence[Manifest]) -> Iterator[str]:
    """How many of a Deployment there are, where they are, and how many may be away."""
    spec = deployment["spec"]
    labels = spec["template"]["metadata"]["labels"]
    rolling = spec.get("strategy", {}).get("rollingUpdate", {})
    if rolling and not any(str(rolling.get(name, 1)).strip("0%") for name in ("maxUnavailable", "maxSurge")):
        yield "it could never be renewed"
    least = most = spec.get("replicas", 1)
    for scaler in manifests:
        if scaler["kind"] == "HorizontalPodAutoscaler" and is_target(scaler["spec"]["scaleTargetRef"], deployment):
            least, most = scaler["spec"].get("minReplicas", 1), scaler["spec"]["maxReplicas"]
            yield from _scaler(scaler, deployment)
    for budget in manifests:
        if budget["kind"] == "PodDisruptionBudget" and matches(budget["spec"]["selector"]["matchLabels"], labels):
            away = _may_be_away(budget["spec"], least)
            if not 1 <= away < least:
                yield f"of {least} pods {away} may be away"
    constraints = spec["template"]["spec"].get("topologySpreadConstraints", ())
    if most > 1 and {one["topologyKey"] for one in constraints} != SPREAD:
        yield "its pods are not spread over zones and nodes"
    for one in constraints:
        chosen = one.get("labelSelector", {}).get("matchLabels", {})
        if not chosen or not matches(chosen, labels) or one["maxSkew"] < 1:
            yield f"its pods are not spread by {one['topologyKey']}"


def _scaler(scaler: Manifest, deployment: Manifest) -> Iterator[str]:
    """An autoscaler that could not do what it is to do."""
    if not 1 <= scaler["spec"].get("minReplicas", 1) <= scaler["spec"]["maxReplicas"]:
        yield "its autoscaler has no number between its bounds"
    if "replicas" in deployment["spec"]:
        yield "it and its autoscaler say how many there are"
    metrics = scaler["spec"].get("metrics", ())
    if not metrics:
        yield "its autoscaler looks at nothing"
    for metric in metrics:
        resource = metric.get("resource", {})
        target = resource.get("target", {})
        requested = all(
            resource.get("name") in container.get("resources", {}).get("requests", {})
            for container in containers(deployment["spec"]["template"]["spec"])
        )
        if target.get("type") != "Utilization" or not target.get("averageUtilization") or not requested:
            yield "its autoscaler looks at a share of nothing"


def _may_be_away(budget: Manifest, pods: int) -> int:
    """How many pods may be evicted at once, of so many; 0 for a budget that the cluster would not take."""
    if ("minAvailable" in budget) == ("maxUnavailable" in budget):
        return 0
    if "maxUnavailable" in budget:
        return _of(budget["maxUnavailable"], pods)
    return pods - _of(budget["minAvailable"], pods)


def _of(share: int | str, pods: int) -> int:
    return share if isinstance(share, int) else math.ceil(int(share.removesuffix("%")) * pods / 100)
