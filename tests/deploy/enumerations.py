"""The words that Kubernetes takes where it takes one of a few: no schema says them, only a cluster refuses others.

Owns the table, by kind and place. Refuses a word with a capital where the table has none: a field that nobody looks at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tests.deploy.manifests import Manifest

Words = frozenset[str]
_PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})
_SECURITY: Final = {
    "capabilities/drop/*": frozenset({"ALL"}),
    "seccompProfile/type": frozenset({"RuntimeDefault", "Localhost", "Unconfined"}),
}
_CONTAINER: Final = {
    "imagePullPolicy": frozenset({"Always", "IfNotPresent", "Never"}),
    "ports/*/protocol": _PROTOCOLS,
    "terminationMessagePolicy": frozenset({"File", "FallbackToLogsOnError"}),
    **{
        f"{probe}/httpGet/scheme": frozenset({"HTTP", "HTTPS"})
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    },
    **{f"securityContext/{path}": words for path, words in _SECURITY.items()},
}
_POD: Final = {
    "dnsPolicy": frozenset({"ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"}),
    "restartPolicy": frozenset({"Always", "OnFailure", "Never"}),
    "securityContext/fsGroupChangePolicy": frozenset({"OnRootMismatch", "Always"}),
    "topologySpreadConstraints/*/whenUnsatisfiable": frozenset({"DoNotSchedule", "ScheduleAnyway"}),
    "volumes/*/emptyDir/medium": frozenset({"", "Memory"}),
    # No other restarts a sidecar, and a container that is none has no policy of its own.
    "initContainers/*/restartPolicy": frozenset({"Always"}),
    **{f"securityContext/{path}": words for path, words in _SECURITY.items()},
    **{f"{kind}/*/{path}": words for kind in ("containers", "initContainers") for path, words in _CONTAINER.items()},
}
_ONCE: Final = frozenset({"OnFailure", "Never"})
_TEMPLATE: Final = {f"spec/template/spec/{path}": words for path, words in _POD.items()}
# Where any word may stand.
_ANYTHING: Final = re.compile(r"/containers/\*/(env/\*/(name|value)|command/\*|args/\*)$")
_MONITOR: Final = {
    "*/scheme": frozenset({"http", "https"}),
    "*/relabelings/*/action": frozenset({"replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep"}),
}
_SCALING: Final = {
    "selectPolicy": frozenset({"Max", "Min", "Disabled"}),
    "policies/*/type": frozenset({"Pods", "Percent"}),
}
TABLE: Final[Mapping[str, Mapping[str, Words]]] = {
    "ConfigMap": {},
    "CronJob": {
        **{
            f"spec/jobTemplate/{path}": words
            for path, words in {**_TEMPLATE, "spec/template/spec/restartPolicy": _ONCE}.items()
        },
        "spec/concurrencyPolicy": frozenset({"Allow", "Forbid", "Replace"}),
    },
    "DaemonSet": {
        **_TEMPLATE,
        "spec/updateStrategy/type": frozenset({"RollingUpdate", "OnDelete"}),
        "spec/template/spec/restartPolicy": frozenset({"Always"}),
    },
    "Deployment": {
        **_TEMPLATE,
        "spec/strategy/type": frozenset({"RollingUpdate", "Recreate"}),
        "spec/template/spec/restartPolicy": frozenset({"Always"}),
    },
    "HorizontalPodAutoscaler": {
        "spec/scaleTargetRef/kind": frozenset({"Deployment", "StatefulSet"}),
        "spec/metrics/*/type": frozenset({"Resource", "ContainerResource", "Pods", "Object", "External"}),
        "spec/metrics/*/resource/name": frozenset({"cpu", "memory"}),
        "spec/metrics/*/resource/target/type": frozenset({"Utilization", "Value", "AverageValue"}),
        **{
            f"spec/behavior/{way}/{path}": words for way in ("scaleUp", "scaleDown") for path, words in _SCALING.items()
        },
    },
    "Job": {
        **_TEMPLATE,
        "spec/completionMode": frozenset({"NonIndexed", "Indexed"}),
        "spec/template/spec/restartPolicy": _ONCE,
    },
    "Namespace": {},
    "NetworkPolicy": {
        "spec/policyTypes/*": frozenset({"Ingress", "Egress"}),
        **{f"spec/{way}/*/ports/*/protocol": _PROTOCOLS for way in ("ingress", "egress")},
    },
    "PodDisruptionBudget": {"spec/unhealthyPodEvictionPolicy": frozenset({"IfHealthyBudget", "AlwaysAllow"})},
    "PodMonitor": {f"spec/podMetricsEndpoints/{path}": words for path, words in _MONITOR.items()},
    "Service": {
        "spec/type": frozenset({"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}),
        "spec/ports/*/protocol": _PROTOCOLS,
        "spec/sessionAffinity": frozenset({"None", "ClientIP"}),
        **{f"spec/{way}TrafficPolicy": frozenset({"Cluster", "Local"}) for way in ("internal", "external")},
    },
    "ServiceAccount": {},
    "ServiceMonitor": {f"spec/endpoints/{path}": words for path, words in _MONITOR.items()},
    "StatefulSet": {
        **_TEMPLATE,
        "spec/podManagementPolicy": frozenset({"OrderedReady", "Parallel"}),
        "spec/updateStrategy/type": frozenset({"RollingUpdate", "OnDelete"}),
        "spec/template/spec/restartPolicy": frozenset({"Always"}),
    },
}


def misspelled(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Words that Kubernetes does not take where they stand, and those that the table knows nothing of."""
    for manifest in manifests:
        table = TABLE[manifest["kind"]]
        for path, word in _words(manifest.get("spec", {}), "spec"):
            if path in table:
                if word not in table[path]:
                    yield f"{manifest['kind']} {path}: {word}"
            elif re.fullmatch(r"[A-Z][A-Za-z]+", word) and not _ANYTHING.search(path):
                yield f"{manifest['kind']} {path}: nobody knows whether {word} is a word of it"


def _words(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _words(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner, f"{path}/*")
    elif isinstance(value, str):
        yield path, value
