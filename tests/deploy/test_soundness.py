"""What no schema says of the manifests holds, wherever they come from, and each slip of the pen would be noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import by_default
from tests.deploy.enumerations import misspelled
from tests.deploy.manifests import Manifest
from tests.deploy.overlays import ABSENT, JOB, change, of_kind, overlay, with_sidecar
from tests.deploy.soundness import unsound

POD = "spec/template/spec"
SIDECAR = f"{POD}/initContainers/0"
GATEWAY = f"{POD}/containers/0"
NOBODY = {"matchLabels": {"app": "nobody"}}
Make = Callable[[str], list[Manifest]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the manifests of an overlay, of the chart, or of a Job with the sidecar."""

    def made(source: str) -> list[Manifest]:
        if source == "chart":
            return [*json.loads(by_default()).values()]
        if source == "job":
            return with_sidecar(next(yaml.safe_load_all(JOB)), tmp_path)
        return overlay(source)

    return made


@pytest.mark.parametrize("source", ["example", "shared", "chart", "job"])
def test_all_of_it_holds(source: str, make: Make) -> None:
    manifests = make(source)

    assert [*misspelled(manifests), *unsound(manifests)] == []


def test_nothing_of_it_was_left_out(make: Make) -> None:
    """A rule that finds nothing to look at finds no fault."""
    shared = {"NetworkPolicy", "ServiceMonitor", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"}
    for source, kinds in {"example": {"NetworkPolicy", "PodMonitor"}, "shared": shared, "chart": shared}.items():
        assert kinds <= {manifest["kind"] for manifest in make(source)}


@pytest.mark.parametrize("source", ["example", "shared", "chart", "job"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("imagePullPolicy", "Maybe"),
        ("ports/0/protocol", "TPC"),
        ("securityContext/seccompProfile", {"type": "RuntimeDefalut"}),
        ("securityContext/capabilities/drop/0", "All"),
        ("livenessProbe/httpGet/scheme", "http"),
        ("terminationMessagePolicy", "Fallback"),
        ("shareWith", "Nobody"),  # the table has no such place
    ],
)
def test_a_word_of_a_container_that_kubernetes_does_not_know_would_be_noticed(
    source: str, path: str, value: Any, make: Make
) -> None:
    manifests = make(source)
    kind = "Job" if source == "job" else "Deployment"
    container = SIDECAR if source in {"job", "example"} else GATEWAY
    change(of_kind(manifests, kind), f"{container}/{path}", value)

    (fault,) = misspelled(manifests)

    assert path.partition("/")[0] in fault


@pytest.mark.parametrize(
    ("source", "kind", "path", "value"),
    [
        ("shared", "Deployment", "spec/strategy/type", "Recrate"),
        ("example", "Deployment", "spec/strategy/type", "Recrate"),
        ("shared", "Deployment", f"{POD}/topologySpreadConstraints/0/whenUnsatisfiable", "Perhaps"),
        ("shared", "Deployment", f"{POD}/restartPolicy", "Never"),
        ("shared", "Deployment", f"{POD}/dnsPolicy", "clusterFirst"),
        ("job", "Job", f"{POD}/restartPolicy", "Always"),
        ("shared", "HorizontalPodAutoscaler", "spec/metrics/0/type", "Resourse"),
        ("chart", "HorizontalPodAutoscaler", "spec/metrics/0/type", "Resourse"),
        ("shared", "HorizontalPodAutoscaler", "spec/metrics/0/resource/name", "CPU"),
        ("shared", "HorizontalPodAutoscaler", "spec/behavior/scaleDown/selectPolicy", "Least"),
        ("shared", "NetworkPolicy", "spec/policyTypes", ["Inwards"]),
        ("example", "NetworkPolicy", "spec/policyTypes/1", "egress"),
        ("shared", "NetworkPolicy", "spec/egress/0/ports/0/protocol", "TPC"),
        ("chart", "NetworkPolicy", "spec/ingress/0/ports/0/protocol", "TPC"),
        ("shared", "Service", "spec/ports/0/protocol", "HTTPS"),
        ("shared", "Service", "spec/type", "Cluster"),
        ("shared", "PodDisruptionBudget", "spec/unhealthyPodEvictionPolicy", "Always"),
        ("example", "PodMonitor", "spec/podMetricsEndpoints/0/scheme", "HTTP"),
        ("shared", "ServiceMonitor", "spec/endpoints/0/scheme", "HTTP"),
        ("shared", "ServiceMonitor", "spec/endpoints/0/relabelings/0/action", "Substitute"),
    ],
)
def test_a_word_that_kubernetes_does_not_know_would_be_noticed(
    source: str, kind: str, path: str, value: Any, make: Make
) -> None:
    manifests = make(source)
    change(of_kind(manifests, kind), path, value)

    assert any(fault.startswith(f"{kind} spec/") for fault in misspelled(manifests))


@pytest.mark.parametrize(
    ("source", "kind", "path", "value", "fault"),
    [
        # What a gateway connects to.
        *(
            (source, "NetworkPolicy", path, value, fault)
            for source in ("example", "shared", "chart")
            for path, value, fault in (
                ("spec/egress", ABSENT, "does not reach 10.10.10.2:18446"),
                ("spec/egress", [{}], "for everybody"),
                ("spec/egress/0", {}, "for everybody"),
                ("spec/policyTypes", ["Ingress"], "no policy of its Egress"),
                ("spec/policyTypes", ["Egress"], "no policy of its Ingress"),
                ("spec/policyTypes", ["Inwards"], "no policy of its Egress"),
                ("spec/podSelector", NOBODY, "no policy of its Egress"),
                ("spec/egress/0/to/0/ipBlock/cidr", "10.10.10.0/30", "does not reach 10.10.10.4:28070"),
                ("spec/egress/0/to/0/ipBlock/cidr", "10.10.11.0/24", "does not reach 10.10.10.3:18446"),
                ("spec/egress/0/to/0/ipBlock/except", ["10.10.10.3/32"], "does not reach 10.10.10.3:18446"),
                ("spec/egress/0/to/0", {"podSelector": {}}, "does not reach 10.10.10.2:18446"),
                ("spec/egress/0/ports/0/port", 18447, "does not reach 10.10.10.2:18446"),
                ("spec/egress/0/ports/1", ABSENT, "does not reach 10.10.10.4:28070"),
                ("spec/egress/0/ports/0/protocol", "TPC", "does not reach 10.10.10.2:18446"),
                ("spec/egress/0/ports/0/protocol", "UDP", "does not reach 10.10.10.2:18446"),
            )
        ),
        *(
            (source, "NetworkPolicy", path, value, fault)
            for source in ("shared", "chart")
            for path, value, fault in (
                ("spec/egress/1", ABSENT, "does not reach redis.redis.svc:6379"),
                ("spec/egress/1/to/0/namespaceSelector", NOBODY, "does not reach redis.redis.svc:6379"),
                ("spec/egress/2", ABSENT, "does not reach name servers by UDP"),
                ("spec/egress/2/ports/1", ABSENT, "does not reach name servers by TCP"),
                ("spec/egress/2/ports/0/protocol", "TCP", "does not reach name servers by UDP"),
                ("spec/egress/2/to/0/podSelector", NOBODY, "does not reach name servers by UDP"),
                ("spec/egress/2/to/1", ABSENT, "does not reach name servers by UDP"),
                ("spec/egress/2/to/2/ipBlock/cidr", "169.254.0.0/32", "does not reach name servers by TCP"),
                # Where a cloud has a machine's credentials.
                ("spec/egress/2/ports/1/port", 80, "to the credentials of the machine"),
                ("spec/egress/2/ports/1/endPort", 80, "to the credentials of the machine"),
                ("spec/egress/0/to/0/ipBlock/cidr", "0.0.0.0/0", "to the credentials of the machine"),
                # Who connects to it.
                ("spec/ingress/0", ABSENT, "nobody reaches its port 8443"),
                ("spec/ingress/0/ports/0/port", 443, "nobody reaches its port 8443"),
                ("spec/ingress/1", ABSENT, "nobody reaches its port 9090"),
            )
        ),
        ("example", "NetworkPolicy", "spec/ingress", ABSENT, "nobody reaches its port 9090"),
        ("example", "NetworkPolicy", "spec/ingress/0/ports/0/port", 9091, "nobody reaches its port 9090"),
        ("example", "NetworkPolicy", "spec/ingress/0/from/0/namespaceSelector", NOBODY, "Prometheus does not reach"),
        ("example", "NetworkPolicy", "spec/ingress/0/from", ABSENT, "for everybody"),
        # Who asks it for its metrics.
        ("example", "PodMonitor", "spec/podMetricsEndpoints/0/path", "/metric", "no metrics at its path"),
        ("example", "PodMonitor", "spec/podMetricsEndpoints/0/scheme", "https", "no metrics at its path"),
        ("example", "PodMonitor", "spec/podMetricsEndpoints/0/port", "admin", "not the operators' port"),
        ("example", "PodMonitor", "spec/podMetricsEndpoints/0/interval", "15", "no time"),
        *(
            (source, "ServiceMonitor", f"spec/endpoints/0/relabelings{path}", value, "the same in every namespace")
            for source in ("shared", "chart")
            for path, value in (
                ("", ABSENT),
                ("/0/action", "keep"),
                ("/0/targetLabel", "jobs"),
                ("/0/sourceLabels/0", "namespace"),
                ("/0/replacement", "dial-gateway"),
            )
        ),
        ("shared", "ServiceMonitor", "spec/endpoints/0/path", "/metric", "no metrics at its path"),
        ("chart", "ServiceMonitor", "spec/endpoints/0/path", "/metric", "no metrics at its path"),
        ("shared", "ServiceMonitor", "spec/endpoints/0/port", "dial", "not the operators' port"),
        ("shared", "Service", "spec/ports/1/targetPort", "dial", "not the operators' port"),
        # Its ports, its probes, its start and its end.
        ("example", "Deployment", f"{SIDECAR}/ports/0/containerPort", 9091, "listens at [9090]"),
        ("job", "Job", f"{SIDECAR}/ports/0/containerPort", 9091, "listens at [9090]"),
        ("shared", "Deployment", f"{GATEWAY}/ports/0/containerPort", 8080, "listens at [8443, 9090]"),
        ("example", "Deployment", f"{SIDECAR}/readinessProbe/httpGet/path", "/livez", "readinessProbe"),
        ("job", "Job", f"{SIDECAR}/startupProbe", ABSENT, "startupProbe"),
        ("shared", "Deployment", f"{GATEWAY}/livenessProbe/httpGet/port", "dial", "livenessProbe"),
        ("example", "Deployment", f"{SIDECAR}/restartPolicy", ABSENT, "no sidecar"),
        ("example", "Deployment", f"{SIDECAR}/restartPolicy", "Never", "no sidecar"),
        ("job", "Job", f"{SIDECAR}/restartPolicy", ABSENT, "no sidecar"),
        ("shared", "Deployment", f"{GATEWAY}/restartPolicy", "Always", "no sidecar"),
        ("example", "Deployment", f"{POD}/terminationGracePeriodSeconds", 29, "needs 30 seconds"),
        ("job", "Job", f"{POD}/terminationGracePeriodSeconds", 10, "needs 30 seconds"),
        ("shared", "Deployment", f"{POD}/terminationGracePeriodSeconds", ABSENT, "needs 40 seconds"),
        # What it can read.
        ("example", "Deployment", f"{POD}/volumes/0/configMap/defaultMode", 0, "does not read dial-gateway"),
        ("example", "Deployment", f"{POD}/volumes/4/projected/defaultMode", 0o400, "does not read credentials"),
        ("job", "Job", f"{POD}/volumes/2/secret/defaultMode", 0, "does not read dial-gateway-secrets"),
        ("job", "Job", f"{POD}/volumes/2/secret/defaultMode", 0o440, "does not read dial-gateway-secrets"),
        ("shared", "Deployment", f"{POD}/volumes/2/secret/defaultMode", 0, "does not read dial-gateway-secrets"),
        ("chart", "Deployment", f"{POD}/volumes/2/secret/defaultMode", 0, "does not read dial-gateway-secrets"),
        ("shared", "Deployment", f"{POD}/volumes/3/secret/defaultMode", 0o400, "does not read dial-gateway-tls"),
        ("shared", "Deployment", f"{POD}/volumes/3/secret/defaultMode", 440, "does not read dial-gateway-tls"),
        ("shared", "Deployment", f"{POD}/securityContext/fsGroup", ABSENT, "does not read dial-gateway-tls"),
        (
            "shared",
            "Deployment",
            f"{POD}/volumes/3/secret/items",
            [{"key": "tls.key", "path": "tls.key", "mode": 0o400}],
            "does not read dial-gateway-tls",
        ),
        # How many there are, and where.
        *(
            (source, kind, path, value, fault)
            for source in ("shared", "chart")
            for kind, path, value, fault in (
                ("Deployment", f"{POD}/topologySpreadConstraints", ABSENT, "not spread over zones and nodes"),
                ("Deployment", f"{POD}/topologySpreadConstraints/1", ABSENT, "not spread over zones and nodes"),
                ("Deployment", f"{POD}/topologySpreadConstraints/0/labelSelector", NOBODY, "not spread by topology"),
                ("Deployment", f"{POD}/topologySpreadConstraints/1/labelSelector", ABSENT, "not spread by kubernetes"),
                ("Deployment", f"{POD}/topologySpreadConstraints/0/topologyKey", "zone", "not spread over zones"),
                ("Deployment", "spec/replicas", 2, "say how many"),
                ("Deployment", "spec/strategy/rollingUpdate/maxSurge", "0%", "never be renewed"),
                ("Deployment", f"{GATEWAY}/resources/requests/cpu", ABSENT, "a share of nothing"),
                ("HorizontalPodAutoscaler", "spec/minReplicas", 1, "of 1 pods 1 may be away"),
                ("HorizontalPodAutoscaler", "spec/minReplicas", 7, "between its bounds"),
                ("HorizontalPodAutoscaler", "spec/metrics", ABSENT, "looks at nothing"),
                (
                    "HorizontalPodAutoscaler",
                    "spec/metrics/0/resource/target",
                    {"type": "Utilization"},
                    "a share of nothing",
                ),
                ("PodDisruptionBudget", "spec/maxUnavailable", 0, "of 2 pods 0 may be away"),
                ("PodDisruptionBudget", "spec/maxUnavailable", "0%", "of 2 pods 0 may be away"),
                ("PodDisruptionBudget", "spec/maxUnavailable", "100%", "of 2 pods 2 may be away"),
                ("PodDisruptionBudget", "spec/minAvailable", 1, "of 2 pods 0 may be away"),
                ("PodDisruptionBudget", "spec/maxUnavailable", ABSENT, "of 2 pods 0 may be away"),
            )
        ),
    ],
)
def test_what_does_not_hold_would_be_noticed(
    source: str, kind: str, path: str, value: Any, fault: str, make: Make
) -> None:
    manifests = make(source)
    change(of_kind(manifests, kind), path, value)

    assert any(fault in found for found in unsound(manifests))


def test_a_budget_that_keeps_as_many_as_there_are_would_be_noticed(make: Make) -> None:
    manifests = make("shared")
    budget = of_kind(manifests, "PodDisruptionBudget")["spec"]
    del budget["maxUnavailable"]

    found = {}
    for least in (1, 2, "50%", "51%"):
        budget["minAvailable"] = least
        found[least] = [*unsound(manifests)]

    assert found == {
        1: [],
        2: ["Deployment dial-gateway: of 2 pods 0 may be away"],
        "50%": [],
        "51%": ["Deployment dial-gateway: of 2 pods 0 may be away"],
    }


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("https://10.10.10.3:18446", "https://10.10.12.3:18446", {"10.10.12.3:18446"}),
        ("https://10.10.10.3:18446", "https://10.10.10.3:443", {"10.10.10.3:443"}),
        ("https://10.10.10.4:28070", "https://10.10.10.4", {"10.10.10.4:443"}),
        # A name may be anywhere, but has to be looked up.
        ("https://10.10.10.4:28070", "https://fabric.example:28070", {"name servers by TCP", "name servers by UDP"}),
    ],
)
def test_an_address_of_the_configuration_that_no_policy_has_would_be_noticed(
    old: str, new: str, missing: set[str], make: Make
) -> None:
    manifests = make("example")
    for manifest in manifests:
        if "gateway.yaml" in manifest.get("data", {}):
            manifest["data"]["gateway.yaml"] = manifest["data"]["gateway.yaml"].replace(old, new)

    assert {*unsound(manifests)} == {f"Deployment application: it does not reach {one}" for one in missing}


def test_a_configuration_that_listens_elsewhere_would_be_noticed(make: Make) -> None:
    manifests = make("shared")
    for manifest in manifests:
        if "gateway.yaml" in manifest.get("data", {}):
            manifest["data"]["gateway.yaml"] = manifest["data"]["gateway.yaml"].replace(":9090", ":9091")

    assert any("listens at [8443, 9091]" in fault for fault in unsound(manifests))
