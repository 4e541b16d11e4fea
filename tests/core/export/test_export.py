"""The export stage on real models: a tiny Llama through every step and every refusal, SmolLM2 with its figures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import ExportConfig
from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import BadConfig, DataError, GateRefused, ProcessFailed
from core.events import Event, Progress, StageStarted, ignore
from core.export.convert import convert, quantise
from core.export.gate import Gate
from core.export.gguf_loss.loss import TrialRequest, run_trial
from core.export.inspect import read_gguf
from core.export.merge import MergeRequest, MergeResult, ReferenceText, merge
from core.nouns import GgufModel
from core.workspace import Workspace, artifacts, verify
from tests.core.export.conftest import Trained, publish_adapter

pytestmark = pytest.mark.model

TYPES = ("F32", "Q8_0", "Q4_K_M", "Q4_0")


def started(heard: list[Event]) -> int:
    return sum(isinstance(event, StageStarted) for event in heard)


@pytest.fixture(scope="module")
def heard() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def exported(tiny_trained: Trained, heard: list[Event]) -> GgufModel:
    return tiny_trained.export(ExportConfig(quantisations=TYPES, max_loss_increase=5.0), heard)


@pytest.fixture(scope="module")
def files(tiny_trained: Trained, exported: GgufModel) -> Path:
    return tiny_trained.workspace.folder(Stage.EXPORT, exported.artifact_id)


@pytest.fixture(scope="module")
def gate(exported: GgufModel, toolchain) -> Gate:
    rows = (TokenisedRow(row_id="a", input_ids=(1, 4093, 198, 2, 198), completion_mask=(0, 0, 0, 1, 1)),)
    reference = MergeResult(
        held_out_loss=exported.reference_held_out_loss,
        dtype="bfloat16",
        parameters=1,
        has_chat_template=True,
        texts=(ReferenceText(text="hello", ids=(28120,)),),
    )
    return Gate(reference, rows, ExportConfig(max_loss_increase=50.0), toolchain, ignore)


def test_every_file_is_published_with_its_figures(tiny_trained: Trained, exported: GgufModel, files: Path) -> None:
    verify(tiny_trained.workspace, exported)
    assert exported.verdict.passed
    assert [q.type for q in exported.quantisations] == list(TYPES)
    assert sorted(ref.path for ref in exported.files) == sorted(f"pupil-{kind}.gguf" for kind in TYPES)
    for q in exported.quantisations:
        assert q.bytes == (files / q.path).stat().st_size == exported.metrics[f"bytes.{q.type}"]
        assert q.held_out_loss == exported.metrics[f"held_out_loss.{q.type}"]
        assert q.bits_per_weight == exported.metrics[f"bits_per_weight.{q.type}"]
        assert q.sample
    assert exported.parents == (tiny_trained.adapter.as_parent(),)
    assert {"llama.cpp", "torch", "transformers", "peft"} <= set(exported.tools)


def test_the_f32_file_has_the_loss_of_the_merged_model_in_transformers(exported: GgufModel) -> None:
    f32 = exported.quantisations[0]
    assert f32.held_out_loss == pytest.approx(exported.reference_held_out_loss, abs=1e-4)
    assert f32.bits_per_weight == 32.0


def test_a_hidden_size_that_is_no_multiple_of_256_shows_in_bits_per_weight_and_fallbacks(exported: GgufModel) -> None:
    by_type = {q.type: q for q in exported.quantisations}
    assert by_type["Q8_0"].fallback_tensors == by_type["Q4_0"].fallback_tensors == 0
    assert by_type["Q4_K_M"].fallback_tensors == 14
    assert by_type["Q4_K_M"].bits_per_weight > 4.9


def test_progress_is_told_for_every_step_and_nothing_is_left_in_staging(
    tiny_trained: Trained, exported: GgufModel, heard: list[Event]
) -> None:
    tasks = {event.task for event in heard if isinstance(event, Progress)}
    assert {"merge", "held-out loss, merged", "convert to GGUF", "quantise Q4_0", "held-out loss, pupil-F32.gguf"} <= tasks
    assert not list((tiny_trained.workspace.root / "staging").iterdir())


def test_the_same_inputs_are_not_exported_twice(tiny_trained: Trained, exported: GgufModel) -> None:
    again: list[Event] = []
    config = ExportConfig(quantisations=TYPES, max_loss_increase=4.0, required=("Q4_0",))
    assert tiny_trained.export(config, again).artifact_id == exported.artifact_id
    assert started(again) == 0


def test_a_reused_export_is_judged_by_todays_limit(tiny_trained: Trained, exported: GgufModel) -> None:
    again: list[Event] = []
    assert exported.metrics["loss_increase.Q4_0"] > 0
    config = ExportConfig(quantisations=TYPES, max_loss_increase=0.0, required=("Q4_0",))
    with pytest.raises(GateRefused, match="max_loss_increase 0") as refused:
        tiny_trained.export(config, again)
    assert refused.value.exit_status == 5
    assert started(again) == 0


def test_quantising_again_gives_the_same_bytes(exported: GgufModel, files: Path, toolchain, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    quantise(files / "pupil-F32.gguf", again, "Q4_0", toolchain, ignore, timeout_s=60)
    assert again.read_bytes() == (files / "pupil-Q4_0.gguf").read_bytes()


def test_a_file_over_its_limit_is_rejected_and_a_wider_limit_makes_it_again(
    tiny_trained: Trained, exported: GgufModel
) -> None:
    workspace = replace(tiny_trained.workspace, force=frozenset({Stage.EXPORT}))
    limit = (exported.metrics["loss_increase.Q8_0"] + exported.metrics["loss_increase.Q4_0"]) / 2
    config = ExportConfig(quantisations=("Q8_0", "Q4_0"), max_loss_increase=limit)

    strict = replace(tiny_trained, workspace=workspace).export(config)

    assert [q.type for q in strict.quantisations] == ["Q8_0"]
    assert [ref.path for ref in strict.files] == ["pupil-Q8_0.gguf"]
    (rejected,) = strict.rejected
    assert rejected.quantisation.type == "Q4_0"
    assert rejected.quantisation.held_out_loss == exported.metrics["held_out_loss.Q4_0"]
    assert rejected.reasons[0].startswith("loss_increase.Q4_0")
    assert strict.verdict.passed

    wider: list[Event] = []
    relaxed = tiny_trained.export(config.model_copy(update={"max_loss_increase": 5.0}), wider)
    assert [q.type for q in relaxed.quantisations] == ["Q8_0", "Q4_0"]
    assert started(wider) == 1


def test_a_student_that_changed_since_training_is_refused(tiny_trained: Trained, tmp_path: Path) -> None:
    beside = tmp_path / "profile"
    shutil.copytree(tiny_trained.beside, beside)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    card = beside / "models" / "pupil.yaml"
    card.write_text(
        "\n".join(f"source: {{kind: local, path: {other}}}" if "source" in s else s for s in card.read_text().splitlines())
    )
    with pytest.raises(BadConfig, match="trained on"):
        replace(tiny_trained, beside=beside).export(ExportConfig())


def test_an_adapter_of_another_base_is_an_error_of_the_data(
    tiny_trained: Trained, smollm_folder: Path, tmp_path: Path
) -> None:
    adapter = tiny_trained.workspace.folder(Stage.TRAIN, tiny_trained.adapter.artifact_id) / "adapter"
    request = MergeRequest(base=str(smollm_folder), adapter=str(adapter), target=str(tmp_path / "out"), rows=(), texts=())
    with pytest.raises(DataError, match="does not fit the base"):
        merge(request, tmp_path / "work", timeout_s=120)


def test_a_truncated_file_is_rejected(gate: Gate, files: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cut.gguf"
    whole = (files / "pupil-Q8_0.gguf").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    judged = gate.examine(broken, "Q8_0", tmp_path / "trial")
    assert "ends at byte" in judged.reasons[0]
    assert judged.rejected().quantisation.held_out_loss is None
    with pytest.raises(GateRefused, match="cannot load"):
        run_trial(_request(gate, broken), tmp_path / "trial", timeout_s=60)


def test_a_flipped_magic_is_rejected(gate: Gate, files: Path, tmp_path: Path) -> None:
    broken = tmp_path / "magic.gguf"
    broken.write_bytes(b"FUGG" + (files / "pupil-Q8_0.gguf").read_bytes()[4:])
    assert "magic" in gate.examine(broken, "Q8_0", tmp_path / "trial").reasons[0]


def test_a_tokenizer_that_gives_other_ids_is_rejected(gate: Gate, files: Path, tmp_path: Path) -> None:
    wrong = ReferenceText(text="hello there", ids=(1, 2, 3))
    reference = gate.reference.model_copy(update={"texts": (*gate.reference.texts, wrong)})
    judged = replace(gate, reference=reference).examine(files / "pupil-Q8_0.gguf", "Q8_0", tmp_path / "trial")
    (reason,) = judged.reasons
    assert reason.startswith("tokenizer_mismatches.Q8_0 1.0000, limit == 0")
    assert "hello there" in reason


def test_a_token_beyond_the_vocabulary_is_rejected(gate: Gate, files: Path, tmp_path: Path) -> None:
    row = TokenisedRow(row_id="b", input_ids=(1, 49152), completion_mask=(0, 1))
    judged = replace(gate, rows=(row,)).examine(files / "pupil-Q8_0.gguf", "Q8_0", tmp_path / "trial")
    assert judged.reasons == ("pupil-Q8_0.gguf: token id 49152 >= its vocabulary of 49152",)


def test_a_tokenizer_saved_wrongly_converts_but_is_refused_and_nothing_is_left(
    tiny_smollm_student: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_smollm_student, base)
    _make_tokenizer_look_like_sentencepiece(base / "tokenizer.json")
    trained = publish_adapter(tmp_path, base, steps=0)

    with pytest.raises(GateRefused, match=r"none of export\.required") as refused:
        trained.export(ExportConfig(quantisations=("Q8_0",)))

    assert refused.value.exit_status == 5
    (published,) = _exports(trained.workspace)
    assert not published.verdict.passed
    assert (published.quantisations, published.files) == ((), ())
    (rejected,) = published.rejected
    assert "ended with signal SIGABRT" in " ".join(rejected.reasons)
    assert not list((trained.workspace.root / "current").iterdir())
    with pytest.raises(GateRefused):  # the refusal is remembered, not the work repeated
        trained.export(ExportConfig(quantisations=("Q8_0",)))


@pytest.mark.full
def test_smollm2_shows_its_real_bits_per_weight(smollm_folder: Path, tmp_path: Path) -> None:
    trained = publish_adapter(tmp_path, smollm_folder, steps=0)
    model = trained.export(ExportConfig())
    by_type = {q.type: q for q in model.quantisations}
    assert {kind: round(q.bits_per_weight, 2) for kind, q in by_type.items()} == {
        "Q8_0": 8.51,
        "Q4_K_M": 6.17,
        "Q4_0": 5.35,
    }
    assert {kind: q.fallback_tensors for kind, q in by_type.items()} == {"Q8_0": 0, "Q4_K_M": 180, "Q4_0": 0}
    assert all("len" in q.sample for q in by_type.values())
    assert abs(by_type["Q8_0"].held_out_loss - model.reference_held_out_loss) < 0.1
    facts = read_gguf(trained.workspace.folder(Stage.EXPORT, model.artifact_id) / by_type["Q4_K_M"].path, "Q4_K_M")
    assert (facts.tensors, facts.tokenizer_pre, facts.merges) == (272, "smollm", 48900)


def test_a_folder_that_is_no_model_ends_with_the_converters_words(toolchain, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ProcessFailed, match="status 1"):
        convert(empty, tmp_path / "out.gguf", "empty", toolchain, ignore, timeout_s=60)


def _request(gate: Gate, gguf: Path) -> TrialRequest:
    return TrialRequest(
        gguf=str(gguf), toolchain=gate.toolchain, rows=gate.rows, texts=gate.reference.texts, answer_tokens=4
    )


def _exports(workspace: Workspace) -> list[GgufModel]:
    return [artifact for artifact in artifacts(workspace, Stage.EXPORT) if isinstance(artifact, GgufModel)]


def _make_tokenizer_look_like_sentencepiece(path: Path) -> None:
    """Let the converter take byte-level BPE for a sentencepiece tokenizer, as a stale file does: it then drops the merges."""
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["byte_fallback"] = True
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"]]}
    path.write_text(json.dumps(tokenizer))
