"""The Helm chart: with its defaults the overlay `shared`, and each value where it belongs and nowhere else."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.helm.__main__ import CHART, documents
from deploy.helm.chart import NAME, OPTIONAL, PARTS, chart
from tests.conftest import need
from tests.deploy.charts import by_default, helm, made
from tests.deploy.manifests import ROOT, disagreements, insecure, rendered, template
from tests.deploy.overlays import CUSTOM, VERSION

README = ROOT.parents[1] / "README.md"
# For each value another one than the default.
OTHERS: dict[str, Any] = {
    "configuration": "listen: {}\n",
    "existing.secrets": "own",
    "existing.tls": "1e3",  # a name that would be a number if it stood there plainly
    "existing.authorities": "own",
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector.tracing.svc:4318"}],
    "resources": {"limits": {"memory": "1Gi"}},
    "terminationGracePeriodSeconds": 100,
    "autoscaling.minReplicas": 3,
    "autoscaling.maxReplicas": 9,
    "networkPolicy.ingress": [{"from": [{"podSelector": {}}]}],
    "networkPolicy.egress": [],
    "serviceMonitor.labels": {"release": "prometheus"},
}


def nested(name: str, value: Any) -> dict[str, Any]:
    """A value as `values.yaml` has it."""
    group, _, last = name.rpartition(".")
    return {group: {last: value}} if group else {last: value}


def test_the_chart_in_the_tree_is_the_one_that_the_overlay_makes() -> None:
    assert {path: path.read_text() for path in CHART.rglob("*") if path.is_file()} == documents()


def test_with_its_defaults_it_is_the_overlay() -> None:
    overlay = {manifest["kind"]: manifest for manifest in rendered(ROOT / "overlays" / "shared")}
    del overlay["Namespace"]
    configuration = overlay["ConfigMap"]["metadata"]["name"]
    overlay = json.loads(json.dumps(overlay).replace(configuration, NAME))
    for manifest in overlay.values():
        assert manifest["metadata"].pop("namespace") == NAME
    text = overlay["ConfigMap"]["data"]["gateway.yaml"]
    annotations = {"checksum/configuration": hashlib.sha256(text.encode()).hexdigest()}
    overlay["Deployment"]["spec"]["template"]["metadata"]["annotations"] = annotations

    assert made() == overlay


def test_what_it_makes_is_valid_agreed_and_restricted() -> None:
    manifests = made()

    for manifest in manifests.values():
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
    assert list(disagreements([*manifests.values()])) == []
    pod = template(manifests["Deployment"])
    assert pod is not None
    assert list(insecure(pod["spec"])) == []


def test_helm_finds_nothing_to_complain_of() -> None:
    done = helm("lint", "--strict", str(CHART))

    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


@pytest.mark.parametrize("name", PARTS)
def test_a_value_stands_in_its_place_and_nowhere_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(json.dumps(nested(name, OTHERS[name])))

    changed = made("--values", str(tmp_path / "values.yaml"))

    kind, path = PARTS[name]
    expected = json.loads(by_default())
    holder: Any = expected[kind]
    *steps, last = path.split("/")
    for step in steps:
        holder = next(item for item in holder if item["name"] == step) if isinstance(holder, list) else holder[step]
    # Helm joins mappings.
    holder[last] = holder[last] | OTHERS[name] if isinstance(holder[last], dict) else OTHERS[name]
    if name == "configuration":  # new pods begin with it
        annotations = expected["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        annotations["checksum/configuration"] = hashlib.sha256(OTHERS[name].encode()).hexdigest()
    assert changed == expected
    assert changed != json.loads(by_default())


@pytest.mark.parametrize("kind", OPTIONAL)
def test_what_is_optional_can_be_left_out(kind: str) -> None:
    assert made("--set", f"{OPTIONAL[kind]}=false").keys() == json.loads(by_default()).keys() - {kind}


def test_a_digest_takes_the_place_of_the_tag() -> None:
    digest = f"sha256:{'0' * 64}"

    manifests = made("--set", f"image.repository=registry.example/dial,image.digest={digest}")

    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example/dial@{digest}"


def test_the_command_of_the_readme_installs_ones_own_configuration(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh kubernetes\n(helm install [^`]*)^```$", README.read_text(), re.MULTILINE)
    (tmp_path / "deploy").symlink_to(ROOT.parent)
    (tmp_path / "gateway.yaml").write_text("listen: {}\n")
    # There is no cluster: what would be sent to it is printed.
    command = block.replace("helm install", f"{need('helm')} template")

    done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    manifests = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert manifests.keys() == made().keys()
    assert manifests["ConfigMap"]["data"] == {"gateway.yaml": "listen: {}\n"}
    assert manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] == "NAME:0.1.0"


@pytest.mark.parametrize("setting", ["replicas=3", "image.tga=1", "autoscaling.minReplicas=many", "resources=1"])
def test_a_misspelled_value_is_refused(setting: str) -> None:
    done = helm("template", NAME, str(CHART), "--set", setting)

    assert done.returncode != 0
    assert "schema" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"image": {"tag": ""}}, "image: it needs a tag or a digest"),
        ({"image": {"tag": None}}, "missing property 'tag'"),
        ({"image": {"tag": "one two"}}, "'/image/tag'"),
        ({"image": {"repository": ""}}, "'/image/repository'"),
        ({"image": {"digest": "abc"}}, "'/image/digest'"),
        ({"image": {"digest": f"sha256:{'A' * 64}"}}, "'/image/digest'"),
        ({"imagePullSecrets": ["registry"]}, "'/imagePullSecrets/0'"),
        ({"imagePullSecrets": [{}]}, "'/imagePullSecrets/0'"),
        ({"env": {"OTEL_TRACES_EXPORTER": "otlp"}}, "'/env'"),
        ({"env": [{"value": "otlp"}]}, "'/env/0'"),
        ({"configuration": ""}, "'/configuration'"),
        ({"existing": {"tls": ""}}, "'/existing/tls'"),
        ({"autoscaling": {"minReplicas": 7}}, "autoscaling: minReplicas is more than maxReplicas"),
        ({"autoscaling": {"minReplicas": 0}}, "'/autoscaling/minReplicas'"),
        ({"autoscaling": {"maxReplicas": 0, "minReplicas": 0}}, "'/autoscaling/maxReplicas'"),
        ({"resources": None}, "missing property 'resources'"),
        ({"resources": {"requests": None}}, "missing property 'requests'"),
        ({"resources": {"requests": {"cpu": None}}}, "missing property 'cpu'"),
        ({"resources": {"requests": {"cpu": 0}}}, "'/resources/requests/cpu'"),
        ({"terminationGracePeriodSeconds": 39}, "terminationGracePeriodSeconds: with the configuration's"),
        ({"configuration": "drain_seconds: 30.5\n"}, "drain_seconds it needs 45.5"),
        ({"networkPolicy": {"egress": [None]}}, "'/networkPolicy/egress/0'"),
        ({"serviceMonitor": {"labels": {"release": 1}}}, "'/serviceMonitor/labels/release'"),
    ],
)
def test_values_that_could_not_work_are_refused(values: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(json.dumps(values))

    done = helm("template", NAME, str(CHART), "--values", str(tmp_path / "values.yaml"))

    assert done.returncode != 0
    assert told in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "values",
    [
        {"terminationGracePeriodSeconds": 40},
        {"configuration": "drain_seconds: 0\n", "terminationGracePeriodSeconds": 15},
        {"configuration": "drain_seconds: 30\n"},
        {"configuration": "listen: {}\n", "terminationGracePeriodSeconds": 40},
        {"image": {"tag": "", "digest": f"sha256:{'0' * 64}"}},
        {"autoscaling": {"minReplicas": 6}},
        {"resources": {"limits": None, "requests": {"cpu": 1}}},
    ],
)
def test_values_that_only_just_work_are_taken(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(json.dumps(values))

    assert made("--values", str(tmp_path / "values.yaml")).keys() == json.loads(by_default()).keys()


def test_another_chart_can_have_it_among_its_own(tmp_path: Path) -> None:
    parent = {"apiVersion": "v2", "name": "parent", "version": "0.1.0"}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent))
    shutil.copytree(CHART, tmp_path / "charts" / NAME)
    (tmp_path / "values.yaml").write_text(
        yaml.safe_dump({"global": {"registry": "registry.example"}, NAME: {"autoscaling": {"maxReplicas": 9}}})
    )

    done = helm("template", "parent", str(tmp_path), "--namespace", NAME, "--kube-version", VERSION)

    assert done.stderr == ""
    expected = json.loads(by_default())
    expected["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] = 9
    assert {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)} == expected


def test_an_overlay_that_lacks_a_part_makes_no_chart() -> None:
    manifests = [one for one in rendered(ROOT / "overlays" / "shared") if one["kind"] != "HorizontalPodAutoscaler"]

    with pytest.raises(ValueError, match=r"autoscaling\.maxReplicas"):
        chart(manifests, "0.1.0")


def test_text_that_helm_would_take_for_its_own_makes_no_chart() -> None:
    manifests = rendered(ROOT / "overlays" / "shared")
    manifests[0]["metadata"]["annotations"] = {"note": "{{ .Values }}"}

    with pytest.raises(ValueError, match="Helm"):
        chart(manifests, "0.1.0")
