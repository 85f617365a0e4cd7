"""The reference page: the OpenAPI document as one page of HTML for people, with nothing to load.

Owns its order and its form, and the header fields that it is served with. Refuses scripts, and everything from
elsewhere: its style is in it, and the policy knows that style alone by its digest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from gateway.openapi.document import document
from gateway.openapi.markup import Html, element, join, paragraphs, prose, table
from gateway.openapi.parts import answer, code_block, curl, example_of, properties, resolved, type_of

Json = Mapping[str, Any]

STYLE: Final = files("gateway").joinpath("openapi", "page.css").read_text(encoding="utf-8")
_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
PAGE_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@cache
def page() -> bytes:
    """The page of the document that is served."""
    return rendered(document()).encode()


def rendered(described: Json) -> str:
    """The page of an OpenAPI document."""
    info = described["info"]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{info['title']} {info['version']}: API reference"),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("a", "To the operations", href="#operations", class_="skip"),
        _navigation(described),
        element(
            "main",
            _introduction(described),
            _authentication(described),
            element("h2", "Operations", id="operations"),
            *(_operation(described, *found) for found in operations(described)),
            _elsewhere(described),
            _problems(described),
            _schemas(described),
        ),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def operations(described: Json) -> Iterator[tuple[str, str, Json, Json]]:
    """Method, path, operation and the item of the path that it is in."""
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method, path, operation, item


def _method(method: str) -> Html:
    return element("span", method.upper(), class_=f"method {method}")


def _navigation(described: Json) -> Html:
    links = [
        element("li", element("a", _method(method), " ", element("span", path), href=f"#{operation['operationId']}"))
        for method, path, operation, _ in operations(described)
    ]
    others = [
        element("li", element("a", title, href=f"#{anchor}"))
        for title, anchor in (
            ("Authentication", "authentication"),
            ("Other paths and methods", "elsewhere"),
            ("Problems", "problems"),
            ("Schemas", "schemas"),
        )
    ]
    return element(
        "nav",
        element("p", element("a", described["info"]["title"], href="#top"), class_="brand"),
        element("ul", *links),
        element("ul", *others),
        element("p", element("a", "openapi.json", href="openapi.json")),
        aria_label="Contents",
    )


def _introduction(described: Json) -> Html:
    info = described["info"]
    return element(
        "header",
        element("h1", info["title"], " ", element("small", info["version"])),
        element("p", info["summary"], class_="summary"),
        paragraphs(info["description"]),
        id="top",
    )


def _authentication(described: Json) -> Html:
    rows = []
    for scheme in described["components"]["securitySchemes"].values():
        field = f"{scheme['name']}: KEY" if scheme["type"] == "apiKey" else "Authorization: Bearer KEY"
        rows.append([element("code", field), prose(scheme["description"])])
    return element("section", element("h2", "Authentication"), table(("one of", ""), rows), id="authentication")


def _operation(described: Json, method: str, path: str, operation: Json, item: Json) -> Html:
    parameters = [
        resolved(described, parameter) for parameter in [*item.get("parameters", ()), *operation.get("parameters", ())]
    ]
    answers = [
        answer(described, operation["operationId"], status, found) for status, found in operation["responses"].items()
    ]
    return element(
        "section",
        element("h3", _method(method), " ", element("code", path), " ", element("span", operation["summary"])),
        paragraphs(operation["description"]),
        element("h4", "Parameters"),
        _parameters(parameters),
        _body(described, operation),
        element("h4", "With curl"),
        code_block(curl(method, path, operation, parameters, described)),
        element("h4", "Answers"),
        *answers,
        id=operation["operationId"],
        class_="operation",
    )


def _parameters(parameters: list[Json]) -> Html:
    rows = [
        [
            join(element("code", parameter["name"]), _required(parameter)),
            parameter["in"],
            type_of(parameter["schema"]),
            prose(parameter["description"]),
            element("code", str(parameter["example"])),
        ]
        for parameter in parameters
    ]
    return table(("name", "in", "type", "meaning", "example"), rows)


def _required(described: Json) -> Html:
    return join(" ", element("small", "required", class_="required")) if described.get("required") else join()


def _body(described: Json, operation: Json) -> Html:
    body = operation.get("requestBody")
    if body is None:
        return join()
    media_type, content = next(iter(body["content"].items()))
    return join(
        element("h4", "Body"),
        element("p", element("code", media_type), " ", prose(body["description"])),
        properties(described, content["schema"]),
        *(
            join(element("p", example["summary"], class_="caption"), code_block(example_of(example["value"])))
            for example in content["examples"].values()
        ),
    )


def _elsewhere(described: Json) -> Html:
    responses = described["components"]["responses"]
    return element(
        "section",
        element("h2", "Other paths and methods"),
        element("p", "What is none of these routes, or none of their methods, is answered likewise."),
        answer(described, "elsewhere", "404", responses["NoSuchRoute"]),
        answer(described, "elsewhere", "405", responses["NoSuchMethod"]),
        id="elsewhere",
    )


def _problems(described: Json) -> Html:
    rows = []
    for name, schema in described["components"]["schemas"].items():
        code = schema.get("properties", {}).get("code", {}).get("const")
        if code is None:
            continue
        statuses = dict.fromkeys(str(example["status"]) for example in schema["examples"])
        outcomes = schema["properties"]["outcome"]["enum"]
        rows.append(
            [
                element("code", code, id=f"problem-{name}"),
                ", ".join(statuses),
                join(*(element("span", outcome, class_=f"outcome {outcome}") for outcome in outcomes)),
                prose(schema["description"]),
            ]
        )
    return element(
        "section",
        element("h2", "Problems"),
        element("p", prose(described["components"]["schemas"]["Problem"]["description"])),
        table(("code", "status", "outcome", "when, and what to do"), rows),
        element("h3", "Others"),
        element("p", prose(described["components"]["schemas"]["mapped"]["description"]), id="problem-mapped"),
        id="problems",
    )


def _schemas(described: Json) -> Html:
    shown = [
        element(
            "section",
            element("h3", name),
            element("p", prose(schema["description"])),
            properties(described, schema),
            id=f"schema-{name}",
        )
        for name, schema in described["components"]["schemas"].items()
        if schema.get("type") == "object"
    ]
    return element("section", element("h2", "Schemas"), *shown, id="schemas")
