"""What the reference page shows again and again: types, members, answers and requests.

Owns how a part of the OpenAPI document looks. Refuses to know which parts there are.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, Final

from gateway.openapi.markup import Html, element, join, prose, table

Json = Mapping[str, Any]

_MOST_UNFOLDED: Final = 2


def resolved(described: Json, part: Json) -> Json:
    """A part of the document, or what it refers to."""
    while "$ref" in part:
        found: Any = described
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def name_of(part: Json) -> str:
    """The name of what a part refers to."""
    name: str = part["$ref"].rpartition("/")[2]
    return name


def code_block(text: str) -> Html:
    """Some lines as they are."""
    return element("pre", element("code", text))


def example_of(value: object) -> str:
    """An example as it is sent: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def type_of(schema: Json) -> Html:
    """The type of a value, and what bounds it."""
    if "enum" in schema:
        return _words([json.dumps(value) for value in schema["enum"]])
    if "const" in schema:
        return _words([json.dumps(schema["const"])])
    types = schema.get("type", "any")
    bounds = [
        f"{word} {schema[name]}"
        for name, word in (("minimum", "from"), ("maximum", "to"), ("minItems", "at least"))
        if name in schema
    ]
    shown = " or ".join(types) if isinstance(types, list) else types
    pattern = element("code", schema["pattern"], class_="pattern") if "pattern" in schema else None
    return join(" ".join([shown, *bounds]), " " if pattern else None, pattern)


def _words(words: list[str]) -> Html:
    return join(*(part for word in words for part in (element("code", word), " ")))


def properties(described: Json, schema: Json) -> Html:
    """The members of an object, those of its lists' items below them."""
    schema = resolved(described, schema)
    return table(("member", "type", "meaning"), _members(schema, ""))


def _members(schema: Json, prefix: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for name, member in schema.get("properties", {}).items():
        required = element("small", "required", class_="required") if name in schema.get("required", ()) else None
        rows.append(
            [
                join(element("code", prefix + name), " " if required else None, required),
                type_of(member),
                prose(member.get("description", "")),
            ]
        )
        rows += _members(member.get("items", {}), f"{prefix}{name}[].")
    return rows


def answer(described: Json, operation: str, status: str, found: Json) -> Html:
    """An answer of an operation, folded up."""
    found = resolved(described, found)
    parts = [_content(described, media_type, content) for media_type, content in found.get("content", {}).items()]
    return element(
        "details",
        element(
            "summary",
            element("span", status, class_=f"status s{status[0]}"),
            " ",
            prose(found["description"]),
        ),
        _headers(described, found.get("headers", {})),
        *parts,
        _links(found.get("links", {})),
        id=f"{operation}-{status}",
        # What succeeds is what one comes for.
        open=status.startswith("2"),
    )


def _headers(described: Json, headers: Json) -> Html:
    rows = []
    for name, header in headers.items():
        field = resolved(described, header)
        always = element("small", "always", class_="required") if field.get("required") else None
        rows.append(
            [
                join(element("code", name), " " if always else None, always),
                type_of(field["schema"]),
                prose(field["description"]),
            ]
        )
    return table(("header field", "type", "meaning"), rows)


def _content(described: Json, media_type: str, content: Json) -> Html:
    schema = content["schema"]
    kinds = schema.get("anyOf", [schema])
    if all("$ref" in kind for kind in kinds) and media_type == "application/problem+json":
        what = element("ul", *(_problem(described, name_of(kind)) for kind in kinds), class_="codes")
    elif "$ref" in schema:
        name = name_of(schema)
        what = element(
            "p", element("a", name, href=f"#schema-{name}"), ": ", prose(resolved(described, schema)["description"])
        )
    else:
        what = element("p", prose(schema["description"]))
    examples = [
        join(
            element("p", example.get("summary", "Example"), class_="caption"),
            code_block(example_of(example["value"])),
        )
        for example in content["examples"].values()
    ]
    folded = element("details", element("summary", f"{len(examples)} examples"), *examples)
    if "x-stream" in content:
        examples.insert(0, join(element("p", "A stream", class_="caption"), code_block(content["x-stream"])))
    return join(
        element("p", element("code", media_type)), what, *(examples if len(examples) <= _MOST_UNFOLDED else [folded])
    )


def _problem(described: Json, name: str) -> Html:
    schema = described["components"]["schemas"][name]
    outcome = schema["properties"]["outcome"]
    outcomes = outcome.get("enum", [outcome.get("const")])
    shown = "another code, of the operator's" if name == "mapped" else name
    return element(
        "li",
        element("a", shown if name == "mapped" else element("code", shown), href=f"#problem-{name}"),
        *(part for word in outcomes for part in (" ", element("span", word, class_=f"outcome {word}"))),
    )


def _links(links: Json) -> Html:
    if not links:
        return join()
    items = [
        element(
            "li",
            element("a", link["operationId"], href=f"#{link['operationId']}"),
            ": ",
            prose(link["description"]),
        )
        for link in links.values()
    ]
    return join(element("p", "From here:", class_="caption"), element("ul", *items))


def curl(method: str, path: str, operation: Json, parameters: list[Json], described: Json) -> str:
    """A command that makes the request of an operation's examples."""
    base = next(iter(described["servers"][0]["variables"].values()))["default"]
    target = path
    fields = ["Authorization: Bearer $KEY"]
    for parameter in parameters:
        if parameter["in"] == "path":
            target = target.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        elif parameter["name"] == "Idempotency-Key":
            fields.append(f"{parameter['name']}: {parameter['example']}")
    parts = ["curl -sS" if method in {"get", "post"} else f"curl -sS -X {method.upper()}", f"{base}{target}"]
    parts += [f'-H "{field}"' for field in fields]
    if "requestBody" in operation:
        media_type, content = next(iter(operation["requestBody"]["content"].items()))
        body = json.dumps(next(iter(content["examples"].values()))["value"])
        parts += [f'-H "Content-Type: {media_type}"', f"-d {shlex.quote(body)}"]
    command = " \\\n    ".join([" ".join(parts[:2]), *parts[2:]])
    streams = "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    if not streams:
        return command
    return f'{command}\n\n# As a stream:\n{command.replace("-sS", "-sSN")} \\\n    -H "Accept: text/event-stream"'
