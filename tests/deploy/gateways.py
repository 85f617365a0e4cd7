"""The gateways that manifests start: pod, container, and the configuration that is mounted into it.

Owns how they are found among manifests, what a gateway listens at, and what it connects to. Refuses to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from tests.deploy.manifests import Manifest, containers, template

NAME: Final = "dial-gateway"
_PORTS: Final = {"https": 443, "http": 80, "redis": 6379, "rediss": 6379}


@dataclass(frozen=True)
class Gateway:
    """A gateway, and the workload that it runs in."""

    workload: Manifest
    labels: dict[str, str]
    pod: Manifest
    container: Manifest
    configuration: Manifest

    @property
    def where(self) -> str:
        """What a fault of it begins with."""
        return f"{self.workload['kind']} {self.workload['metadata']['name']}"

    @property
    def sidecar(self) -> bool:
        """Whether it is beside an application."""
        return self.container in self.pod.get("initContainers", ())

    @property
    def admin(self) -> int:
        """The operators' port."""
        return int(self.configuration["admin"]["address"].rpartition(":")[2])

    @property
    def listening(self) -> set[int]:
        """The ports that are reached from outside of its pod."""
        address, _, port = self.configuration["listen"]["address"].rpartition(":")
        inside = address.startswith(("unix", "127.", "[::1]"))
        return {self.admin} if inside else {self.admin, int(port)}

    @property
    def drain_seconds(self) -> float:
        """For how long it finishes what is under way."""
        return float(self.configuration.get("drain_seconds", 25))

    def number(self, port: str | int) -> int | None:
        """The number of a port of its container, by its name or its number."""
        known = {one["name"]: one["containerPort"] for one in self.container.get("ports", ())}
        return port if isinstance(port, int) else known.get(port)

    def connects_to(self) -> set[tuple[str, int]]:
        """Host and port of each address that its configuration names."""
        return {
            (address.hostname or "", address.port or _PORTS[address.scheme])
            for text in _texts(self.configuration)
            if (address := urlsplit(text)).scheme in _PORTS
        }


def gateways(manifests: Sequence[Manifest]) -> Iterator[Gateway]:
    """Each gateway; `KeyError` for one without a configuration."""
    configured = {one["metadata"]["name"]: one["data"] for one in manifests if one["kind"] == "ConfigMap"}
    for manifest in manifests:
        found = template(manifest)
        if found is None:
            continue
        pod = found["spec"]
        for container in containers(pod):
            if container["name"] == NAME:
                (name,) = (volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == NAME)
                read = yaml.safe_load(configured[name]["gateway.yaml"])
                yield Gateway(manifest, found["metadata"]["labels"], pod, container, read)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        # An issuer is a name that looks like an address.
        value = [inner for name, inner in value.items() if name != "issuer"]
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value
