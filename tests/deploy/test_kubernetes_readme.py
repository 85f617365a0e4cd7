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
from tests.deploy.manifests import ROOT, containers, sources
from tests.deploy.overlays import OVERLAYS, of_kind, overlay

README = ROOT.parents[1] / "README.md"


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
