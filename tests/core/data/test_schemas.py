"""JSON Schemas from the data: what fits, what is told, and that no schema costs more than it may."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.schemas import MAX_CHECKS, SchemaChecks, parse_json, schema_fault, value_fault

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TREE = {"$defs": {"n": {"type": "object", "properties": {"l": {"$ref": "#/$defs/n"}, "r": {"$ref": "#/$defs/n"}}}}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda kids: st.lists(kids) | st.dictionaries(st.text(), kids)
)


def bomb(levels: int) -> dict[str, Any]:
    """A schema of a few lines whose references double at each level."""
    steps: dict[str, Any] = {f"a{k}": {"allOf": [{"$ref": f"#/$defs/a{k + 1}"}] * 2} for k in range(levels)}
    return {"$defs": {**steps, f"a{levels}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (CITY, None),
        ({**TREE, "$ref": "#/$defs/n"}, None),
        ({"$ref": "#"}, None),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}, None),
        (bomb(10), None),
        ({"type": "objet"}, "objet"),
        ({"pattern": "["}, "regex"),
        ({"pattern": "(?=a)"}, "regex"),
        ({"$schema": 3}, "$schema is not a text"),
        ({"$schema": "https://example.com/own"}, "meta-schema"),
        ({"$ref": "https://example.com/other.json"}, "outside of the schema"),
        ({"$ref": "file:///etc/hostname"}, "outside of the schema"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        (bomb(40), f"> {MAX_CHECKS} checks"),
    ],
)
def test_a_schema_can_be_used_or_its_fault_is_told(schema: dict[str, Any], told: str | None) -> None:
    fault = schema_fault(schema)

    assert (fault is None) if told is None else (fault is not None and told in fault)


def test_a_value_fits_or_its_place_is_told() -> None:
    assert value_fault(CITY, {"city": "Laval"}) is None
    assert (
        value_fault({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["x", 3]})
        == 'a.1: 3 is not of type "string"'
    )
    assert value_fault({"type": "objet"}, {}) == schema_fault({"type": "objet"})


def test_a_recursive_schema_is_run_on_a_real_tree_and_refused_on_one_it_would_run_on_for_ever() -> None:
    both = {"$defs": {"n": {"anyOf": [{"properties": {"x": {"$ref": "#/$defs/n"}}, "required": [name]} for name in "qrs"]}}}
    deep: Any = 1
    for _ in range(60):
        deep = {"x": deep}

    assert value_fault({**TREE, "$ref": "#/$defs/n"}, {"l": {"r": {}}, "r": {"l": 3}}) == 'r.l: 3 is not of type "object"'
    assert value_fault({**both, "$ref": "#/$defs/n"}, deep) == f"schema and values multiply to > {MAX_CHECKS} checks"


def test_a_chain_of_references_longer_than_the_stack_is_refused() -> None:
    steps: dict[str, Any] = {f"a{k}": {"$ref": f"#/$defs/a{k + 1}"} for k in range(20_000)}

    assert "checks" in (schema_fault({"$defs": {**steps, "a20000": True}, "$ref": "#/$defs/a0"}) or "")


def test_many_values_are_checked_against_one_schema_within_one_bound() -> None:
    checks = SchemaChecks()
    schema = {"properties": {f"p{k}": {"type": "string"} for k in range(3000)}}
    value = {f"q{k}": "x" for k in range(1000)}
    start = time.process_time()

    faults = [checks.fault(schema, value) for _ in range(50)]

    assert faults[0] is None
    assert faults[-1] == f"schema and values multiply to > {MAX_CHECKS} checks"
    assert time.process_time() - start < 2


def test_a_pattern_made_to_take_for_ever_takes_no_time() -> None:
    start = time.process_time()

    assert value_fault({"type": "string", "pattern": "^(a+)+$"}, "a" * 5000 + "!") is not None
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": [1, 2.5, null]}', None),
        ('```json\n{"a": 1}\n```', "Expecting value"),
        ('{"a": 1} voilà', "Extra data"),
        ('{"a": NaN}', "NaN is no JSON value"),
        ("[" * 200_000, "nested too deep"),
        ("9" * 5000, "limit"),
        ("", "Expecting value"),
    ],
)
def test_json_is_parsed_strictly(text: str, told: str | None) -> None:
    value, fault = parse_json(text)

    assert (fault is None and value is not None) if told is None else (fault is not None and told in fault)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["type", "properties", "items", "$ref", "pattern", "allOf", "enum"]), JSON), JSON)
def test_no_schema_and_no_value_raises(schema: dict[str, Any], value: object) -> None:
    fault = schema_fault(schema)

    assert value_fault(schema, value) == fault if fault else True
