"""JSON Schemas that come with the data: is one usable, does a value fit it. Bounded work whatever schema and value are.

Patterns run in linear time, references leave the schema for nowhere, and a schema whose references multiply is refused
before it is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NoReturn

import jsonschema_rs

from core.data.parsing import finite, unfit

MAX_CHECKS = 10_000_000  # about 0.2 s
_MESSAGE_CHARS = 160
_KEPT_CHARS = 20_000  # larger schemas are compiled each time, so that what is kept stays small
_DESCENDING = {
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "unevaluatedItems",
    "contains",
}
_DATA = {"const", "enum", "default", "examples", "$defs", "definitions"}


def schema_fault(schema: dict[str, Any]) -> str | None:
    """Return why a schema cannot be used, None when it can."""
    compiled = _prepared(schema)
    return compiled if isinstance(compiled, str) else None


def value_fault(schema: dict[str, Any], value: object) -> str | None:
    """Return where a value does not fit a schema, None when it does; also says when the schema cannot be used."""
    return SchemaChecks().fault(schema, value)


class SchemaChecks:
    """The checks of one row: each schema is compiled once, and all together do bounded work."""

    def __init__(self) -> None:
        self._left = MAX_CHECKS
        self._compiled: dict[int, jsonschema_rs.Validator | str] = {}
        self._costs: dict[tuple[int, int], int] = {}

    def fault(self, schema: dict[str, Any], value: object) -> str | None:
        """Return where a value does not fit a schema, None when it does; schemas must live as long as this object."""
        if id(schema) not in self._compiled:
            self._compiled[id(schema)] = _prepared(schema)
        compiled = self._compiled[id(schema)]
        if isinstance(compiled, str):
            return compiled
        depth, nodes = _extent(value)
        place = (id(schema), depth)
        if place not in self._costs:
            self._costs[place] = _checks(schema, depth)
        self._left -= self._costs[place] * nodes
        if self._left < 0:
            return f"schema and values multiply to > {MAX_CHECKS} checks"
        error = next(compiled.iter_errors(value), None)
        return _told(error) if error else None


def _told(error: jsonschema_rs.ValidationError) -> str:
    place = ".".join(str(part) for part in error.instance_path)
    return f"{place + ': ' if place else ''}{error.message}"[:_MESSAGE_CHARS]


def parse_json(text: str) -> tuple[object, str | None]:
    """Parse a text strictly and return the value, or None and why it is no JSON; what is returned can be written again."""
    try:
        value = json.loads(text, parse_constant=_not_finite, parse_float=finite)
    except RecursionError:
        return None, "nested too deep"
    except json.JSONDecodeError as error:
        return None, f"{error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError as error:
        return None, str(error)[:_MESSAGE_CHARS]
    flaw = unfit(text, value)
    return (None, flaw.reason) if flaw else (value, None)


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _prepared(schema: dict[str, Any]) -> jsonschema_rs.Validator | str:
    text = json.dumps(schema, sort_keys=True, ensure_ascii=False)
    return (_compiled if len(text) <= _KEPT_CHARS else _compiled.__wrapped__)(text)


@lru_cache(maxsize=256)
def _compiled(text: str) -> jsonschema_rs.Validator | str:
    schema = json.loads(text)
    if not isinstance(schema.get("$schema", ""), str):
        return "$schema is not a text"
    if _checks(schema, 1) > MAX_CHECKS:
        return f"its references multiply to > {MAX_CHECKS} checks"
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions())
    except jsonschema_rs.ValidationError as error:
        return _told(error)


def _refuse(_uri: str) -> NoReturn:
    raise ValueError("it lies outside of the schema")


def _extent(value: object) -> tuple[int, int]:
    """Return how deep a value is and of how many values it is made."""
    depth, nodes, layer = 0, 0, [value]
    while layer:
        depth, nodes = depth + 1, nodes + len(layer)
        layer = [child for node in layer for child in _parts(node)]
    return depth, nodes


def _parts(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _checks(schema: dict[str, Any], depth: int) -> int:
    """Return how many checks a schema can cost on a value that deep; a loop is counted once, where it closes."""
    known: dict[tuple[int, int], int] = {}

    def cost(node: object, left: int) -> int:
        place = (id(node), left)
        if place in known:
            return known[place]
        known[place] = 1
        total = 1
        for child, down in _steps(node, schema):
            if left >= down:
                total += cost(child, left - down)
        known[place] = min(total, MAX_CHECKS + 1)
        return known[place]

    try:
        return cost(schema, depth)
    except RecursionError:  # a chain of references longer than the stack
        return MAX_CHECKS + 1


def _steps(node: object, root: dict[str, Any]) -> Iterator[tuple[object, int]]:
    """Yield what is checked next, with 1 where the check goes one level down in the value."""
    if isinstance(node, list):
        yield from ((child, 0) for child in node)
    if not isinstance(node, dict):
        return
    for key, child in node.items():
        if key in {"$ref", "$dynamicRef", "$recursiveRef"} and isinstance(child, str):
            yield _target(root, child), 0
        elif key in _DESCENDING:
            inner = (
                list(child.values()) if key in {"properties", "patternProperties"} and isinstance(child, dict) else child
            )
            yield inner, 1
        elif key not in _DATA and isinstance(child, dict | list):
            yield child, 0


def _target(root: dict[str, Any], reference: str) -> object:
    """Return what a reference points to; one that is no pointer, or points nowhere, counts as the whole schema."""
    node: object = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        node = node.get(name) if isinstance(node, dict) else root
    return root if node is None else node
