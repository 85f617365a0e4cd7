"""The reference of the callers' API at the operators' listener: the document, and the page made from it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from jsonschema import ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.http.api import _tasks
from gateway.openapi import document, document_json
from gateway.openapi.failures import EXPLANATIONS, TABLE
from tests.described import conform
from tests.harness import Farm, Harness

IDENTIFIER = "Zk3v0pTqR8mYc1xWn5LdAg"


@pytest.fixture
async def gateway(farm: Farm) -> Harness:
    return await farm.gateway(await farm.simulator())


class Elements(HTMLParser):
    """The elements of a page, as pairs of a name and its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


async def test_the_document_is_openapi_and_is_what_operators_get(gateway: Harness) -> None:
    answer = await gateway.operators("/openapi.json")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body == document_json()
    assert answer.json["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(answer.json).validate()


async def test_callers_do_not_get_it(gateway: Harness) -> None:
    for path in ("/openapi.json", "/docs"):
        assert (await gateway.request("GET", path)).status == 404


def test_it_has_every_route_with_every_method_and_no_other() -> None:
    described = {path: {method.upper() for method in item if method != "parameters"} for path, item in paths().items()}

    found = {}
    for path in described:
        tasks = _tasks(path.replace("{id}", IDENTIFIER))
        assert tasks is not None
        found[tasks[0]] = set(tasks[2])
    assert found == described
    assert set(found) == {"/dial", "/dial/{id}", "/dial/{id}/events", "/dial/support"}


def paths() -> dict[str, dict[str, object]]:
    described: dict[str, dict[str, object]] = document()["paths"]
    return described


def test_every_problem_is_explained_and_no_other() -> None:
    assert set(EXPLANATIONS) == {(kind.code, kind.outcome.value) for kind in TABLE}


async def test_the_page_shows_every_operation_and_every_problem(gateway: Harness) -> None:
    answer = await gateway.operators("/docs")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    identifiers = {attributes.get("id") for _, attributes in Elements(answer.body.decode()).found}
    operations = {
        operation["operationId"]
        for item in document()["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    }
    assert len(operations) == 5
    assert operations <= identifiers
    for kind in TABLE:
        assert f"<code>{kind.code}</code>" in answer.body.decode()
    # No mark of the document's own prose is left as it was written there.
    assert not re.search(r"`|\*\*", answer.body.decode())


async def test_the_page_loads_nothing_and_runs_nothing(gateway: Harness) -> None:
    answer = await gateway.operators("/docs")

    page = answer.body.decode()
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    elements = Elements(page).found
    assert not {tag for tag, _ in elements} & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name in {"style", "src"}]


async def test_each_link_of_the_page_leads_somewhere(gateway: Harness) -> None:
    elements = Elements((await gateway.operators("/docs")).body.decode()).found

    targets = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(targets) == len(set(targets))
    links = {attributes["href"] for _, attributes in elements if "href" in attributes}
    assert links <= {f"#{name}" for name in targets} | {"openapi.json"}
    assert "openapi.json" in links


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (299, {}, b"{}"),
        (200, {}, b"{}"),
        (200, {"X-Request-ID": "1", "Cache-Control": "no-store", "Content-Type": "text/plain"}, b""),
        (200, {"X-Request-ID": "1", "Cache-Control": "no-store", "Content-Type": "application/json"}, b"{}"),
        (204, {"X-Request-ID": "1", "Cache-Control": "no-store", "Server": "x"}, b""),
    ],
)
def test_an_answer_that_is_not_in_the_document_would_be_noticed(
    status: int, fields: dict[str, str], body: bytes
) -> None:
    with pytest.raises((AssertionError, ValidationError)):
        conform("GET", f"/dial/{IDENTIFIER}", status, fields, body)
