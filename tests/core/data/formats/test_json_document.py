"""JSON documents: elements are cut where they end, judged one by one, and what is amiss at the end is told."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.flaws import REMEDIES, Flaw
from core.data.formats import stream
from core.data.parsing import parse_record
from core.data.readers import read_lines
from core.data.source import Source
from core.errors import NotUtf8


def records_of(text: str | bytes, max_chars: int = 8000) -> list[dict[str, Any] | Flaw]:
    data = text if isinstance(text, bytes) else text.encode()
    source = Source(name="x", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data, form="json")
    return [line.record for line in read_lines(source, max_chars)]


def codes_of(text: str | bytes) -> list[str | None]:
    codes = [record.code if isinstance(record, Flaw) else None for record in records_of(text)]
    assert all(code in REMEDIES for code in codes if code)
    return codes


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ('[{"a": 1}, {"a": 2}]', [None, None]),
        ('\ufeff [{"a": 1}]\r\n', [None]),
        ('{"a":\n 1}', [None]),
        ('{"a": 1}\n\n{"a":\n 2}{"a": 3}', [None, None, None]),
        ('[{"a": 1}, {"a": oops}, {"a": 3}]', [None, "json-broken", None]),
        ('[{"a": 1},, {"a": 3}]', [None, "json-broken", None]),
        ('[{"a": 1},]', [None, "json-broken"]),
        ('[1, "a", null, [{}]]', ["json-not-object"] * 4),
        ('[{"a": 1, "a": 2}, {"b": NaN}, {"c": "\\ud800"}]', ["json-duplicate-key", "json-not-finite", "json-surrogate"]),
        ('[{"a": 1}, {"a": 2}', [None, "json-unclosed"]),
        ('[{"a": 1},', [None, "json-unclosed"]),
        ('[{"a": "never closed]', ["json-unclosed"]),
        ("[", ["json-unclosed"]),
        ('[{"a": 1}] {"a": 2}', [None, "json-behind-end"]),
        ('[{"a": 1}}, {"a": 2}]', [None, "json-behind-end"]),
        ('{"a": 1', ["json-broken"]),
        ('{"a": 1} oops', [None, "json-broken"]),
        ("oops", ["json-broken"]),
        ("3", ["json-not-object"]),
        ('[{"a": "\\""}, {"b": "],{\\\\"}]', [None, None]),
        ("[" * 200_000, ["json-unclosed"]),
        ("[" + '{"a":' * 70 + "1" + "}" * 70 + ', {"b": 1}]', ["json-too-deep", None]),
        (b'[{"a": "\x00"}]', ["json-broken"]),
    ],
)
def test_an_element_is_a_record_or_a_flaw(text: str | bytes, codes: list[str | None]) -> None:
    assert codes_of(text) == codes


ELEMENTS = st.dictionaries(
    st.text(max_size=5), st.text(max_size=8) | st.integers() | st.lists(st.text(max_size=3), max_size=2), max_size=3
)
BROKEN = st.sampled_from(
    ['{"a": oops}', '{"a": 1, "a": 2}', "{}", '"],{"', "[[],{}]", '{"a": NaN}', "true", '{"\\\\": "\\"]"}']
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        ELEMENTS.map(json.dumps) | ELEMENTS.map(lambda e: json.dumps(e, ensure_ascii=False, indent=1)) | BROKEN, max_size=6
    ),
    st.sampled_from([1, 2, 3, 7, 64]),
    st.sampled_from([",", " ,\n", ",\r\n\t"]),
)
def test_every_element_comes_out_once_wherever_the_chunks_end(elements: list[str], chunk: int, comma: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_CHUNK_BYTES", chunk)
        assert records_of(f" [{comma.join(elements)}]\n") == [parse_record(element) for element in elements]


def test_an_element_that_is_too_long_is_set_aside() -> None:
    found = records_of('[{"a": 1}, {"a": "' + "é" * (1 << 20) + '"}, {"a": 3}]')

    assert isinstance(found[1], Flaw)
    assert (found[0], found[1].code, found[2]) == ({"a": 1}, "line-too-long", {"a": 3})


def test_bytes_that_are_not_utf8_are_named_by_their_place_in_the_file() -> None:
    with pytest.raises(NotUtf8, match=r"x:2 is not UTF-8 at byte 9 of the line, byte 19 of the file \(0xe9\)"):
        records_of(b'[{"a": 1}, {"b": "\xe9"}]'.replace(b', {"b', b',{"b').replace(b': "\xe9', b': " \xe9'))


@pytest.mark.parametrize("bait", ["[" * 8, '{"', '"\\', '\\"', "[{},", '"a"', '["\\\\'])
def test_hostile_text_costs_linear_time(bait: str) -> None:
    def cost_s(times: int) -> float:
        started = time.perf_counter()
        records_of("[" + bait * times)
        return time.perf_counter() - started

    cost_s(100)
    small, large = min(cost_s(5_000) for _ in range(3)), min(cost_s(20_000) for _ in range(3))
    assert large < 10 * small + 0.05
