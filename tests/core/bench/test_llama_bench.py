"""What llama-bench prints is read whatever its build, and however it ended."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bench.llama_bench import arguments, detect_origin, elf_arch, parse
from core.contract import Origin

NEW = {
    "build_commit": "0c1e570",
    "cpu_info": "AMD EPYC",
    "flash_attn": -1,
    "load_mode": "auto",
    "n_threads": 2,
    "n_prompt": 128,
    "n_gen": 0,
    "n_depth": 0,
    "avg_ts": 515.6,
    "samples_ns": [252774825, 244729703],
    "samples_ts": [506.38, 523.026],
}
OLD = {"cpu_info": "CPU", "flash_attn": False, "use_mmap": True, "n_prompt": 0, "n_gen": 32, "samples_ts": [4.5]}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted(NEW)


def jsonl(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_the_argument_list_asks_for_json_lines() -> None:
    assert " ".join(arguments("m.gguf", 128, 32, 3, 4)) == "-m m.gguf -p 128 -n 32 -r 3 -t 4 -o jsonl"


def test_rows_of_old_and_new_builds_are_read_with_all_their_fields() -> None:
    new, old = parse(jsonl(NEW, OLD))
    assert (new.test, new.samples_tps, new.flash_attn, new.raw) == ("pp128", (506.38, 523.026), -1, NEW)
    assert (old.test, old.flash_attn, old.n_threads, old.n_depth) == ("tg32", 0, None, 0)


def test_a_depth_and_a_mixed_test_have_names_of_their_own() -> None:
    (row,) = parse(jsonl({**NEW, "n_gen": 16, "n_depth": 512}))
    assert row.test == "pp128+tg16@d512"


@given(st.integers(min_value=0))
def test_a_process_that_died_anywhere_leaves_the_whole_rows(cut: int) -> None:
    whole = jsonl(NEW, OLD)
    data = whole[: cut % (len(whole) + 1)]
    lines = data.split(b"\n")
    complete = len(lines) - 1 + (lines[-1] in {json.dumps(NEW).encode(), json.dumps(OLD).encode()})
    assert len(parse(data)) == complete


@given(st.integers(min_value=0), st.sampled_from([None, 2]))
def test_a_json_array_that_was_never_closed_is_read_up_to_its_end(cut: int, indent: int | None) -> None:
    whole = json.dumps([NEW, OLD], indent=indent)
    rows = parse(whole[: cut % (len(whole) + 1)].encode())
    assert [row.raw for row in rows] == [NEW, OLD][: len(rows)]
    assert len(parse(whole[:-1].encode())) == 2


def test_log_lines_between_the_rows_do_not_matter() -> None:
    assert len(parse(b"ggml_init: found\n" + jsonl(NEW) + b"warning: {x\n" + jsonl(OLD))) == 2


@pytest.mark.parametrize("bad", [[0.0], [-1.0], [True], ["5"], [None], "5", None, [1e400]])
def test_a_rate_that_is_no_positive_number_gives_no_sample(bad: object) -> None:
    text = json.dumps({**NEW, "samples_ts": bad}).replace("Infinity", "1e400")
    assert [row.samples_tps for row in parse(text.encode())] == [()]


def test_what_cannot_be_stored_as_json_is_not_kept() -> None:
    (row,) = parse(b'{"n_prompt": 4, "avg_ts": NaN, "stddev_ts": 1e999, "samples_ts": [1.5]}\n{"n_gen": 1, "a": "\\ud800"}')
    assert row.raw == {"n_prompt": 4, "avg_ts": None, "stddev_ts": None, "samples_ts": [1.5]}


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), json_values, max_size=8))
def test_no_record_of_any_types_breaks_the_parser(record: dict) -> None:
    for row in parse(json.dumps(record).encode() + b"\n" + jsonl(NEW))[:-1]:
        assert json.loads(json.dumps(row.model_dump(mode="json"), allow_nan=False))
        assert all(rate > 0 for rate in row.samples_tps)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    assert isinstance(parse(data), list)
    assert isinstance(parse(b"[" + data), list)


def test_a_nest_of_brackets_is_left_out() -> None:
    assert parse(b'{"a":' + b"[" * 100_000) == []
    assert parse(b"[" + b'{"a":' * 100_000) == []


def test_sql_output_is_text_like_any_other() -> None:
    assert parse(b"INSERT INTO llama_bench VALUES ('x'); DROP TABLE runs;--\n") == []


@pytest.mark.parametrize(
    ("cpu_info", "device", "program", "origin"),
    [
        ("AMD EPYC", "x86_64", "x86_64", Origin.MEASURED),
        ("CPU", "aarch64", "aarch64", Origin.MEASURED),
        ("CPU", "aarch64", "arm", Origin.MEASURED),
        ("OpenBLAS, CPU", "aarch64", None, Origin.MEASURED),
        ("AMD EPYC", "aarch64", "aarch64", Origin.EMULATED),
        ("Intel(R) Core(TM) Ultra 7 155H", "aarch64", None, Origin.EMULATED),
        ("AMD EPYC", "x86_64", "aarch64", Origin.EMULATED),
        ("CPU", "x86_64", "aarch64", Origin.EMULATED),
        ("QEMU TCG CPU version 2.5+", "x86_64", "x86_64", Origin.EMULATED),
        ("CPU", "riscv64", "riscv64", Origin.MEASURED),
        ("AMD EPYC", "riscv64", "riscv64", Origin.EMULATED),
    ],
)
def test_an_emulated_speed_is_told_from_a_measured_one(
    cpu_info: str, device: str, program: str | None, origin: Origin
) -> None:
    assert detect_origin(cpu_info, device, program) is origin


def test_a_program_tells_the_machine_it_is_for() -> None:
    little = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little")
    assert elf_arch(little + (183).to_bytes(2, "little")) == "aarch64"
    assert elf_arch(little + (62).to_bytes(2, "little") + b"more") == "x86_64"
    assert elf_arch(b"#!/bin/sh\nexec llama-bench") is None
    assert elf_arch(b"\x7fELF") is None
