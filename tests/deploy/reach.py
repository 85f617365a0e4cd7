"""Who reaches whom: whether the network policies let through what the configuration and the monitors need, and no more.

Owns the rules of policies and monitors. Refuses to take a policy for one that it would be if it were spelled otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final

from tests.deploy.gateways import Gateway, gateways
from tests.deploy.manifests import Manifest, matches

_NAMESPACE: Final = "kubernetes.io/metadata.name"
# A machine's own credentials are here, in a cloud, and name servers at port 53.
_METADATA: Final = "169.254.169.254"
_NAME_SERVERS: Final = (
    {
        "namespaceSelector": {"matchLabels": {_NAMESPACE: "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    },
    {"ipBlock": {"cidr": "169.254.20.10/32"}},
    {"ipBlock": {"cidr": f"{_METADATA}/32"}},
)
_PROMETHEUS: Final = {"namespaceSelector": {"matchLabels": {_NAMESPACE: "monitoring"}}}


def unreachable(manifests: Sequence[Manifest]) -> Iterator[str]:
    """What a gateway, a caller or Prometheus could not reach, and what everybody could."""
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    for policy in policies:
        spec = policy["spec"]
        for way, peers in (("ingress", "from"), ("egress", "to")):
            if any(not rule.get(peers) or not rule.get("ports") for rule in spec.get(way, ())):
                yield f"{policy['metadata']['name']}: {way} has a rule for everybody or everything"
        if any(_gives_away(rule) for rule in spec.get("egress", ())):
            yield f"{policy['metadata']['name']}: egress lets through to the credentials of the machine"
    for gateway in gateways(manifests):
        yield from (f"{gateway.where}: {fault}" for fault in _unmonitored(gateway, manifests))
        if not policies:
            continue
        chosen = [one["spec"] for one in policies if matches(one["spec"]["podSelector"]["matchLabels"], gateway.labels)]
        for way, faults in (("Ingress", _shut_out), ("Egress", _shut_in)):
            rules = [rule for one in chosen if way in one.get("policyTypes", ()) for rule in one.get(way.lower(), ())]
            if not any(way in one.get("policyTypes", ()) for one in chosen):
                yield f"{gateway.where}: no policy of its {way}"
            yield from (f"{gateway.where}: {fault}" for fault in faults(gateway, rules, manifests))


def _shut_in(gateway: Gateway, rules: list[Manifest], _: Sequence[Manifest]) -> Iterator[str]:
    """Addresses of the configuration that it can't connect to."""
    addresses = gateway.connects_to()
    for host, port in sorted(addresses):
        if not any(_opens(rule, port, gateway) and any(_is_at(peer, host) for peer in rule["to"]) for rule in rules):
            yield f"it does not reach {host}:{port}"
    if any(not _is_number(host) for host, _ in addresses):
        for protocol in ("TCP", "UDP"):
            asked = [peer for rule in rules if _opens(rule, 53, gateway, protocol) for peer in rule["to"]]
            if not all(one in asked for one in _NAME_SERVERS):
                yield f"it does not reach name servers by {protocol}"


def _shut_out(gateway: Gateway, rules: list[Manifest], manifests: Sequence[Manifest]) -> Iterator[str]:
    """Ports of it that nobody may connect to, or not those that should."""
    for port in gateway.listening:
        peers = [peer for rule in rules if _opens(rule, port, gateway) for peer in rule["from"]]
        if not peers:
            yield f"nobody reaches its port {port}"
        elif port == gateway.admin and _monitors(manifests) and _PROMETHEUS not in peers:
            yield f"Prometheus does not reach its port {port}"


def _opens(rule: Manifest, number: int, gateway: Gateway, protocol: str = "TCP") -> bool:
    """Whether a rule is about a port; one by its name is the gateway's own."""
    return any(
        port.get("protocol", "TCP") == protocol
        and (start := gateway.number(port["port"])) is not None
        and start <= number <= port.get("endPort", start)
        for port in rule["ports"]
    )


def _gives_away(rule: Manifest) -> bool:
    """Whether more than name servers is reached where a cloud has a machine's credentials."""
    more = any(port.get("port") != 53 or "endPort" in port for port in rule.get("ports", ()))
    return more and any("ipBlock" in peer and _is_at(peer, _METADATA) for peer in rule.get("to", ()))


def _is_number(host: str) -> bool:
    return bool(re.fullmatch(r"[\d.]+|.*:.*", host))


def _is_at(peer: dict[str, Any], host: str) -> bool:
    """Whether a host is among those of a peer; of a name outside of the cluster nobody knows, so it is in any block."""
    block = peer.get("ipBlock")
    if _is_number(host):
        address = ip_address(host)
        return (
            block is not None
            and address in ip_network(block["cidr"])
            and not any(address in ip_network(one) for one in block.get("except", ()))
        )
    inside = re.fullmatch(r"[^.]+\.([^.]+)\.svc(\..*)?", host)
    if inside is None:
        return block is not None
    return bool(peer.get("namespaceSelector", {}).get("matchLabels") == {_NAMESPACE: inside[1]})


def _monitors(manifests: Sequence[Manifest]) -> list[tuple[Manifest, Manifest]]:
    """Each monitor with each of its endpoints."""
    return [
        (manifest, endpoint)
        for manifest in manifests
        for endpoint in manifest.get("spec", {}).get(
            {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}.get(manifest["kind"], ""), ()
        )
    ]


def job_of(monitor: Manifest, manifests: Sequence[Manifest], namespace: str) -> str:
    """The label `job` that the operator gives to what a monitor of a namespace finds there."""
    if monitor["kind"] == "PodMonitor":
        return f"{namespace}/{monitor['metadata']['name']}"
    (job,) = (
        service["metadata"]["name"]
        for service in manifests
        if service["kind"] == "Service"
        and matches(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    )
    labels = {"__meta_kubernetes_namespace": namespace}
    for endpoint in monitor["spec"]["endpoints"]:
        for rule in endpoint.get("relabelings", ()):
            if rule.get("action", "replace") == "replace" and rule["targetLabel"] == "job":
                source = ";".join(labels.get(label, "") for label in rule["sourceLabels"])
                found = re.fullmatch(rule.get("regex", "(.*)"), source)
                if found is not None:
                    job = found.expand(rule.get("replacement", "$1").replace("$", "\\"))
    return str(job)


def _unmonitored(gateway: Gateway, manifests: Sequence[Manifest]) -> Iterator[str]:
    """Monitors that would ask it for something else than its metrics."""
    targets = {
        port["name"]: port["targetPort"]
        for service in manifests
        if service["kind"] == "Service" and matches(service["spec"]["selector"], gateway.labels)
        for port in service["spec"]["ports"]
    }
    for monitor, endpoint in _monitors(manifests):
        port = endpoint["port"]
        asked = gateway.number(port if monitor["kind"] == "PodMonitor" else targets.get(port, ""))
        if asked != gateway.admin:
            yield f"{monitor['kind']}: {port} is not the operators' port"
        if (endpoint.get("scheme", "http"), endpoint.get("path", "/metrics")) != ("http", "/metrics"):
            yield f"{monitor['kind']}: there are no metrics at its path"
        if job_of(monitor, manifests, "one") == job_of(monitor, manifests, "other"):
            yield f"{monitor['kind']}: its job is the same in every namespace"
        if not re.fullmatch(r"[1-9]\d*(ms|s|m|h)", endpoint.get("interval", "30s")):
            yield f"{monitor['kind']}: {endpoint['interval']} is no time"
