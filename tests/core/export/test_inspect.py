"""Reading GGUF files: figures of a whole one, refusal of broken ones."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import GateRefused
from core.export.inspect import differences, read_gguf, structure_problems


def write_gguf(path: Path, *, merges: bool = True, chat_template: bool = True, tensors: bool = True) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["a", "b", "ab", *(f"t{number}" for number in range(61))])
    writer.add_token_types([1] * 64)
    if merges:
        writer.add_token_merges(["a b"])
    if chat_template:
        writer.add_chat_template("{{ messages }}")
    if tensors:
        _add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: GGUFWriter) -> None:
    matrix = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    writer.add_tensor(
        "token_embd.weight", quants.quantize(matrix, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0
    )
    writer.add_tensor(
        "blk.0.attn_q.weight", quants.quantize(matrix, GGMLQuantizationType.Q4_0), raw_dtype=GGMLQuantizationType.Q4_0
    )
    writer.add_tensor(
        "blk.0.attn_k.weight", quants.quantize(matrix, GGMLQuantizationType.Q5_0), raw_dtype=GGMLQuantizationType.Q5_0
    )
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, dtype=np.float32))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf").read_bytes()


def test_bits_per_weight_count_every_tensor_as_it_is_stored(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)

    facts = read_gguf(path, "Q4_0")

    # 64*64 weights in Q8_0 (8.5 bits), Q4_0 (4.5), Q5_0 (5.5), and 64 in F32
    assert facts.bits_per_weight == pytest.approx((4096 * (8.5 + 4.5 + 5.5) + 64 * 32) / (3 * 4096 + 64))
    assert facts.tensor_types == {"F32": 1, "Q4_0": 1, "Q5_0": 1, "Q8_0": 1}
    assert (facts.architecture, facts.tokenizer_model, facts.tokenizer_pre) == ("llama", "gpt2", "smollm")
    assert (facts.vocabulary, facts.merges, facts.tensors) == (64, 1, 4)


def test_a_block_matrix_of_another_type_is_a_fallback_but_norms_and_the_embedding_are_not(
    tmp_path: Path, whole: bytes
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    assert read_gguf(path, "Q4_0").fallback_tensors == 1
    assert read_gguf(path, "Q8_0").fallback_tensors == 2


def test_missing_merges_and_a_missing_chat_template_are_named(tmp_path: Path) -> None:
    facts = read_gguf(write_gguf(tmp_path / "m.gguf", merges=False, chat_template=False), "Q4_0")
    problems = structure_problems(facts, wants_chat_template=True)
    assert len(problems) == 2
    assert "merges" in problems[0]
    assert "chat template" in problems[1]
    assert structure_problems(facts, wants_chat_template=False) == problems[:1]


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match="no tensors"):
        read_gguf(write_gguf(tmp_path / "m.gguf", tensors=False), "Q4_0")


def test_a_flipped_magic_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"FUGG" + whole[4:])
    with pytest.raises(GateRefused, match="magic"):
        read_gguf(path, "Q4_0")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    with pytest.raises(GateRefused, match="not a whole GGUF"):
        read_gguf(path, "Q4_0")


def test_a_count_of_a_trillion_values_is_refused_at_once(tmp_path: Path, whole: bytes) -> None:
    at = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[:at] + (10**12).to_bytes(8, "little") + whole[at + 8 :])
    with pytest.raises(GateRefused, match="not a whole GGUF"):
        read_gguf(path, "Q4_0")


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 257))])
    with pytest.raises(GateRefused) as refused:
        read_gguf(path, "Q4_0")
    assert refused.value.exit_status == 5


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_in_the_header_never_ends_in_a_traceback(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    broken = bytearray(whole)
    broken[data.draw(st.integers(0, 800))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(broken)
    with suppress(GateRefused):
        read_gguf(path, "Q4_0")


def test_a_file_that_is_another_model_than_its_source_is_told_in_what(tmp_path: Path) -> None:
    source = read_gguf(write_gguf(tmp_path / "source.gguf"), "Q4_0")
    assert differences(source, source) == []
    other = read_gguf(write_gguf(tmp_path / "other.gguf", merges=False, chat_template=False), "Q4_0")
    assert differences(other, source) == [
        "its number of merges is None, the F32 file's 1",
        "its chat template is other",
        "its tokens or merges are other",
    ]
    moved = source.model_copy(update={"layout": "x", "tokenizer_pre": "default", "special_tokens": {"bos": "3"}})
    assert differences(moved, source) == [
        "its pre-tokenizer is default, the F32 file's smollm",
        "its special tokens are {'bos': '3'}, the F32 file's {}",
        "its tensors' names or shapes are other",
    ]


def test_an_embedding_with_other_rows_than_tokens_is_a_problem(tmp_path: Path) -> None:
    facts = read_gguf(write_gguf(tmp_path / "whole.gguf"), "Q4_0")
    assert facts.embedding_rows == 64
    assert structure_problems(facts, wants_chat_template=True) == []
    small = facts.model_copy(update={"vocabulary": 65})
    assert structure_problems(small, wants_chat_template=True) == [
        (
            "its embedding has 64 rows, == 65 is needed, the tokens of its vocabulary: tokens were added without rows for them, "
            "or the tokenizer is another model's"
        )
    ]


def test_parts_of_a_type_that_was_asked_for_did_not_fall_back(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    assert read_gguf(path, "Q4_0").fallback_tensors == 1
    assert read_gguf(path, "Q4_0", frozenset({"Q5_0"})).fallback_tensors == 0
