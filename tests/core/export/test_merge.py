"""Onto which weights an adapter is merged: the student's own, the 4-bit ones it was trained on, or the better of both."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import ExportConfig, TrainConfig
from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import BadConfig, DataError
from core.events import Event, Progress
from core.export.merge import MergeRequest, MergeResult, choices, merge, recorded
from core.export.section import DivergenceLimits
from core.nouns import Adapter, BenchmarkRun, Merge
from core.report.closing import closing_table
from core.report.quantisations import merge_told, quantisations_table
from core.trace import _of_gguf
from tests.core.export.conftest import Trained, publish_adapter
from tests.core.published_chain import benchmark

pytestmark = pytest.mark.model
BY_HAND = Path(__file__).parent / "four_bit_merge.py"


def trained_with(trained: Trained, quantisation: str) -> Adapter:
    config = TrainConfig(student="pupil", quantisation=quantisation).model_dump(mode="json")
    return trained.adapter.model_copy(update={"config": config})


def adapter_folder(trained: Trained) -> Path:
    return trained.workspace.folder(Stage.TRAIN, trained.adapter.artifact_id) / "adapter"


def request(base: Path, trained: Trained, tmp_path: Path) -> MergeRequest:
    return MergeRequest(
        base=str(base),
        adapter=str(adapter_folder(trained)),
        target=str(tmp_path / "merged"),
        onto=("base", "dequantised"),
        training=TrainConfig(student="pupil"),
        rows=(TokenisedRow(row_id="a", input_ids=(1, 4093, 198, 2, 198), completion_mask=(0, 0, 0, 1, 1)),),
        texts=("hello",),
    )


@pytest.mark.full
def test_both_merges_are_measured_and_the_better_one_is_kept(
    tiny_trained: Trained, tiny_smollm_student: Path, tmp_path: Path
) -> None:
    heard: list[Event] = []
    result = merge(request(tiny_smollm_student, tiny_trained, tmp_path), tmp_path / "work", heard.append, timeout_s=300)
    assert set(result.held_out_losses) == {"base", "dequantised"}
    assert result.held_out_losses["base"] != result.held_out_losses["dequantised"]
    assert result.held_out_loss == min(result.held_out_losses.values()) == result.held_out_losses[result.onto]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("merged")) == ["merged"]
    tasks = {event.task for event in heard if isinstance(event, Progress)}
    assert {"merge", "merge onto 4-bit weights", "held-out loss, merged onto 4-bit weights"} <= tasks


def test_four_bit_weights_of_an_adapter_trained_without_are_refused_before_any_work(tiny_trained: Trained) -> None:
    plain = replace(tiny_trained, adapter=trained_with(tiny_trained, "none"))
    with pytest.raises(
        BadConfig, match=r"export\.merge is dequantised, adapter \w{12} was trained with .* none"
    ) as refused:
        plain.export(ExportConfig(merge="dequantised"))
    assert "export.merge=base" in refused.value.remedy


def test_auto_says_where_there_is_one_choice_only(tiny_trained: Trained) -> None:
    plain = trained_with(tiny_trained, "none")
    assert choices("auto", plain) == choices("base", plain) == ("base",)
    assert "there is one choice" in recorded("auto", plain, result({"base": 1.0})).reason
    assert choices("auto", trained_with(tiny_trained, "fp4")) == ("base", "dequantised")
    assert choices("dequantised", trained_with(tiny_trained, "fp4")) == ("dequantised",)
    assert choices("dequantised", trained_with(tiny_trained, "fp4"), with_base=True) == ("base", "dequantised")
    assert choices("base", trained_with(tiny_trained, "fp4"), with_base=True) == ("base",)


def test_what_was_kept_is_told_with_both_losses_and_the_reason(tiny_trained: Trained) -> None:
    found = recorded("auto", tiny_trained.adapter, result({"base": 1.5, "dequantised": 1.25}))
    assert found == Merge(
        onto="dequantised",
        held_out_losses={"base": 1.5, "dequantised": 1.25},
        reason="its held-out loss is lower by 0.2500",
    )
    told = (
        "merged onto the 4-bit weights it was trained on (onto the student's own weights 1.5000; its held-out loss is lower"
    )
    assert told in merge_told(found)
    assert merge_told(recorded("base", tiny_trained.adapter, result({"base": 1.5}))) == ""
    level = recorded("auto", tiny_trained.adapter, result({"base": 1.5, "dequantised": 1.5}))
    assert (level.onto, level.reason) == ("base", "the held-out losses are equal")


def result(losses: dict[str, float]) -> MergeResult:
    onto = min(losses, key=losses.__getitem__)
    more = {"onto": onto, "held_out_losses": losses}
    return MergeResult(held_out_loss=losses[onto], dtype="float32", parameters=1, has_chat_template=True, texts=(), **more)


@pytest.mark.full
def test_the_four_bit_merge_is_the_one_made_by_hand(
    tiny_trained: Trained, tiny_smollm_student: Path, tmp_path: Path
) -> None:
    asked = request(tiny_smollm_student, tiny_trained, tmp_path).model_copy(update={"keep": "dequantised"})
    assert merge(asked, tmp_path / "work", timeout_s=300).onto == "dequantised"
    argv = [sys.executable, str(BY_HAND), asked.base, asked.adapter, asked.target]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["matrices"] == 14
    assert found["farthest"] == 0


@pytest.mark.full
def test_a_merged_model_whose_loss_is_no_number_is_refused(
    tiny_trained: Trained, tiny_smollm_student: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    spoil = (
        "import sys, shutil; from safetensors.torch import load_file, save_file;"
        "shutil.copytree(sys.argv[1], sys.argv[2]); path = sys.argv[2] + '/model.safetensors';"
        "tensors = load_file(path); tensors['model.norm.weight'][0] = float('nan');"
        "save_file(tensors, path, {'format': 'pt'})"
    )
    argv = [sys.executable, "-c", spoil, str(tiny_smollm_student), str(broken)]
    subprocess.run(argv, capture_output=True, check=True)
    asked = request(broken, tiny_trained, tmp_path).model_copy(update={"onto": ("base",)})
    with pytest.raises(DataError, match="held-out loss, merged is nan, it must be a number"):
        merge(asked, tmp_path / "work", timeout_s=300)


@pytest.mark.full
def test_smollm2_is_exported_from_the_better_merge_and_says_so_everywhere(smollm_folder: Path, tmp_path: Path) -> None:
    trained = publish_adapter(tmp_path, smollm_folder, steps=8)
    wide = DivergenceLimits(Q8_0=1.0)
    made = trained.export(ExportConfig(quantisations=("Q8_0",), merge="auto", max_divergence=wide, task_prompts=0))
    assert made.merge is not None
    losses = made.merge.held_out_losses
    assert made.reference_held_out_loss == losses[made.merge.onto] == min(losses.values())
    assert {f"merged_held_out_loss.{onto}": loss for onto, loss in losses.items()}.items() <= made.metrics.items()
    assert "bitsandbytes" in made.tools
    told = merge_told(made.merge)
    card = (trained.workspace.folder(Stage.EXPORT, made.artifact_id) / "README.md").read_text(encoding="utf-8")
    assert told in card
    assert told in " ".join(quantisations_table(made).notes)
    run = benchmark(trained.workspace, made)
    assert isinstance(run, BenchmarkRun)
    assert told in " ".join(closing_table(trained.workspace, made, run).notes)
    assert ("held-out loss, merged onto base", losses["base"]) in [figure[:2] for figure in _of_gguf(made, None)]
    again = trained.export(ExportConfig(quantisations=("Q8_0",), merge="auto", max_divergence=wide, task_prompts=0))
    assert again.artifact_id == made.artifact_id
