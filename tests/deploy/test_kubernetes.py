"""The manifests: valid to the last field, agreed with one another, restricted, with a configuration that is taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.simulator import Certificates
from tests.deploy.enumerations import misspelled
from tests.deploy.manifests import ROOT, disagreements, insecure, template
from tests.deploy.overlays import (
    CUSTOM,
    JOB,
    KINDS,
    OVERLAYS,
    VERSION,
    change,
    configuration,
    of_kind,
    overlay,
    with_sidecar,
    workload,
)
from tests.deploy.reach import job_of
from tests.deploy.soundness import unsound


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
        ("shared", "Service", "spec/selector", {"app": "nobody"}),
        ("shared", "Service", "spec/ports/0/targetPort", "dail"),
        ("shared", "ServiceMonitor", "spec/endpoints/0/port", "metrics"),
        ("shared", "NetworkPolicy", "spec/ingress/0/ports/0/port", "http"),
        ("shared", "PodDisruptionBudget", "spec/selector/matchLabels", {"app": "nobody"}),
        ("shared", "HorizontalPodAutoscaler", "spec/scaleTargetRef/name", "gateway"),
        ("shared", "Deployment", "spec/selector/matchLabels", {"app": "nobody"}),
        ("shared", "Deployment", "spec/template/spec/containers/0/livenessProbe/httpGet/port", "admin"),
        ("example", "NetworkPolicy", "spec/ingress/0/ports/0/port", "dial-admin"),
        ("example", "NetworkPolicy", "spec/ingress/0/ports/0/port", 9091),
        ("example", "PodMonitor", "spec/selector/matchLabels", {"dial-gateway": "no"}),
        ("example", "Deployment", "spec/template/spec/volumes/0/configMap/name", "nobody's"),
        ("example", "Deployment", "spec/template/spec/volumes/4/projected/sources/0/secret/name", "nobody's"),
        ("example", "Deployment", "spec/template/spec/serviceAccountName", "nobody"),
        ("example", "Deployment", "spec/template/spec/initContainers/0/volumeMounts/0/name", "nothing"),
        ("example", "Deployment", "spec/template/spec/initContainers/0/volumeMounts/0/subPath", "gateway.yaml"),
    ],
)
def test_a_name_that_leads_nowhere_would_be_noticed(name: str, kind: str, path: str, value: Any) -> None:
    manifests = overlay(name)
    change(of_kind(manifests, kind), path, value)

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
def test_only_its_own_pod_or_tls_reaches_the_callers_listener(
    name: str, tmp_path: Path, certificates: Certificates
) -> None:
    listen = configuration(name, tmp_path, certificates).listen

    assert (listen.address.private, listen.tls is None) == ((True, True) if name == "example" else (False, False))


def test_a_job_gets_a_sidecar_and_a_workload_without_the_label_does_not(tmp_path: Path) -> None:
    job, other = yaml.safe_load_all(JOB)

    manifests = with_sidecar(job, tmp_path, other)

    job = of_kind(manifests, "Job")
    kubernetes_validate.validate(job, VERSION, strict=True)
    (sidecar,) = job["spec"]["template"]["spec"]["initContainers"]
    # The job is over when its own container is.
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("dial-gateway", "Always")
    assert list(insecure(job["spec"]["template"]["spec"])) == []
    assert "initContainers" not in of_kind(manifests, "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_the_component_knows_gets_the_same_sidecar(kind: str, tmp_path: Path) -> None:
    own: dict[str, list[Any]] = {
        "initContainers": [{"name": "own", "image": "own"}],
        "volumes": [{"name": "own", "emptyDir": {}}],
    }

    manifests = with_sidecar(workload(kind, **own), tmp_path)

    made = of_kind(manifests, kind)
    kubernetes_validate.validate(made, VERSION, strict=True)
    found = template(made)
    assert found is not None
    assert found["metadata"]["labels"] == {"app": kind.lower(), "dial-gateway": "sidecar"}
    example = of_kind(overlay("example"), "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    assert found["spec"]["initContainers"] == [example | {"image": "dial-gateway"}, *own["initContainers"]]
    assert [volume["name"] for volume in found["spec"]["volumes"]] == [
        "dial-gateway",
        "dial-gateway-ca",
        "dial-gateway-secrets",
        "own",
    ]
    # The configuration by the name that it has now.
    del found["spec"]["initContainers"][1]
    assert [*disagreements(manifests), *misspelled(manifests), *unsound(manifests)] == []


def test_the_readme_and_the_component_know_the_same_kinds() -> None:
    component = yaml.safe_load((ROOT / "components" / "sidecar" / "kustomization.yaml").read_text())
    readme = re.sub(r"\s+", " ", (ROOT.parents[1] / "README.md").read_text())

    assert component["patches"][0]["target"]["kind"].split("|") == [*KINDS]
    assert f"every {', '.join(KINDS[:-1])} and {KINDS[-1]} with the label" in readme


@pytest.mark.parametrize(("name", "kind"), [("example", "PodMonitor"), ("shared", "ServiceMonitor")])
def test_a_namespace_is_a_job_of_its_own_that_the_alerts_know(name: str, kind: str) -> None:
    """Rules tell of jobs: of two namespaces in one, the one that fails would be lost in the other."""
    manifests = overlay(name)
    monitor = of_kind(manifests, kind)
    alerts = (ROOT.parent / "prometheus" / "alerts.yaml").read_text()
    known = re.findall(r'\bjob=~"([^"]*)"', alerts)

    jobs = [job_of(monitor, manifests, namespace) for namespace in ("staging", "production")]

    assert jobs == ["staging/dial-gateway", "production/dial-gateway"]
    assert known
    assert all(re.fullmatch(pattern, job) for pattern in (*known, "(.+/)?dial-gateway") for job in jobs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [600, 10, None])
def test_the_time_that_a_workload_has_for_its_end_stays_its_own(kind: str, own: int | None, tmp_path: Path) -> None:
    more = {} if own is None else {"terminationGracePeriodSeconds": own}

    found = template(of_kind(with_sidecar(workload(kind, **more), tmp_path), kind))

    assert found is not None
    assert [container["name"] for container in found["spec"]["initContainers"]] == ["dial-gateway"]
    assert found["spec"].get("terminationGracePeriodSeconds") == own
