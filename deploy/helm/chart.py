"""The Helm chart `dial-gateway`, made of the kustomize overlay `shared`.

Owns which values a chart's user may set, where in the manifests they go, and the words that explain them. Refuses to
have a manifest or a default of its own: both are the overlay's, so that with its defaults the chart is the overlay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from gateway.config import json_schema

Manifest = dict[str, Any]
NAME: Final = "dial-gateway"

_POD: Final = "spec/template/spec"
_CONTAINER: Final = f"{_POD}/containers/{NAME}"
_IMAGE: Final = f"{_CONTAINER}/image"
# A changed configuration has another name in the overlay, which starts new pods; here an annotation does.
_ANNOTATIONS: Final = "spec/template/metadata/annotations"
# Each value: the kind of manifest that it is in, and the way to it there, where a name stands for the item that has it.
PARTS: Final = {
    "configuration": ("ConfigMap", "data/gateway.yaml"),
    "existing.secrets": ("Deployment", f"{_POD}/volumes/dial-gateway-secrets/secret/secretName"),
    "existing.tls": ("Deployment", f"{_POD}/volumes/dial-gateway-tls/secret/secretName"),
    "existing.authorities": ("Deployment", f"{_POD}/volumes/dial-gateway-ca/configMap/name"),
    "imagePullSecrets": ("Deployment", f"{_POD}/imagePullSecrets"),
    "env": ("Deployment", f"{_CONTAINER}/env"),
    "resources": ("Deployment", f"{_CONTAINER}/resources"),
    "terminationGracePeriodSeconds": ("Deployment", f"{_POD}/terminationGracePeriodSeconds"),
    "autoscaling.minReplicas": ("HorizontalPodAutoscaler", "spec/minReplicas"),
    "autoscaling.maxReplicas": ("HorizontalPodAutoscaler", "spec/maxReplicas"),
    "networkPolicy.ingress": ("NetworkPolicy", "spec/ingress"),
    "networkPolicy.egress": ("NetworkPolicy", "spec/egress"),
    "serviceMonitor.labels": ("ServiceMonitor", "metadata/labels"),
}
# Manifests that may be left out, by the value that says so.
OPTIONAL: Final = {"NetworkPolicy": "networkPolicy.enabled", "ServiceMonitor": "serviceMonitor.enabled"}
_ABOUT: Final = {
    "image": "Yours to build, from deploy/Dockerfile. A digest (sha256:...) takes the place of the tag.",
    "imagePullSecrets": "For a registry that asks who pulls: [{name: ...}].",
    "configuration": "The gateway's. Give yours as a file, which `dial-gateway check` takes:\n"
    "--set-file configuration=gateway.yaml",
    "existing": "What you make yourself: a Secret with the files that the configuration names below\n"
    "/var/run/secrets/dial-gateway, one of the type kubernetes.io/tls, and a ConfigMap of authorities.",
    "env": "Variables of the gateway's, as for traces:\n"
    '[{name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://collector.tracing.svc:4318"}]',
    "resources": "Measured: 60 MiB idle, and 70 KiB for each call that is followed.\n"
    "The autoscaler looks at a share of requests.cpu.",
    "terminationGracePeriodSeconds": "At least the 10 seconds in which clients learn that a pod goes,\n"
    "drain_seconds of the configuration, and five more.",
    "autoscaling": "How many gateways run.",
    "networkPolicy": "Who may connect to the gateways, and what they may connect to: NSLB and the API Fabric,\n"
    "Redis, name servers (at 169.254.169.254 a cloud gives a machine its credentials too: open nothing but 53 there).",
    "serviceMonitor": "Has the gateways watched; needs the Prometheus Operator. Its Prometheus may ask for\n"
    "labels; that of kube-prometheus-stack asks for `release`, with the name of its release.",
}
_ORDER: Final = (*_ABOUT,)
_TAGGED: Final = (
    '{{ with .Values.image }}{{ if .digest }}{{ printf "%s@%s" .repository .digest | toJson }}'
    '{{ else }}{{ printf "%s:%s" .repository .tag | toJson }}{{ end }}{{ end }}'
)
_SOME: Final = {"minLength": 1}
_NAMED: Final = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", **_SOME}}}
# What else must hold of a value than its type.
_BOUNDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "image.repository": _SOME,
    "image.tag": {"pattern": r"^(\w[\w.-]{0,127})?$"},
    "image.digest": {"pattern": "^(sha256:[0-9a-f]{64})?$"},
    "imagePullSecrets": {"items": {**_NAMED, "additionalProperties": False}},
    "configuration": _SOME,
    "existing.secrets": _SOME,
    "existing.tls": _SOME,
    "existing.authorities": _SOME,
    "env": {"items": _NAMED},
    "resources": {
        "required": ["requests"],
        "properties": {
            "requests": {
                "type": "object",
                "required": ["cpu"],
                "properties": {"cpu": {"type": ["string", "number"], "not": {"enum": ["", "0", 0]}}},
            }
        },
    },
    "autoscaling.minReplicas": {"minimum": 1},
    "autoscaling.maxReplicas": {"minimum": 1},
    "networkPolicy.ingress": {"items": {"type": "object"}},
    "networkPolicy.egress": {"items": {"type": "object"}},
    "serviceMonitor.labels": {"additionalProperties": {"type": "string"}},
}
_LAST_SECONDS: Final = 5  # what a gateway that has drained takes to be gone
# What no schema can see, because it is in the relation of two values.
_REFUSED: Final = """\
{{- if not (or .Values.image.tag .Values.image.digest) }}
{{- fail "image: it needs a tag or a digest" }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling: minReplicas is more than maxReplicas" }}
{{- end }}
{{- $drain := get (mergeOverwrite (dict "drain_seconds" @drain) (fromYaml .Values.configuration)) "drain_seconds" }}
{{- $needed := addf (float64 $drain) @rest }}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) $needed }}
{{- fail (printf "terminationGracePeriodSeconds: with the configuration's drain_seconds it needs %v" $needed) }}
{{- end }}
"""
_NOTES: Final = """\
The gateways are at https://dial-gateway.{{ .Release.Namespace }}.svc, for pods with the label `dial-gateway: caller`.

They start when the Secrets {{ .Values.existing.secrets }} and {{ .Values.existing.tls }} and the ConfigMap
{{ .Values.existing.authorities }} are in the namespace, which should enforce Pod Security's `restricted`.
"""


def chart(manifests: Sequence[Manifest], version: str) -> Mapping[str, str]:
    """The files of the chart by their paths in it, of an overlay as kustomize renders it."""
    values: dict[str, Any] = {}
    files = {}
    for manifest in _anywhere(manifests):
        kind = manifest["kind"]
        if kind == "Deployment":
            repository, _, tag = _replaced(manifest, _IMAGE, "@image").partition(":")
            values |= {"image.repository": repository, "image.tag": tag, "image.digest": ""}
            _replaced(manifest, _ANNOTATIONS, {"checksum/configuration": "@checksum"})
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            files["templates/refused.yaml"] = _refused(container["lifecycle"]["preStop"]["sleep"]["seconds"])
        if kind in OPTIONAL:
            values[OPTIONAL[kind]] = True
        for name, (of, path) in PARTS.items():
            if of == kind:
                values[name] = _replaced(manifest, path, f"@{name}")
        text = _template(manifest)
        if kind in OPTIONAL:
            text = f"{{{{- if .Values.{OPTIONAL[kind]} }}}}\n{text}{{{{- end }}}}\n"
        files[f"templates/{re.sub('(?<=[a-z])(?=[A-Z])', '-', kind).lower()}.yaml"] = text
    missing = PARTS.keys() - values.keys()
    if missing:
        raise ValueError(f"the overlay has no manifest for {', '.join(sorted(missing))}")
    tree = _tree(values)
    description = {
        "apiVersion": "v2",
        "name": NAME,
        "description": "Click-to-dial calls, and never two for one: gateways for many applications, on one Redis",
        "type": "application",
        "version": version,
        "appVersion": version,
        "kubeVersion": ">=1.30.0-0",  # the first whose pods may sleep before their end
    }
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(tree)}
    return {
        **files,
        "templates/NOTES.txt": _NOTES,
        "values.yaml": "".join(_explained(tree)).lstrip("\n"),
        "values.schema.json": json.dumps(schema, indent=2) + "\n",
        "Chart.yaml": yaml.safe_dump(description, sort_keys=False, width=120),
    }


def _anywhere(manifests: Sequence[Manifest]) -> Iterator[Manifest]:
    """The manifests without what is Helm's: the namespace, and kustomize's suffix of a ConfigMap's name."""
    text = yaml.safe_dump_all(manifests, sort_keys=False, width=1000)
    if "{{" in text:
        raise ValueError("a manifest has what Helm would take for its own")
    for manifest in yaml.safe_load_all(re.sub(rf"(?<=: ){NAME}-[a-z0-9]{{10}}$", NAME, text, flags=re.MULTILINE)):
        if manifest["kind"] != "Namespace":
            del manifest["metadata"]["namespace"]
            yield manifest


def _replaced(manifest: Manifest, path: str, by: object) -> Any:
    """Put something else where a path leads to; what was there before, None if there was nothing."""
    holder: Any = manifest
    *steps, last = path.split("/")
    for step in steps:
        holder = next(item for item in holder if item["name"] == step) if isinstance(holder, list) else holder[step]
    before = holder.get(last)
    holder[last] = by
    return before


def _template(manifest: Manifest) -> str:
    text = yaml.safe_dump(manifest, sort_keys=False, width=120)
    text = text.replace("'@image'", _TAGGED)
    text = text.replace("'@checksum'", "{{ .Values.configuration | sha256sum }}")
    # JSON is YAML, whatever the value is and however deep it stands.
    return re.sub(r"'@([\w.]+)'", r"{{ .Values.\1 | toJson }}", text)


def _refused(sleep: int) -> str:
    """The template that makes nothing, and refuses what does not go together; clients have the sleep to learn it."""
    drain = json_schema()["properties"]["drain_seconds"]["default"]
    return _REFUSED.replace("@drain", f"{drain:g}").replace("@rest", f"{sleep + _LAST_SECONDS}")


def _tree(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the parts of their names, in the order of what explains them."""
    tree: dict[str, Any] = {}
    for name, value in sorted(values.items(), key=lambda item: _ORDER.index(item[0].split(".")[0])):
        group, _, last = name.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[last] = value
    return tree


def _explained(tree: Mapping[str, Any]) -> Iterator[str]:
    """The lines of `values.yaml`."""
    for name, value in tree.items():
        yield "\n"
        yield from (f"# {line}\n" for line in _ABOUT[name].splitlines())
        if isinstance(value, str) and "\n" in value:
            yield f"{name}: |\n"
            yield from (f"  {line}" if line.strip() else line for line in value.splitlines(keepends=True))
        else:
            yield yaml.safe_dump({name: value}, sort_keys=False, width=120)


def _schema(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values that are known, so that a misspelled one, or one that was taken away, is refused."""
    whole = _closed(tree, "")
    # A chart that has this one among its own gives it what is for all of them.
    whole["properties"]["global"] = {"type": "object"}
    return whole


def _closed(tree: Mapping[str, Any], group: str) -> dict[str, Any]:
    properties = {}
    for name, value in tree.items():
        full = f"{group}{name}"
        if isinstance(value, dict) and full not in PARTS:
            properties[name] = _closed(value, f"{full}.")
        else:
            properties[name] = {**_typed(value), **_BOUNDS.get(full, {})}
    return {"type": "object", "additionalProperties": False, "required": [*tree], "properties": properties}


def _typed(value: object) -> dict[str, str]:
    return {"type": {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}[type(value)]}
