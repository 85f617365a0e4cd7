"""What the README says of Kubernetes, done as a reader would: its commands make all that the manifests need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.simulator import Certificates
from tests.conftest import need
from tests.deploy.enumerations import misspelled
from tests.deploy.manifests import ROOT, containers, disagreements, rendered, sources
from tests.deploy.overlays import CUSTOM, OVERLAYS, of_kind, overlay
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
