"""The README's tables and the code, compared both ways: neither has what the other lacks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway import problems
from gateway.auth import credentials
from gateway.cli import _parser
from gateway.config import json_schema
from gateway.config.schema import _DEFAULT_RESULTS
from gateway.model import Medium, Operation, Outcome
from gateway.openapi.failures import EXPLANATIONS
from gateway.problems import ProblemType
from gateway.telemetry import Metrics
from gateway.telemetry.logs import FIELDS, LEVELS

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES: Final = {
    path.relative_to(ROOT / "gateway").as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "gateway").rglob("*.py")
    if "simulator" not in path.parts
}
Row = dict[str, str]


def table(*heading: str) -> list[Row]:
    """The rows of the one table of the README whose columns begin with these."""
    found: list[list[Row]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", README, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        if tuple(head[: len(heading)]) == heading:
            found.append([dict(zip(head, row, strict=True)) for row in rows])
    assert len(found) == 1, heading
    return found[0]


def coded(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


@dataclass(frozen=True)
class Key:
    """A key of the configuration, as the schema has it."""

    path: str
    schema: dict[str, Any]
    required: bool


def keys_of(schema: dict[str, Any], path: str = "", *, required: bool = False) -> Iterator[Key]:
    """All keys that have a value of their own; `*` stands for a name."""
    schema = resolved(schema)
    if "properties" in schema and not is_secret(schema):
        for name, inner in schema["properties"].items():
            yield from keys_of(inner, f"{path}.{name}".removeprefix("."), required=name in schema.get("required", ()))
    elif "patternProperties" in schema:
        (inner,) = schema["patternProperties"].values()
        yield from keys_of(inner, f"{path}.*")
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from keys_of(schema["additionalProperties"], f"{path}.*")
    elif "$ref" in schema.get("items", {}) and "properties" in resolved(schema["items"]):
        yield from keys_of(schema["items"], f"{path}[]")
    else:
        yield Key(path, schema, required)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without a reference at its top, or the one alternative that is not null."""
    if "$ref" in schema:
        return {**SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], **schema, "$ref": None}
    if "anyOf" in schema:
        (only,) = (alternative for alternative in schema["anyOf"] if alternative.get("type") != "null")
        return {**resolved(only), **{name: value for name, value in schema.items() if name != "anyOf"}}
    return schema


def is_secret(schema: dict[str, Any]) -> bool:
    return set(schema["properties"]) == {"file", "env"}


SCHEMA: Final[dict[str, Any]] = json_schema()
KEYS: Final = {key.path: key for key in keys_of(SCHEMA)}
DOCUMENTED_KEYS: Final = {
    re.sub(r"\b[A-Z]+\b", "*", path): row for row in table("key", "type, unit") for path in coded(row["key"])
}


def test_every_key_of_the_configuration_is_documented_and_no_other() -> None:
    assert DOCUMENTED_KEYS.keys() == KEYS.keys()


@pytest.mark.parametrize("path", sorted(KEYS))
def test_a_key_has_the_documented_default_and_bounds(path: str) -> None:
    key, row = KEYS[path], DOCUMENTED_KEYS[path]

    if key.required:
        assert row["default"].startswith("required")
    elif row["default"] == "none":
        assert key.schema["default"] is None
    else:
        (shown,) = coded(row["default"])
        assert yaml.safe_load(shown) == key.schema["default"]
    if key.schema.get("type") == "integer":
        bounds = [int(number) for number in re.findall(r"\d+", row["type, unit"])]
        assert bounds == [key.schema["minimum"], key.schema["maximum"]]
    if key.schema.get("type") == "array" and "maxItems" in key.schema:
        assert f"{key.schema['minItems']} to {key.schema['maxItems']}" in row["type, unit"]
    if key.schema.get("type") == "number":
        assert row["type, unit"] == "seconds"
    values = key.schema.get("enum") or resolved(key.schema.get("items", {})).get("enum")
    if values:
        assert set(values) == set(coded(row["type, unit"].replace("list of", "")))


def test_the_default_result_codes_are_documented() -> None:
    (default,) = (
        yaml.safe_load(block)
        for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
        if "result_codes" in block
    )
    from gateway.config.schema import _DEFAULT_RESULTS  # noqa: PLC0415 - what no document is made from

    assert default["upstream"]["result_codes"] == {
        str(operation): {code: mapping.model_dump() for code, mapping in mappings.items()}
        for operation, mappings in _DEFAULT_RESULTS.items()
    }


def problem_types() -> set[tuple[int, str, str, int | None]]:
    fixed = [value for value in vars(problems).values() if isinstance(value, ProblemType)]
    mapped = [
        problems.rejection(mapping.code, mapping.status)
        for mappings in _DEFAULT_RESULTS.values()
        for mapping in mappings.values()
    ]
    return {(kind.status, kind.code, kind.outcome.value, kind.retry_after) for kind in fixed + mapped}


def test_every_problem_is_documented_with_its_status_outcome_and_what_to_do() -> None:
    rows = table("status", "code", "outcome")

    assert problem_types() == {
        (int(row["status"]), *coded(row["code"]), *coded(row["outcome"]), int(row["`Retry-After`"] or 0) or None)
        for row in rows
    }
    # The reference that operators get says the same of each.
    assert {
        (*coded(row["code"]), *coded(row["outcome"])): (row["when"], row["what the caller should do"]) for row in rows
    } == EXPLANATIONS


def test_nothing_is_called_safe_to_send_again_that_is_not() -> None:
    for row in table("status", "code", "outcome"):
        if coded(row["outcome"]) == ["unknown"]:
            assert row["what the caller should do"].startswith("don't send it again"), row
        else:
            assert "don't" not in row["what the caller should do"], row


def test_every_outcome_is_documented() -> None:
    assert [value for row in table("outcome", "what happened") for value in coded(row["outcome"])] == list(Outcome)


def families() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of every metric, by the name that is scraped (without the endings of a histogram's series)."""
    metrics = Metrics("0")
    metrics.request("billing", "create", "ok", Outcome.ACCEPTED, 1.0, "0af7")
    metrics.upstream_request("https://nslb.example:1", "sales", "create", Outcome.ACCEPTED, "0", 1.0, "0af7")
    metrics.entered("create")
    metrics.authentication("api_key", "accepted")
    metrics.rejected("billing", "overload")
    metrics.connections("https://nslb.example:1", 1, 1)
    metrics.certificates_expire({"upstream": 1.0})
    metrics.reloaded("success")
    metrics.token_expires("sales", 1.0)
    metrics.token_refreshed("sales", "early", "success", 1.0)
    metrics.idempotency("new")
    metrics.store_available(available=True)
    metrics.store_operation("read", "success", 1.0)
    found = {}
    for family in metrics.registry.collect():
        assert family.samples, family.name
        kind = "gauge" if family.type == "info" else family.type
        ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found[family.name + ending] = (kind, frozenset(family.samples[0].labels) - {"le"})
    return found


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other() -> None:
    documented: dict[str, tuple[str, frozenset[str]]] = {}
    for row in table("metric", "type"):
        names = coded(row["metric"])
        first, _, others = row["type"].partition(", then ")
        kinds = [first] + [others.removesuffix("s")] * (len(names) - 1)
        for name, kind in zip(names, kinds, strict=True):
            documented[name] = (kind, frozenset(coded(row["labels"])))

    assert documented == families()


def test_every_label_is_documented_with_its_values() -> None:
    documented: dict[str, set[str]] = {}
    for row in table("label", "values"):
        values = set(coded(row["values"]))
        for name in coded(row["label"]):
            if not name.startswith("gateway_"):
                documented.setdefault(name, set()).update(values)

    assert documented.keys() == {label for _, labels in families().values() for label in labels}
    assert documented["outcome"] == set(Outcome)
    assert documented["state"] == {"idle", "busy"}
    assert set(credentials.Absence) <= documented["result"]
    words = re.compile(r'"([a-z_]+)"')
    identified = re.findall(r"return (?:None|key\.principal|[a-z.]+), (.*)", SOURCES["auth/api_key.py"])
    assert set(words.findall(" ".join(identified))) <= documented["result"]
    assert set(re.findall(r'record\.rejected = "([a-z]+)"', SOURCES["http/api.py"])) == documented["reason"]


def test_every_field_of_the_log_is_documented_and_no_other() -> None:
    assert {name for row in table("field", "meaning") for name in coded(row["field"])} == FIELDS


def test_every_level_of_the_log_is_documented() -> None:
    (row,) = (row for row in table("field", "meaning") if coded(row["field"]) == ["level"])

    assert set(coded(row["meaning"])) == LEVELS.keys()


def test_every_event_of_the_log_is_documented_and_no_other() -> None:
    written = {
        event
        for source in SOURCES.values()
        for event in re.findall(
            r'"((?:request|gateway|config|log|internal|library|token|store)\.(?!yaml|tls)[a-z_]+)"', source
        )
    }

    rows = table("event", "level")
    assert {coded(row["event"])[0] for row in rows} == written
    assert {name for row in rows for name in coded(row[FIELDS_OF_EVENT])} <= FIELDS


FIELDS_OF_EVENT: Final = "fields beside `timestamp`, `level`, `event`"


def commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All commands that do something, by their words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, f"{prefix} {name}".strip())
            return
    yield prefix, parser


def arguments(parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """The positional arguments and the flags of a command, as the README shows them."""
    positionals, flags = [], []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = str(action.metavar or action.dest.upper())
        if not action.option_strings:
            positionals.append(name + ("…" if action.nargs == "+" else ""))
            continue
        shown = f"`{action.option_strings[0]}`" if action.nargs == 0 else f"`{action.option_strings[0]} {name}`"
        default = f" ({action.default})" if action.default not in {None, False} else ""
        flags.append(shown + default + " (required)" * action.required)
    return positionals, flags


def test_every_command_is_documented_with_its_arguments_and_no_other() -> None:
    expected = {}
    for words, parser in commands(_parser()):
        positionals, flags = arguments(parser)
        expected[" ".join([words, *positionals])] = ", ".join(flags)

    assert {coded(row["command"])[0]: row["flags"] for row in table("command", "flags")} == expected


def test_every_exit_code_is_documented() -> None:
    codes = set(re.findall(r"return (?:code|([0-9]+)(?: if .* else ([0-9]+))?)$", SOURCES["cli.py"], re.MULTILINE))
    (said,) = re.findall(r"^Exit codes: .*?\n\n", README, re.MULTILINE | re.DOTALL)
    documented = re.findall(r"`(\d+)`", said)

    assert documented == ["0", "1", "2", "130"]
    assert {code for pair in codes for code in pair if code} <= set(documented)


def test_every_route_of_the_operators_is_documented_and_no_other() -> None:
    routes = re.findall(r'add_get\("([^"]+)"', SOURCES["http/operators.py"])

    assert sorted(coded(row["path"])[0] for row in table("path", "answers")) == sorted(routes)


def test_media_and_operations_are_documented() -> None:
    assert set(coded(DOCUMENTED_KEYS["services.*.allow.media"]["type, unit"])) == set(Medium)
    assert set(coded(DOCUMENTED_KEYS["services.*.allow.operations"]["type, unit"])) == set(Operation)
