"""From a file to a configuration, or to every fault that it has, each with its position.

Owns the faults: their order and their words. Refuses to repeat a value of the file
in a message, since any of them may be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config import positions
from gateway.config.files import open_to_read
from gateway.config.positions import Document
from gateway.config.schema import Configuration
from gateway.config.together import together, value_at
from gateway.config.tracing import tracing_faults

_NAME_SHOWN: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_KEY_LIKE: Final = re.compile(r"dgw_|(?=.*\d)(?:(?=.*[A-Z])[A-Za-z0-9_-]{24,}|[0-9A-Fa-f-]{24,})")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong; as text `file:line:column: path: what is wrong`."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ConfigurationError(Exception):
    """A configuration that can't be used: all of its faults, and the files to watch for a better one."""

    def __init__(self, faults: Iterable[Fault], files: Iterable[Path]) -> None:
        self.faults = tuple(sorted(set(faults)))
        self.files = frozenset(files)
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, all files that it was made from, and where its keys stand."""

    configuration: Configuration
    files: frozenset[Path]
    file: Path
    document: Document

    def fault(self, path: positions.Path, message: str) -> Fault:
        """A fault at a key of this configuration."""
        return _fault(str(self.file), self.document, path, message)


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Load a configuration file and everything that it names. Raises `ConfigurationError`."""
    name = str(path)
    try:
        with open_to_read(path) as file:
            content = file.read(positions.MOST_BYTES + 1)
    except OSError as exc:
        reason = f"the file can't be read: {exc.strerror or type(exc).__name__}"
        raise ConfigurationError([Fault(name, 1, 1, "", reason)], [path]) from None
    document = positions.read(content)
    faults = [Fault(name, line, column, _dotted(where), message) for (line, column), where, message in document.faults]
    if document.data is None and faults:
        raise ConfigurationError(faults, [path])
    directory, files = path.absolute().parent, {path}
    context = {"directory": directory, "files": files, "environ": environ}
    configuration = None
    unread = {where for _, where, _ in document.faults if where}
    try:
        configuration = Configuration.model_validate(document.data, context=context)
    except ValidationError as exc:
        faults += [
            _explained(name, document, error)
            for error in exc.errors(include_url=False, include_input=False)
            # A list whose every item is at fault is not empty, whatever is left of it.
            if error["type"] != "too_short" or not value_at(document.data, error["loc"])
            # What could not be read has been told, and stands for nothing.
            if error["loc"] not in unread
        ]
    faults += [Fault(name, 1, 1, "", message) for message in tracing_faults(environ)]
    said = {fault.path for fault in faults}
    for where, message in together(document.data, directory):
        fault = _fault(name, document, where, message)
        if fault.path not in said:
            faults.append(fault)
            said.add(fault.path)
    if faults or configuration is None:
        raise ConfigurationError(faults, files)
    return Loaded(configuration, frozenset(files), path, document)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the configuration."""
    schema = Configuration.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- words and positions


def _fault(file: str, document: Document, path: positions.Path, message: str) -> Fault:
    """A fault at the value of a path, or at the nearest thing around it that is there."""
    for length in range(len(path), -1, -1):
        if path[:length] in document.values:
            line, column = document.values[path[:length]]
            return Fault(file, line, column, _dotted(path), message)
    return Fault(file, 1, 1, _dotted(path), message)


def _explained(file: str, document: Document, error: ErrorDetails) -> Fault:
    path = tuple(part for part in error["loc"] if part != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        line, column = document.keys.get(path, (1, 1))
        return Fault(file, line, column, _dotted(path), _unknown(path))
    if error["loc"] and error["loc"][-1] == "[key]":
        line, column = document.keys.get(path, (1, 1))
        words = "the name is not well formed" if kind == "string_pattern_mismatch" else _words(kind, context)
        return Fault(file, line, column, _dotted(path), words)
    return _fault(file, document, path, _words(kind, context))


_WORDS: Final = {
    "missing": "is missing",
    "int_type": "must be a whole number, without quotes",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number, without quotes",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_too_long": "is too long",
    "too_long": "has too many items",
    "string_pattern_mismatch": "is not well formed",
}
_BOUNDS: Final = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _words(kind: str, context: Mapping[str, Any]) -> str:
    """An operator's words for a kind of fault; pydantic's own would name its types."""
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}".replace("'", "")
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]:g}"
    return _WORDS.get(kind, "can't be used")


def _unknown(path: positions.Path) -> str:
    known: set[str] = set()
    model: Any = Configuration
    for part in path[:-1]:
        model = _member(model, part)
    if isinstance(model, type) and issubclass(model, BaseModel):
        known = {field.alias or name for name, field in model.model_fields.items()}
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"unknown key; did you mean `{near[0]}`?" if near else "unknown key"


def _member(model: Any, part: str | int) -> Any:
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        annotation: Any = fields.get(str(part))
    else:
        annotation = model
    arguments = getattr(annotation, "__args__", ())
    models = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
    if models:
        return models[-1] if getattr(annotation, "__origin__", None) not in {dict, tuple} else annotation
    return annotation


def _dotted(path: positions.Path) -> str:
    """The path in dots; a key that looks like something secret is not repeated."""
    return ".".join(_shown(part) for part in path)


def _shown(part: str | int) -> str:
    text = str(part)
    return text if _NAME_SHOWN.fullmatch(text) and not _KEY_LIKE.match(text) else "…"
