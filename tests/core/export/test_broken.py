"""Files and folders broken on purpose: each is refused with a message of its own that names the figure and the likely cause.

Truncated files, flipped bytes and adapters of another base are in test_export.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from gguf import GGUFReader

from core.config import ExportConfig, TrainConfig
from core.contract import Stage
from core.data.tokens import tokenise
from core.errors import DataError, GateRefused
from core.events import ignore
from core.export.convert import convert, quantise
from core.export.gate import Gate
from core.export.inspect import GgufFacts
from core.export.merge import MergeRequest, merge, reference_texts
from core.export.source import SourceFacts, as_llama_reads, require_shards, source_problems, tokenizer_model
from tests.core.export.conftest import ANSWERS, ROWS, Trained

FACTS = GgufFacts(
    architecture="llama",
    tensors=1,
    parameters=1,
    bits_per_weight=32,
    tensor_types={},
    fallback_tensors=0,
    tokenizer_model="gpt2",
    tokenizer_pre="smollm",
    vocabulary=9,
    merges=5,
    has_chat_template=True,
    layout="",
    embedding_rows=9,
    special_tokens={"tokenizer.ggml.bos_token_id": "1", "tokenizer.ggml.eos_token_id": "2"},
    chat_template="a",
    marked_tokens=frozenset({0, 1, 2}),
)
SOURCE = SourceFacts(
    tokenizer_model="gpt2",
    merges=5,
    marked={0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"},
    special_tokens={"bos": 1, "eos": 2},
    chat_template="a",
)
CHANGES = (
    ({"tokenizer_model": "llama", "merges": None}, "its tokenizer is llama, the source's gpt2: a stale tokenizer.model"),
    ({"merges": None}, "its tokenizer has 0 merges, the source's 5: the tokenizer was saved wrongly"),
    ({"marked_tokens": frozenset({0, 2})}, "1 special tokens would be read as text, first <|im_start|> (1)"),
    ({"special_tokens": {"tokenizer.ggml.eos_token_id": "0"}}, "its eos token is 0, the source's 2: config.json"),
    ({"chat_template": "b"}, "its chat template is not the source's"),
)


def test_a_true_copy_of_its_source_has_no_problems() -> None:
    assert source_problems(FACTS, SOURCE) == []


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_what_the_copy_says_otherwise_is_named_with_its_likely_cause(change: dict[str, object], problem: str) -> None:
    (found,) = source_problems(FACTS.model_copy(update=change), SOURCE)
    assert found.startswith(problem)


def test_a_sentencepiece_tokenizer_needs_no_merges_and_an_unknown_kind_is_not_judged() -> None:
    assert tokenizer_model({"model": {"type": "BPE", "merges": [["a", "b"]]}}) == ("gpt2", 1)
    assert tokenizer_model({"model": {"type": "BPE", "byte_fallback": True, "merges": [["a", "b"]]}}) == ("llama", None)
    assert tokenizer_model({"model": {"type": "Unigram"}}) == (None, None)
    assert tokenizer_model({}) == (None, None)


def test_a_text_is_compared_in_the_normal_form_of_a_tokenizer_that_has_one() -> None:
    assert as_llama_reads({"normalizer": {"type": "NFC"}}, "e\u0301") == "\u00e9"
    assert as_llama_reads({"normalizer": {"type": "Replace"}}, "e\u0301") == "e\u0301"
    assert as_llama_reads({"normalizer": None}, "e\u0301") == "e\u0301"


def test_a_missing_shard_of_the_student_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (tmp_path / weights["a"]).touch()
    request = MergeRequest(
        base=str(tmp_path),
        adapter="",
        target=str(tmp_path / "out"),
        training=TrainConfig(student="pupil"),
        rows=(),
        texts=(),
    )
    with pytest.raises(DataError, match=r"1 of 2 shards are missing, first model-00002-of-00002\.safetensors"):
        merge(request, tmp_path / "work", timeout_s=60)
    (tmp_path / weights["b"]).touch()
    require_shards(tmp_path)


@dataclass(frozen=True)
class Merged:
    """A merged model as a folder and as an F32 file, with the gate that was made of it."""

    folder: Path
    f32: Path
    gate: Gate


@pytest.fixture(scope="module")
def merged(tiny_trained: Trained, tiny_smollm_student: Path, toolchain, tmp_path_factory: pytest.TempPathFactory) -> Merged:
    scratch = tmp_path_factory.mktemp("merged")
    adapter = tiny_trained.workspace.folder(Stage.TRAIN, tiny_trained.adapter.artifact_id) / "adapter"
    rows = tuple(tokenise(ROWS, tiny_smollm_student, 512, scratch / "tokens"))
    request = MergeRequest(
        base=str(tiny_smollm_student),
        adapter=str(adapter),
        target=str(scratch / "folder"),
        training=TrainConfig(student="pupil"),
        rows=rows,
        texts=reference_texts([text for pair in ANSWERS for text in pair]),
    )
    reference = merge(request, scratch / "work", timeout_s=300)
    convert(scratch / "folder", scratch / "f32.gguf", "pupil", toolchain, ignore, timeout_s=300)
    return Merged(
        scratch / "folder",
        scratch / "f32.gguf",
        Gate(reference, rows, ExportConfig(max_loss_increase=5), toolchain, ignore),
    )


def without(f32: Path, key: str, target: Path) -> Path:
    """Return a copy of a file without a key of its metadata."""
    argv = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--remove-metadata", key]
    done = subprocess.run([*argv, str(f32), str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.model
@pytest.mark.full
def test_a_sound_conversion_has_nothing_against_it(merged: Merged, tmp_path: Path) -> None:
    assert merged.gate.proven(merged.f32, tmp_path).conversion == ()


@pytest.mark.model
@pytest.mark.full
def test_dropped_merges_are_told_with_their_number_and_every_file_is_refused(merged: Merged, tmp_path: Path) -> None:
    broken = without(merged.f32, "tokenizer.ggml.merges", tmp_path / "broken.gguf")
    gate = merged.gate.proven(broken, tmp_path / "trial")
    assert gate.conversion[0] == "its tokenizer has 0 merges, the source's 48900: the tokenizer was saved wrongly"
    judged = gate.examine(broken, "F32", tmp_path / "again")
    assert "its tokenizer has no merges (tokenizer.ggml.merges): the tokenizer was saved wrongly" in judged.reasons


@pytest.mark.model
@pytest.mark.full
def test_a_chat_template_that_got_lost_is_told(merged: Merged, tmp_path: Path) -> None:
    broken = without(merged.f32, "tokenizer.chat_template", tmp_path / "broken.gguf")
    (reason,) = merged.gate.proven(merged.f32, tmp_path / "trial").examine(broken, "F32", tmp_path / "again").reasons[:1]
    assert reason == "it has no chat template (tokenizer.chat_template), the source has one"


@pytest.mark.model
@pytest.mark.full
def test_a_special_token_that_became_text_is_told_by_name(merged: Merged, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    shutil.copyfile(merged.f32, broken)
    kinds = GGUFReader(broken, "r+").get_field("tokenizer.ggml.token_type")
    kinds.parts[kinds.data[1]][0] = 1  # a normal token
    del kinds
    gate = merged.gate.proven(broken, tmp_path / "trial")
    assert gate.conversion[0].startswith("1 special tokens would be read as text, first <|im_start|> (1)")
    assert any(reason.startswith("conversion.tokenizer_mismatches") for reason in gate.conversion)


@pytest.mark.model
@pytest.mark.full
def test_a_stale_sentencepiece_model_in_the_folder_is_told(merged: Merged, toolchain, tmp_path: Path) -> None:
    import sentencepiece

    folder = tmp_path / "folder"
    shutil.copytree(merged.folder, folder)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for pair in ANSWERS for text in pair]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    convert(folder, tmp_path / "stale.gguf", "pupil", toolchain, ignore, timeout_s=300)
    gate = merged.gate.proven(tmp_path / "stale.gguf", tmp_path / "trial")
    assert gate.conversion[0].startswith("its tokenizer is llama, the source's gpt2: a stale tokenizer.model lies in")
    quantise(tmp_path / "stale.gguf", tmp_path / "q.gguf", "Q8_0", toolchain, ignore, timeout_s=60)
    assert gate.conversion[0] in gate.examine(tmp_path / "q.gguf", "Q8_0", tmp_path / "q").reasons


@pytest.mark.model
@pytest.mark.full
def test_an_unknown_pre_tokenizer_is_refused_with_its_hash(tiny_student: Path, toolchain, tmp_path: Path) -> None:
    with pytest.raises(
        GateRefused, match=r"pupil: llama\.cpp's converter does not know its pre-tokenizer, whose hash is \w{64}"
    ):
        convert(tiny_student, tmp_path / "out.gguf", "pupil", toolchain, ignore, timeout_s=300)


RESIZE = """
import sys
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.resize_token_embeddings(49000)
model.save_pretrained(sys.argv[1])
"""


@pytest.mark.model
@pytest.mark.full
def test_an_embedding_with_fewer_rows_than_the_tokenizer_has_ids_is_an_error_of_the_student(
    tiny_trained: Trained, tiny_smollm_student: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_smollm_student, base)
    subprocess.run([sys.executable, "-c", RESIZE, str(base)], check=True, capture_output=True)
    adapter = tiny_trained.workspace.folder(Stage.TRAIN, tiny_trained.adapter.artifact_id) / "adapter"
    request = MergeRequest(
        base=str(base),
        adapter=str(adapter),
        target=str(tmp_path / "out"),
        training=TrainConfig(student="pupil"),
        rows=(),
        texts=(),
    )
    with pytest.raises(DataError, match=r"its embedding has 49000 rows, its tokenizer's largest id is 49151, < 49000"):
        merge(request, tmp_path / "work", timeout_s=300)
