"""What the README says of Kubernetes, done as a reader would: its commands make all that the manifests need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.simulator import Certificates
from tests.conftest import need
from tests.deploy.enumerations import misspelled
from tests.deploy.gateways import gateways
from tests.deploy.manifests import ROOT, Manifest, containers, disagreements, rendered, sources
from tests.deploy.overlays import CUSTOM, OVERLAYS, of_kind, overlay, workload
from tests.deploy.soundness import unsound
from tests.harness import KEY, digest

README = ROOT.parents[1] / "README.md"


BLOCKS = re.findall(r"^```sh kubernetes\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
# What a reader changes in each file, and into what.
MINE = {
    "gateway.yaml": [("10.10.10.", "192.0.2."), ("sha256:" + "0" * 64, digest(KEY))],
    "network-policy.yaml": [("10.10.10.0/24", "192.0.2.0/24")],
    "kustomization.yaml": [("    newTag: 0.1.0", f"    newName: mine.example/dial\n    digest: sha256:{'1' * 64}")],
}


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """Where somebody reads the README, with nothing but its tree and the copy that it tells to make."""
    (tmp_path / "deploy").symlink_to(ROOT.parent)
    (copying,) = (block for block in BLOCKS if block.startswith("cp "))
    subprocess.run(["sh", "-ec", copying], cwd=tmp_path, timeout=30, check=True)
    return tmp_path


def changed(directory: Path) -> Path:
    """An overlay with the addresses, the key and the image of a reader."""
    for name, pairs in MINE.items():
        text = (directory / name).read_text()
        for old, new in pairs:
            assert old in text, f"{name}: {old}"
            text = text.replace(old, new)
        (directory / name).write_text(text)
    return directory


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_copy_has_all_that_a_reader_is_to_change_and_takes_it(name: str, reader: Path) -> None:
    manifests = rendered(changed(reader / "mine" / "overlays" / name))

    # Of the ones that they stand in the place of nothing is left.
    text = yaml.safe_dump_all(manifests)
    assert "10.10.10." not in text
    assert "dial-gateway:0.1.0" not in text
    (written,) = (one["data"]["gateway.yaml"] for one in manifests if "gateway.yaml" in one.get("data", {}))
    configured = yaml.safe_load(written)
    assert configured["upstream"]["endpoints"] == ["https://192.0.2.2:18446", "https://192.0.2.3:18446"]
    assert configured["services"]["application"]["credentials"] == [{"api_key": digest(KEY)}]
    assert {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}.items() <= of_kind(manifests, "NetworkPolicy")["spec"][
        "egress"
    ][0].items()
    pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    assert {container["image"] for container in containers(pod)} == {f"mine.example/dial@sha256:{'1' * 64}"}
    # Its policies let through what its configuration names.
    assert [*disagreements(manifests), *misspelled(manifests), *unsound(manifests)] == []


def test_an_application_in_the_place_of_the_examples_is_watched_and_has_its_policy(reader: Path) -> None:
    example = changed(reader / "mine" / "overlays" / "example")
    (example / "application.yaml").write_text(yaml.safe_dump(workload("StatefulSet")))

    manifests = rendered(example)

    assert is_like_the_example(manifests, "StatefulSet")


def test_an_application_beside_the_example_is_watched_and_has_its_policy(reader: Path) -> None:
    example = changed(reader / "mine" / "overlays" / "example")
    (told,) = re.findall(r"^An application of yours takes .*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL)
    _, copied, from_it = re.split(r"with copies of|kustomization.yaml`", told)
    parts, resources = from_it.split("and of its")
    own = example.parent / "own"
    own.mkdir()
    for name in re.findall(r"`([^`]+\.yaml)`", copied):
        shutil.copy(example / name, own)
    whole = yaml.safe_load((example / "kustomization.yaml").read_text())
    named = [one for one in re.findall(r"`([^`\s]+)`", resources) if one in whole["resources"]]
    assert "`configMapGenerator` (the one of\n`gateway.yaml`)" in parts
    del whole["configMapGenerator"][1]
    kustomization = {name: value for name, value in whole.items() if f"`{name}`" in parts}
    (own / "application.yaml").write_text(yaml.safe_dump(workload("CronJob")))
    (own / "kustomization.yaml").write_text(
        yaml.safe_dump(kustomization | {"resources": ["application.yaml", *named], "namespace": "own"})
    )

    assert is_like_the_example(rendered(own), "CronJob")


def is_like_the_example(manifests: Sequence[Manifest], kind: str) -> bool:
    """Whether a workload of this kind has what the example's application has: a gateway, a monitor and a policy."""
    assert [*disagreements(list(manifests)), *misspelled(manifests), *unsound(manifests)] == []
    assert {"NetworkPolicy", "PodMonitor", "ConfigMap", kind} <= {manifest["kind"] for manifest in manifests}
    (gateway,) = gateways(manifests)
    policy = of_kind(manifests, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= gateway.labels.items()
    return bool(gateway.workload["kind"] == kind and gateway.container["image"].startswith("mine.example/dial@"))


def test_the_ports_of_a_sidecar_are_changed_where_it_says(reader: Path) -> None:
    (told,) = re.findall(r"^The gateway takes two ports .*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL)
    _, first, second = re.split(r"change 8080|; 9090", told)
    example = changed(reader / "mine" / "overlays" / "example")
    for old, new, names in (("8080", "8088", first), ("9090", "9099", second)):
        for name in re.findall(r"`([^`]+\.yaml)`", names):
            path = example.parents[1] / name if "/" in name else example / name
            text = path.read_text()
            assert old in text, name
            path.write_text(text.replace(old, new))

    manifests = rendered(example)

    assert not re.search("8080|9090", yaml.safe_dump_all(manifests))
    assert [*disagreements(manifests), *unsound(manifests)] == []
    (gateway,) = gateways(manifests)
    assert (gateway.admin, gateway.listening) == (9099, {9099})


def test_a_sidecar_is_given_the_variables_of_traces_and_a_way_to_their_collector(reader: Path) -> None:
    patch, rule = re.findall(r"^```yaml kubernetes\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    example = changed(reader / "mine" / "overlays" / "example")
    before = rendered(example)
    for name, more in (("kustomization.yaml", patch), ("network-policy.yaml", rule)):
        with (example / name).open("a") as file:
            file.write(more)

    manifests = rendered(example)

    (gateway,) = gateways(manifests)
    (variable,) = gateway.container.pop("env")
    assert variable["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT"
    collector = urlsplit(variable["value"])
    way = of_kind(manifests, "NetworkPolicy")["spec"]["egress"].pop()
    assert way["ports"] == [{"port": collector.port, "protocol": "TCP"}]
    assert [*way["to"][0]["namespaceSelector"]["matchLabels"].values()] == [str(collector.hostname).split(".")[1]]
    assert manifests == before


def test_the_key_is_made_by_the_command_that_it_gives(reader: Path) -> None:
    (block,) = (block for block in BLOCKS if block.startswith("dial-gateway key"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    done = subprocess.run(
        ["sh", "-ec", block], cwd=reader, env={"PATH": path}, capture_output=True, text=True, timeout=30, check=True
    )

    (key,) = (reader / "key").read_text().splitlines()
    assert done.stdout.splitlines() == [digest(key)]


def test_the_commands_of_the_runbook_find_the_gateway_that_shared_makes() -> None:
    runbook = (ROOT.parent / "runbook.md").read_text()
    (block,) = re.findall(r"^```sh\n(.*?)^```$", runbook, re.MULTILINE | re.DOTALL)
    ran, forwarded, address = block.replace("\\\n", "").splitlines()

    (gateway,) = gateways(overlay("shared"))

    named = gateway.workload["metadata"]
    where = f"-n {named['namespace']}"
    assert ran.startswith(f"kubectl {where} exec deploy/{named['name']} -c {gateway.container['name']} -- ")
    assert gateway.container["args"][1:] == ran.split()[-2:]
    assert "doctor --no-apply" in ran
    assert forwarded == f"kubectl {where} port-forward deploy/{named['name']} {gateway.admin} &"
    assert address == f"OPERATORS=http://127.0.0.1:{gateway.admin}"
    # Beside a gateway that runs there is no other way to run it.
    assert len(re.findall("`dial-gateway doctor", runbook)) == len(
        re.findall("`dial-gateway doctor --no-apply", runbook)
    )


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_alone_is_no_copy_unless_it_refers_to_nothing(name: str, tmp_path: Path) -> None:
    """Why all of it is to be copied."""
    shutil.copytree(ROOT / "overlays" / name, tmp_path / name)

    done = subprocess.run(
        [need("kubectl"), "kustomize", str(tmp_path / name)], capture_output=True, timeout=30, check=False
    )

    assert (done.returncode != 0) == ("../../" in (ROOT / "overlays" / name / "kustomization.yaml").read_text())


@pytest.mark.parametrize(("name", "line"), [("example", "../../base"), ("shared", "service-monitor.yaml")])
def test_a_monitor_is_left_out_with_its_line(name: str, line: str, reader: Path) -> None:
    assert f"`{line}` (`{name}`)" in README.read_text()
    path = reader / "mine" / "overlays" / name / "kustomization.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(one for one in lines if not one.startswith(f"  - {line} ")))

    manifests = rendered(path.parent)

    assert [one for one in overlay(name) if one["kind"] not in CUSTOM] == manifests


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_commands_of_the_readme_make_what_an_overlay_needs(
    name: str, reader: Path, certificates: Certificates
) -> None:
    (block,) = (block for block in BLOCKS if f"overlays/{name}\n" in block)
    for file in ("nslb-ca.pem", "redis-ca.pem", "app-key", "app-secret", "redis-password", "encryption-key", "key"):
        (reader / file).write_text(file)
    pair = certificates.issue("shared")
    shutil.copy(pair.certificate, reader / "tls.crt")
    shutil.copy(pair.key, reader / "tls.key")
    # There is no cluster: what would be sent to it is printed.
    command = reader / "bin" / "kubectl"
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
        cwd=reader,
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
