"""The export stage on real models: a tiny Llama through every step and every refusal, SmolLM2 with its figures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from gguf import GGUFReader

from core.config import ExportConfig, TrainConfig
from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import BadConfig, DataError, GateRefused, ProcessFailed
from core.events import Event, Progress, StageStarted, ignore
from core.export.convert import Recipe, convert, quantise
from core.export.divergence import Runner, baseline
from core.export.gate import Gate
from core.export.gguf_loss.loss import TrialRequest, run_trial
from core.export.imatrix import importance_matrix
from core.export.inspect import read_gguf
from core.export.merge import HARD_TEXTS, GreedyAnswer, MergeRequest, MergeResult, ReferenceText, merge
from core.export.section import DivergenceLimits, TensorTypes
from core.nouns import GgufModel
from core.workspace import Workspace, artifacts, verify
from tests.core.export.conftest import ANSWERS, Trained, publish_adapter

pytestmark = pytest.mark.model

TYPES = ("F32", "Q8_0", "Q4_K_M", "Q4_0")
WIDE = DivergenceLimits(Q8_0=10, Q4_K_M=10, Q4_0=10)  # a tiny model is hurt more than any real one
KL_OF_LOGITS = Path(__file__).parent / "kl_of_logits.py"


def started(heard: list[Event]) -> int:
    return sum(isinstance(event, StageStarted) for event in heard)


@pytest.fixture(scope="module")
def heard() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def exported(tiny_trained: Trained, heard: list[Event]) -> GgufModel:
    return tiny_trained.export(ExportConfig(quantisations=TYPES, max_loss_increase=5.0, max_divergence=WIDE), heard)


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
    beside = {"README.md", "model_card.json", *(f"Modelfile-{kind}" for kind in TYPES)}
    assert {ref.path for ref in exported.files} == {f"pupil-{kind}.gguf" for kind in TYPES} | beside
    assert {ref.path for ref in exported.files if not ref.carries_meaning} == beside
    for q in exported.quantisations:
        assert q.bytes == (files / q.path).stat().st_size == exported.metrics[f"bytes.{q.type}"]
        assert q.held_out_loss == exported.metrics[f"held_out_loss.{q.type}"]
        assert q.bits_per_weight == exported.metrics[f"bits_per_weight.{q.type}"]
        assert q.sample
        assert q.memory.measured_bytes is None  # no limit, so none is measured
        assert exported.metrics[f"memory_mib.{q.type}"] * 2**20 == q.memory.estimated_bytes > q.bytes
    assert exported.metrics["conversion.tokenizer_mismatches"] == 0
    assert exported.metrics["conversion.tokenizer_texts"] > 2 * len(HARD_TEXTS)
    assert exported.parents == (tiny_trained.adapter.as_parent(),)
    assert {"llama.cpp", "torch", "transformers", "peft"} <= set(exported.tools)


def test_the_model_card_says_what_the_manifest_says_and_how_to_run_it(exported: GgufModel, files: Path) -> None:
    text = (files / "README.md").read_text(encoding="utf-8").replace("\\_", "_")
    head = yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0])
    assert head["license"] == "mit"
    assert {"gguf", "llama.cpp", "edgekiln"} <= set(head["tags"])
    for q in exported.quantisations:
        row = next(line for line in text.splitlines() if line.startswith(f"| pupil-{q.type}.gguf"))
        assert f"{q.held_out_loss:.4f}" in row
        assert f"{q.divergence.kl_mean:.4f}" in row
        assert f"| {q.memory.estimated_bytes / 2**20:.1f} |" in row
        assert f"FROM ./pupil-{q.type}.gguf" in (files / f"Modelfile-{q.type}").read_text(encoding="utf-8")
    assert "a KV cache of 2,048 tokens" in text
    assert "RAM, measured" not in text  # a column of which nothing is known
    assert "llama-server -m pupil-F32.gguf" in text
    assert "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant" in text
    assert json.loads((files / "model_card.json").read_text())["teaching"]["adapter"] == exported.parents[0].artifact_id


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
    config = ExportConfig(quantisations=TYPES, max_loss_increase=4.0, max_divergence=WIDE, required=("Q4_0",))
    assert tiny_trained.export(config, again).artifact_id == exported.artifact_id
    assert started(again) == 0


def test_a_reused_export_is_judged_by_todays_limit(tiny_trained: Trained, exported: GgufModel) -> None:
    again: list[Event] = []
    assert exported.metrics["loss_increase.Q4_0"] > 0
    config = ExportConfig(quantisations=TYPES, max_loss_increase=0.0, max_divergence=WIDE, required=("Q4_0",))
    with pytest.raises(GateRefused, match="max_loss_increase 0") as refused:
        tiny_trained.export(config, again)
    assert refused.value.exit_status == 5
    assert started(again) == 0


def test_the_divergence_is_nought_for_the_f32_file_and_grows_with_coarser_weights(exported: GgufModel) -> None:
    found = [q.divergence for q in exported.quantisations]
    assert [q.type for q in exported.quantisations] == ["F32", "Q8_0", "Q4_K_M", "Q4_0"]
    assert found[0].kl_mean == pytest.approx(0, abs=1e-4)
    assert found[0].perplexity_ratio == pytest.approx(1, abs=1e-4)
    assert found[0].same_top_share == 1
    assert found[0].kl_mean < found[1].kl_mean < min(found[2].kl_mean, found[3].kl_mean)
    for quantisation, divergence in zip(exported.quantisations, found, strict=True):
        assert divergence.chunks >= 8
        assert divergence.kl_mean == exported.metrics[f"kl_mean.{quantisation.type}"]
        assert divergence.perplexity == pytest.approx(
            divergence.reference_perplexity * divergence.perplexity_ratio, rel=1e-5
        )


def test_the_divergence_is_that_of_the_logits_themselves(
    exported: GgufModel, files: Path, toolchain, tmp_path: Path
) -> None:
    told = exported.quantisations[-1].divergence
    texts = [text for question_and_answer in ANSWERS for text in question_and_answer]
    argv = [sys.executable, str(KL_OF_LOGITS), str(files), json.dumps(texts), str(told.n_ctx), toolchain.model_dump_json()]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["chunks"] == told.chunks
    assert told.kl_mean == pytest.approx(measured["kl_mean"], abs=2e-4)  # llama-perplexity keeps 16 bits a logarithm
    assert told.perplexity == pytest.approx(measured["perplexity"], rel=1e-3)


def test_a_reused_export_is_judged_by_todays_limit_on_the_divergence(tiny_trained: Trained, exported: GgufModel) -> None:
    again: list[Event] = []
    strict = DivergenceLimits(Q4_0=exported.metrics["kl_mean.Q4_0"] / 2)
    config = ExportConfig(quantisations=TYPES, max_loss_increase=5.0, max_divergence=strict, required=("Q4_0",))
    with pytest.raises(GateRefused, match=r"Q4_0: kl_mean\.Q4_0 [\d.]+, limit <= "):
        tiny_trained.export(config, again)
    assert started(again) == 0


def test_texts_too_short_for_a_mean_give_no_divergence_and_say_so(files: Path, toolchain, tmp_path: Path) -> None:
    heard: list[Event] = []
    runner = Runner(toolchain, tmp_path, heard.append, timeout_s=60)
    short = [ReferenceText(text="hello", ids=(28120,))]
    assert baseline(files / "pupil-F32.gguf", short, 4096, runner) is None
    assert [event.text for event in heard] == ["no file's divergence is measured: the held-out texts have 1 tokens < 256"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no process")
def test_the_figures_are_there_though_one_core_does_everything(files: Path, toolchain, tmp_path: Path) -> None:
    texts = [ReferenceText(text=text, ids=(1,) * 16) for pair in ANSWERS for text in pair]
    reference = baseline(files / "pupil-F32.gguf", texts, 4096, Runner(toolchain, tmp_path / "work", ignore, timeout_s=60))
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})
    with contextlib.suppress(PermissionError):  # root's alone: a thread that prints then waits for the one that computes
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        found = [reference.compare(files / "pupil-F32.gguf") for _ in range(5)]
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, ours)
    assert [one.kl_mean for one in found] == pytest.approx([0] * 5, abs=1e-4)


def test_flipped_weights_are_refused_for_their_divergence(
    exported: GgufModel, gate: Gate, files: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "flipped.gguf"
    shutil.copyfile(files / "pupil-Q8_0.gguf", broken)
    tensor = next(one for one in GGUFReader(broken).tensors if one.name == "blk.0.ffn_down.weight")
    with broken.open("r+b") as stream:
        stream.seek(tensor.data_offset)
        stream.write(bytes(byte ^ 0x55 for byte in (files / "pupil-Q8_0.gguf").read_bytes()[tensor.data_offset :][:4096]))
    texts = [ReferenceText(text=text, ids=(1,) * 16) for pair in ANSWERS for text in pair]
    runner = Runner(gate.toolchain, tmp_path / "divergence", ignore, timeout_s=60)
    reference = baseline(files / "pupil-F32.gguf", texts, 4096, runner)
    judged = replace(gate, baseline=reference).examine(broken, "Q8_0", tmp_path / "trial")
    assert any("kl_mean" in reason for reason in judged.reasons), judged.reasons


def test_an_importance_matrix_of_the_training_texts_changes_what_is_rounded(files: Path, toolchain, tmp_path: Path) -> None:
    f32 = tmp_path / "model-F32.gguf"
    f32.symlink_to(files / "pupil-F32.gguf")
    heard: list[Event] = []
    texts = [text for pair in ANSWERS for text in pair] * 6
    matrix = importance_matrix(f32, texts, 512, toolchain, heard.append, timeout_s=60)
    assert [event.task for event in heard] == ["importance matrix"] * len(heard)
    assert heard[-1].done in {3, 4}  # of 128 tokens; llama.cpp may end before the last line of its log is written
    made = tmp_path / "weighed.gguf"
    quantise(f32, made, "Q4_0", toolchain, ignore, timeout_s=60, recipe=Recipe(imatrix=matrix))
    plain, weighed = (_types_and_bytes(path) for path in (files / "pupil-Q4_0.gguf", made))
    assert {name: kind for name, (kind, _) in plain.items()} == {name: kind for name, (kind, _) in weighed.items()}
    assert plain["blk.0.ffn_down.weight"] != weighed["blk.0.ffn_down.weight"]


def test_too_little_training_text_for_an_importance_matrix_is_an_error_of_the_data(files: Path, toolchain) -> None:
    with pytest.raises(DataError, match="have 5 characters < 2048"):
        importance_matrix(files / "pupil-F32.gguf", ["hello"], 512, toolchain, ignore, timeout_s=60)


def test_parts_of_the_model_take_the_types_that_are_asked_for(files: Path, toolchain, tmp_path: Path) -> None:
    made = tmp_path / "mixed.gguf"
    recipe = Recipe(tensor_types=TensorTypes(attn="Q8_0", embedding="F16"))
    quantise(files / "pupil-F32.gguf", made, "Q4_0", toolchain, ignore, timeout_s=60, recipe=recipe)
    types = {name: kind for name, (kind, _) in _types_and_bytes(made).items()}
    assert types["token_embd.weight"] == "F16"
    assert {types[f"blk.0.attn_{part}.weight"] for part in ("q", "k", "v", "output")} == {"Q8_0"}
    assert types["blk.0.ffn_up.weight"] == "Q4_0"


def test_quantising_again_gives_the_same_bytes(exported: GgufModel, files: Path, toolchain, tmp_path: Path) -> None:
    again = tmp_path / "again.gguf"
    quantise(files / "pupil-F32.gguf", again, "Q4_0", toolchain, ignore, timeout_s=60)
    assert again.read_bytes() == (files / "pupil-Q4_0.gguf").read_bytes()


@pytest.mark.full
def test_a_file_over_its_limit_is_rejected_and_a_wider_limit_makes_it_again(
    tiny_trained: Trained, exported: GgufModel
) -> None:
    workspace = replace(tiny_trained.workspace, force=frozenset({Stage.EXPORT}))
    limit = (exported.metrics["loss_increase.Q8_0"] + exported.metrics["loss_increase.Q4_0"]) / 2
    config = ExportConfig(quantisations=("Q8_0", "Q4_0"), max_loss_increase=limit, max_divergence=WIDE)

    strict = replace(tiny_trained, workspace=workspace).export(config)

    assert [q.type for q in strict.quantisations] == ["Q8_0"]
    assert [ref.path for ref in strict.files if ref.path.endswith(".gguf")] == ["pupil-Q8_0.gguf"]
    card = (workspace.folder(Stage.EXPORT, strict.artifact_id) / "README.md").read_text(encoding="utf-8")
    assert "Made, refused and not kept" in card
    assert "loss_increase.Q4_0" in card.replace("\\", "")
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
    request = MergeRequest(
        base=str(smollm_folder),
        adapter=str(adapter),
        target=str(tmp_path / "out"),
        training=TrainConfig(student="pupil"),
        rows=(),
        texts=(),
    )
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


@pytest.fixture
def fair(gate: Gate, files: Path, tmp_path: Path) -> Gate:
    """The gate with the loss that the F32 file has on the gate's one row."""
    trial = run_trial(_request(gate, files / "pupil-F32.gguf"), tmp_path / "fair", timeout_s=60)
    return replace(gate, reference=gate.reference.model_copy(update={"held_out_loss": trial.held_out_loss}))


def test_a_conversion_that_answers_otherwise_is_wrong_with_every_file(fair: Gate, files: Path, tmp_path: Path) -> None:
    f32 = files / "pupil-F32.gguf"
    prompt = (1, 4093, 198)
    clear, level = (GreedyAnswer(prompt=prompt, ids=(2, 198), margins=(margin, margin)) for margin in (0.5, 0.005))
    assert (
        replace(fair, reference=fair.reference.model_copy(update={"greedy": (level,)})).proven(f32, tmp_path).conversion
        == ()
    )
    wrong = replace(fair, reference=fair.reference.model_copy(update={"greedy": (clear, level)})).proven(f32, tmp_path)
    (split,) = wrong.conversion
    assert split.startswith("conversion.splits 1.0000, limit == 0; likely cause: a tied embedding was trained")
    judged = wrong.examine(files / "pupil-Q8_0.gguf", "Q8_0", tmp_path / "trial")
    assert judged.reasons == wrong.conversion
    assert judged.trial is None


def test_a_conversion_of_another_loss_is_wrong_with_every_file(fair: Gate, files: Path, tmp_path: Path) -> None:
    other = fair.reference.model_copy(update={"held_out_loss": fair.reference.held_out_loss + 0.2})
    (reason,) = replace(fair, reference=other).proven(files / "pupil-F32.gguf", tmp_path).conversion
    assert reason.startswith("conversion.loss_difference 0.2000, limit <= 0.05; likely cause: ")


def test_a_token_beyond_the_vocabulary_is_rejected(gate: Gate, files: Path, tmp_path: Path) -> None:
    row = TokenisedRow(row_id="b", input_ids=(1, 49152), completion_mask=(0, 1))
    judged = replace(gate, rows=(row,)).examine(files / "pupil-Q8_0.gguf", "Q8_0", tmp_path / "trial")
    assert judged.reasons == ("pupil-Q8_0.gguf: token id 49152 >= its vocabulary of 49152",)


@pytest.mark.full
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


def _types_and_bytes(gguf: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, bytes(tensor.data)) for tensor in GGUFReader(gguf).tensors}


def _exports(workspace: Workspace) -> list[GgufModel]:
    return [artifact for artifact in artifacts(workspace, Stage.EXPORT) if isinstance(artifact, GgufModel)]


def _make_tokenizer_look_like_sentencepiece(path: Path) -> None:
    """Let the converter take byte-level BPE for a sentencepiece tokenizer, as a stale file does: it then drops the merges."""
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["byte_fallback"] = True
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"]]}
    path.write_text(json.dumps(tokenizer))
