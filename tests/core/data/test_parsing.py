"""One line to a record: what is refused, and that no line is answered with a crash."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.flaws import REMEDIES, Flaw
from core.data.parsing import parse_record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"user": "half', "json-broken"),
        ('{"user": "a"} {"user": "b"}', "json-broken"),
        ("'user'", "json-broken"),
        ('{"n": ' + "9" * 5000 + "}", "json-not-finite"),
        ("[1, 2]", "json-not-object"),
        ("null", "json-not-object"),
        ("3.5", "json-not-object"),
        ('"text"', "json-not-object"),
        ("true", "json-not-object"),
        ('{"user": "a", "user": "b"}', "json-duplicate-key"),
        ('{"tool_schema": {"a": 1, "a": 1}}', "json-duplicate-key"),
        ('{"n": NaN}', "json-not-finite"),
        ('{"n": -Infinity}', "json-not-finite"),
        ('{"n": 1e999}', "json-not-finite"),
        ('{"user": "\\ud83d alone"}', "json-surrogate"),
        ('{"a":' * 70 + "1" + "}" * 70, "json-too-deep"),
        ("[" * 200_000, "json-too-deep"),
    ],
)
def test_a_bad_line_is_a_flaw_with_its_own_code(line: str, code: str) -> None:
    flaw = parse_record(line)

    assert isinstance(flaw, Flaw)
    assert flaw.code == code
    assert flaw.code in REMEDIES
    assert len(flaw.at("file:1").excerpt) <= 200


def test_the_flaw_says_where_in_the_line() -> None:
    flaw = parse_record('{"user": oops}')

    assert isinstance(flaw, Flaw)
    assert flaw.reason == "no JSON: Expecting value at column 10"


def test_a_line_with_carriage_returns_inside_says_so() -> None:
    flaw = parse_record('{"user": "a"}\r{"user": "b"}')

    assert isinstance(flaw, Flaw)
    assert flaw.reason == "no JSON: Extra data at column 15; its lines end with CR alone"


def test_a_number_of_thousands_of_digits_is_told_in_plain_words() -> None:
    flaw = parse_record('{"user": "a", "n": ' + "9" * 5000 + "}")

    assert isinstance(flaw, Flaw)
    assert (flaw.code, flaw.reason) == ("json-not-finite", "a whole number has > 4300 digits")
    assert parse_record('{"n": ' + "9" * 50 + "}") == {"n": int("9" * 50)}


def test_both_halves_of_a_surrogate_pair_are_a_character() -> None:
    assert parse_record('{"user": "\\ud83d\\ude00"}') == {"user": "😀"}


def test_many_keys_cost_linear_time() -> None:
    line = "{" + ",".join(f'"k{i}": 0' for i in range(50_000)) + ', "k49999": 0}'
    started = time.perf_counter()

    flaw = parse_record(line)

    assert isinstance(flaw, Flaw)
    assert flaw.code == "json-duplicate-key"
    assert time.perf_counter() - started < 2


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_every_json_object_is_read_as_it_was_written(value: dict[str, object]) -> None:
    assert parse_record(json.dumps(value)) == value


@given(st.text())
def test_any_text_is_an_object_or_a_flaw(line: str) -> None:
    assert isinstance(parse_record(line), dict | Flaw)
