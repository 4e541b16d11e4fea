"""The adapter alone as a GGUF file: what it cannot express is refused, what it is not is found, what it does is measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import load_file, save_file

from core.config import ExportConfig
from core.contract import Stage
from core.data.tokens import tokenise
from core.errors import BadConfig, GateRefused
from core.events import Event, Note, ignore
from core.export.adapter_gguf import AdapterGguf, Trained, require_expressible, structure_problems, trained_in
from core.export.gguf_loss.loss import TrialRequest, run_trial
from core.export.inspect import Pair
from core.export.section import DivergenceLimits
from core.report.quantisations import quantisations_table
from tests.core.export.conftest import ROWS, publish_adapter
from tests.core.export.conftest import Trained as Published
from tests.core.export.test_merge import adapter_folder

pytestmark = pytest.mark.model
NAME = "blk.0.attn_q.weight"
MODULE = "model.layers.0.self_attn.q_proj"
TRAINED = Trained(lora_alpha=8.0, pairs={MODULE: Pair(inputs=6, r=2, outputs=4)})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    writer = GGUFWriter(tmp_path / "base.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor(NAME, np.zeros((4, 6), dtype=np.float32))
    return written(writer, tmp_path / "base.gguf")


def adapter(folder: Path, *, arch: str = "llama", alpha: float = 8.0, a: int = 2, b: int = 2, kind: str = "lora") -> Path:
    path = folder / "made.gguf"
    writer = GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_tensor(f"{NAME}.lora_a", np.ones((a, 6), dtype=np.float32))
    writer.add_tensor(f"{NAME}.lora_b", np.ones((4, b), dtype=np.float32))
    return written(writer, path)


def written(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_with_every_pair_and_the_scale_has_no_problem(base: Path, tmp_path: Path) -> None:
    assert structure_problems(adapter(tmp_path), base, TRAINED) == []


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"arch": "qwen2"}, "its architecture is qwen2, its base's llama"),
        ({"alpha": 16.0}, "its alpha is 16, the adapter's 8"),
        ({"kind": "ia3"}, "it says it is ('adapter', 'ia3'), not a LoRA adapter"),
        ({"a": 3, "b": 3}, f"its pair {NAME} is 4 x 3 x 6, the adapter's 4 x 2 x 6"),
    ],
)
def test_a_file_that_is_another_adapter_is_told_apart(
    base: Path, tmp_path: Path, broken: dict[str, Any], told: str
) -> None:
    assert structure_problems(adapter(tmp_path, **broken), base, TRAINED) == [told]


def test_a_pair_that_is_missing_or_too_many_is_named(base: Path, tmp_path: Path) -> None:
    two = TRAINED.model_copy(update={"pairs": {**TRAINED.pairs, "model.layers.0.mlp.up_proj": TRAINED.pairs[MODULE]}})
    assert structure_problems(adapter(tmp_path), base, two) == [
        "its pair blk.0.ffn_up.weight is not there, the adapter's 4 x 2 x 6"
    ]
    none = structure_problems(adapter(tmp_path), base, TRAINED.model_copy(update={"pairs": {}}))
    assert none == [f"its pair {NAME} is 4 x 2 x 6, the adapter's not there"]


def test_halves_of_unlike_rank_and_a_file_that_ends_early_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match=f"the halves of {NAME} have ranks 2 and 3"):
        structure_problems(adapter(tmp_path, b=3), base, TRAINED)
    cut = adapter(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(GateRefused, match=r"made\.gguf is not a whole GGUF file"):
        structure_problems(cut, base, TRAINED)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_rslora", True),
        ("modules_to_save", ["lm_head"]),
        ("alpha_pattern", {"q_proj": 4}),
        ("bias", "all"),
        ("peft_type", "IA3"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    config = {"peft_type": "LORA", "bias": "none", "modules_to_save": None, "use_dora": False, key: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadConfig, match=key) as refused:
        require_expressible(tmp_path, "abc")
    assert str(value) in refused.value.problem
    assert "export.adapter_gguf=false" in refused.value.remedy


def test_an_export_that_asks_for_it_is_refused_before_any_work(tiny_trained: Published, tmp_path: Path) -> None:
    folder = adapter_folder(tiny_trained)
    require_expressible(folder, "abc")
    other = replace(tiny_trained, workspace=replace(tiny_trained.workspace, root=tmp_path))
    shutil.copytree(folder, adapter_folder(other))
    path = adapter_folder(other) / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(BadConfig, match=f"adapter {tiny_trained.adapter.artifact_id} has use_dora=True"):
        other.export(ExportConfig(adapter_gguf=True))


def test_the_adapter_as_peft_saved_it_is_read_without_torch(tmp_path: Path) -> None:
    halves = {"lora_A": np.zeros((2, 6), np.float32), "lora_B": np.zeros((4, 2), np.float32)}
    save_file(
        {f"base_model.model.{MODULE}.{k}.weight": v for k, v in halves.items()}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8}))
    assert trained_in(tmp_path) == TRAINED


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_beside_files_of_the_4_bit_merge_the_adapter_goes_with_the_students_own_weights(
    tiny_smollm_student: Path, toolchain, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_smollm_student, student)
    louder(student / "model.safetensors")
    trained = publish_adapter(tmp_path, student, steps=8)
    config = ExportConfig(
        quantisations=("F32", "Q8_0"), required=("F32",), merge="dequantised", adapter_gguf=True, max_loss_increase=5.0,
        max_divergence=DivergenceLimits(Q8_0=10), task_prompts=0,
    )  # fmt: skip
    made = trained.export(config)
    assert made.merge is not None
    losses, file = made.merge.held_out_losses, made.adapter_file
    assert (made.merge.onto, set(losses)) == ("dequantised", {"base", "dequantised"})
    assert abs(losses["dequantised"] - losses["base"]) > 0.02  # so that neither can be taken for the other
    assert made.reference_held_out_loss == losses["dequantised"]
    assert made.quantisations[0].held_out_loss == pytest.approx(losses["dequantised"], abs=1e-3)
    assert file is not None
    assert (file.reasons, file.merged_held_out_loss) == ((), losses["base"])
    assert file.held_out_loss == made.metrics["held_out_loss.adapter"] == pytest.approx(losses["base"], abs=0.01)
    folder = trained.workspace.folder(Stage.EXPORT, made.artifact_id)
    alone = (folder / "README.md").read_text(encoding="utf-8").partition("## The adapter alone\n")[2]
    assert "It goes with pupil's own weights, to which llama.cpp adds it at load" in alone
    assert f"merged onto the 4-bit weights it was trained on, with a held-out loss of {losses['dequantised']:.4f}" in alone
    assert f"# base: the folder of pupil as Hugging Face has it, {made.student.identity}" in alone
    assert f"the model merged onto the student's own weights {losses['base']:.4f}" in " ".join(
        quantisations_table(made).notes
    )
    base = tmp_path / "base.gguf"  # as the card says to make it
    argv = [sys.executable, str(toolchain.source / "convert_hf_to_gguf.py"), str(student), "--outfile", str(base)]
    subprocess.run(argv, check=True, capture_output=True)
    rows = tuple(tokenise(ROWS, student, 512, tmp_path / "tokens"))
    alone_on_base = TrialRequest(
        gguf=str(base), adapter=str(folder / file.path), toolchain=toolchain, rows=rows, texts=(), answer_tokens=0
    )
    found = run_trial(alone_on_base, tmp_path / "trial", ignore, timeout_s=600)
    assert found.held_out_loss == pytest.approx(losses["base"], abs=0.01)


def louder(weights: Path, doublings: int = 4) -> None:
    """Multiply the matrices of the blocks by a power of two, in place, so that their rounding to 4 bits is heard in the loss."""
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for name, told in json.loads(data[8:start]).items():
        if "_proj" in name:
            first, end = (start + offset for offset in told["data_offsets"])
            numbers = np.frombuffer(data, np.uint16, (end - first) // 2, first)  # bf16: the exponent lies above 7 bits
            numbers += np.where(numbers & 0x7FFF, doublings << 7, 0).astype(np.uint16)
    weights.write_bytes(data)


@pytest.mark.full
def test_smollm2s_adapter_on_its_base_has_the_merged_models_loss(smollm_folder: Path, toolchain, tmp_path: Path) -> None:
    trained, heard = publish_adapter(tmp_path, smollm_folder, steps=8), list[Event]()
    config = ExportConfig(
        quantisations=("Q8_0",), adapter_gguf=True, max_divergence=DivergenceLimits(Q8_0=1.0), task_prompts=0
    )
    made = trained.export(config, heard)
    folder, file = trained.workspace.folder(Stage.EXPORT, made.artifact_id), made.adapter_file
    assert file is not None
    assert file.reasons == ()
    assert (file.path, file.r, file.lora_alpha, file.pairs) == ("pupil-adapter.gguf", 16, 32.0, 210)
    assert file.bytes == (folder / file.path).stat().st_size
    assert file.merged_held_out_loss == made.reference_held_out_loss
    assert abs(file.held_out_loss - made.reference_held_out_loss) < 0.02
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "llama-cli -m base.gguf --lora pupil-adapter.gguf --jinja" in card
    told = (folder / "Modelfile-adapter").read_text(encoding="utf-8")
    assert told.startswith("FROM ./base.gguf\nADAPTER ./pupil-adapter.gguf\nTEMPLATE")
    stronger = tmp_path / "stronger"
    shutil.copytree(adapter_folder(trained), stronger)
    weights = load_file(stronger / "adapter_model.safetensors")
    louder = {name: 3 * weight if "lora_B" in name else weight for name, weight in weights.items()}
    save_file(louder, stronger / "adapter_model.safetensors")
    rows = tuple(tokenise(ROWS, smollm_folder, 512, tmp_path / "tokens"))
    other = AdapterGguf(stronger, smollm_folder, "pupil", toolchain, heard.append, 300)
    found = other.written(tmp_path / "x-adapter.gguf", rows, made.reference_held_out_loss, tmp_path / "scratch")
    (reason,) = found.reasons
    assert reason.startswith("adapter.loss_difference ")
    assert reason.endswith(", limit <= 0.02")
    assert any(isinstance(event, Note) and reason in event.text for event in heard)
    assert not (tmp_path / "x-adapter.gguf").exists()
    assert not (tmp_path / "scratch" / "base-F32.gguf").exists()
