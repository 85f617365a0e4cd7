"""Whether an answer is one that the OpenAPI document has.

Owns the comparison, which the harness makes with every answer that a test gets. Refuses to know the gateway: it reads
the document as a stranger would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jsonschema
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from gateway.openapi import document

_URI: Final = "urn:openapi"
_WORDS: Final = re.compile(r"\{[a-z]+\}")


def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of the document, or what it refers to."""
    while "$ref" in part:
        found: Any = document()
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def absolute(part: Any) -> Any:
    """A part of the document whose references hold wherever it is put."""
    if isinstance(part, dict):
        return {
            name: _URI + value if name == "$ref" and value.startswith("#") else absolute(value)
            for name, value in part.items()
        }
    return [absolute(item) for item in part] if isinstance(part, list) else part


def validator(schema: Any) -> jsonschema.Draft202012Validator:
    """A validator of a schema of the document."""
    resource = DRAFT202012.create_resource(absolute(document()))
    registry: Registry[Any] = Registry().with_resource(_URI, resource)
    return jsonschema.Draft202012Validator(absolute(schema), registry=registry)


def route_of(target: str) -> str | None:
    """The path of the document that a target belongs to; the first that fits, as the more special come first."""
    path = target.partition("?")[0]
    return next((known for known in document()["paths"] if re.fullmatch(_WORDS.sub("[^/]+", known), path)), None)


@cache
def _answer(route: str, method: str, status: int) -> Mapping[str, Any] | None:
    responses = document()["paths"][route][method]["responses"]
    found = responses.get(str(status)) or responses.get(f"{status // 100}XX")
    return None if found is None else resolved(found)


@cache
def _validator(route: str, method: str, status: int, media_type: str) -> jsonschema.Draft202012Validator:
    answer = _answer(route, method, status)
    assert answer is not None
    return validator(answer["content"][media_type]["schema"])


@cache
def _field(route: str, method: str, status: int, name: str) -> tuple[bool, jsonschema.Draft202012Validator, bool]:
    answer = _answer(route, method, status)
    assert answer is not None
    field = resolved(answer["headers"][name])
    return field.get("required", False), validator(field["schema"]), field["schema"]["type"] == "integer"


def conform(method: str, target: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Fails if the document has no such answer to such a request; what it has no route or method for, it can't say."""
    route, method = route_of(target), method.lower()
    if route is None or method not in document()["paths"][route]:
        return
    where = f"{method} {route} {status}"
    answer = _answer(route, method, status)
    assert answer is not None, f"{where} is not in the OpenAPI document"
    for name in answer["headers"]:
        required, valid, numeric = _field(route, method, status, name)
        value: Any = headers.get(name)
        assert value is not None or not required, f"{where} has no {name}"
        if value is not None:
            valid.validate(int(value) if numeric else value)
    # What HTTP itself has, and what the document must not name as an answer's own (OpenAPI 3.1, 4.8.17).
    unnamed = set(map(str.lower, headers)) - {name.lower() for name in answer["headers"]}
    assert unnamed <= {"content-type", "content-length", "transfer-encoding", "date", "connection"}, (where, unnamed)
    media_type = headers.get("Content-Type", "").partition(";")[0]
    assert media_type in answer.get("content", {"": None}), f"{where} is {media_type}"
    if media_type.endswith("json"):
        _validator(route, method, status, media_type).validate(json.loads(body))
