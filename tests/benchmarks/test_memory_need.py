"""The memory estimates against measured peaks: real trainings through the train worker, real llama-bench runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from core import catalogue
from core.config import LoraConfig, TrainConfig
from core.data.record import TokenisedRow
from core.env.fit import ram_room
from core.env.host import read_host
from core.env.memory_need import TOLERANCE, Job, inference_bytes, merge_bytes, training_need
from core.export.merge import MergeRequest, Weights
from core.files import write_json_lines
from core.shape import ModelShape
from core.train import student
from core.train.checkpoints import Training
from core.train.request import TrainRequest
from tests.benchmarks.meter import ROOT
from tests.core.export.conftest import BUILDER, ROWS

pytestmark = [pytest.mark.full, pytest.mark.model, pytest.mark.timeout(1800)]
Record = Callable[[str, object], None]

SMOLLM = catalogue.model("smollm2-135m-instruct").shape
# activations outweigh all else in the first, the output matrix in the second
DEEP = SMOLLM.model_copy(update={"vocab_size": 512, "num_hidden_layers": 8})
HIGH = SMOLLM.model_copy(update={"num_hidden_layers": 90})
BROAD = ModelShape(
    vocab_size=49152,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    tie_word_embeddings=True,
)
BUILD = """
import json, sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
shape = json.loads(sys.argv[3])
shape.pop("qk_norm")
LlamaForCausalLM(LlamaConfig(**shape, pad_token_id=2, eos_token_id=2)).to(torch.bfloat16).save_pretrained(sys.argv[2])
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


@pytest.fixture(scope="module")
def smollm_folder(toolchain: object) -> Path:
    return student.folder(catalogue.model("smollm2-135m-instruct"))


# forked by a small process: a child begins with the peak of who forks it, and keeps it
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
child.returncode = os.waitstatus_to_exitcode(status)
print(usage.ru_maxrss)
sys.exit(child.returncode)
"""


def peak_bytes(argv: Sequence[str]) -> int:
    """Run a program and return the most memory that was resident in it, shared pages counted whole."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout) * 1024


def request(model: Path, config: TrainConfig, folder: Path) -> TrainRequest:
    """Write rows that are all as long as they may be."""

    def rows(name: str, count: int) -> str:
        ids = [[(7 * position + row) % 400 + 3 for position in range(config.max_length)] for row in range(count)]
        mask = [int(position >= config.max_length // 4) for position in range(config.max_length)]
        records = [{"row_id": str(row), "input_ids": ids[row], "completion_mask": mask} for row in range(count)]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return TrainRequest(
        student_folder=str(model),
        student_name="measured",
        train=rows("train", 2 * config.per_device_train_batch_size),
        held_out=rows("held_out", config.per_device_train_batch_size),
        adapter=str(folder / "adapter"),
        steps=str(folder / "steps.jsonl"),
        metrics=str(folder / "metrics.jsonl"),
        checkpoints=str(folder / "checkpoints"),
        resume_from=None,
        held_out_losses=str(folder / "held_out_losses.jsonl"),
        training=Training(config="0" * 64, rows="0" * 64, student="measured"),
        config=config,
        versions={},
    )


@pytest.mark.parametrize(
    ("name", "shape", "batch", "max_length"),
    [("SmolLM2-135M", None, 4, 128), ("8 layers of it, 512 words", DEEP, 8, 256), ("2 small layers", BROAD, 4, 256)],
)
def test_a_trainings_peak_is_estimated(
    name: str,
    shape: ModelShape | None,
    batch: int,
    max_length: int,
    smollm_folder: Path,
    tmp_path: Path,
    record_property: Record,
) -> None:
    model = smollm_folder
    if shape is not None:
        model = tmp_path / "model"
        sizes = json.dumps(shape.model_dump())
        subprocess.run(
            [sys.executable, "-c", BUILD, str(smollm_folder), str(model), sizes], check=True, capture_output=True
        )
    config = TrainConfig(
        student="any",
        device="cpu",
        per_device_train_batch_size=batch,
        max_length=max_length,
        num_train_epochs=1,
        lora=LoraConfig(r=16),
    )
    work = tmp_path / "work"
    work.mkdir()
    (work / "request.json").write_text(request(model, config, tmp_path).model_dump_json(), encoding="utf-8")
    measured = peak_bytes([sys.executable, "-m", "core.train.worker", str(work)])
    room = ram_room(read_host(), None, None)
    assert room is not None
    ratio = training_need(Job(shape or SMOLLM, config, "cpu", room.compute_bytes)).peak_bytes / measured
    record_property(f"estimated / measured RAM of training {name}, batch {batch} x {max_length}", round(ratio, 3))
    assert ratio == pytest.approx(1, abs=TOLERANCE)
    broken = training_need(Job(shape or SMOLLM, config, "cuda")).peak_bytes / measured
    record_property("broken on purpose: the estimate of another device", round(broken, 3))
    assert broken != pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("onto", ["base", "dequantised"])
@pytest.mark.parametrize(("name", "shape"), [("SmolLM2-135M", None), ("SmolLM2-135M with 90 layers", HIGH)])
def test_a_merge_s_peak_is_estimated(
    name: str, shape: ModelShape | None, onto: Weights, smollm_folder: Path, tmp_path: Path, record_property: Record
) -> None:
    model, work, config = tmp_path / "model", tmp_path / "work", TrainConfig(student="any", device="cpu", max_length=256)
    work.mkdir()
    if shape is None:
        model = smollm_folder
    else:
        sizes = json.dumps(shape.model_dump())
        subprocess.run(
            [sys.executable, "-c", BUILD, str(smollm_folder), str(model), sizes], check=True, capture_output=True
        )
    labels = tmp_path / "held_out.jsonl"
    write_json_lines(labels, (row.model_dump(mode="json") for row in ROWS))
    build = [sys.executable, str(BUILDER), str(model), str(tmp_path / "adapter"), str(labels), "0"]
    subprocess.run(build, check=True, capture_output=True)
    rows = tuple(
        TokenisedRow(row_id=str(row), input_ids=tuple(range(3, 259)), completion_mask=(0,) * 64 + (1,) * 192)
        for row in range(4)
    )
    folders = {"base": str(model), "adapter": str(tmp_path / "adapter"), "target": str(tmp_path / "merged")}
    asked = MergeRequest(**folders, onto=(onto,), training=config, rows=rows, texts=())
    (work / "request.json").write_text(asked.model_dump_json(), encoding="utf-8")
    measured = peak_bytes([sys.executable, "-m", "core.export.worker", str(work)])
    ratio = merge_bytes(shape or SMOLLM, config, onto_dequantised=onto == "dequantised") / measured
    record_property(f"estimated / measured RAM of merging {name}, {onto}", round(ratio, 3))
    assert ratio == pytest.approx(1, abs=TOLERANCE)
    broken = 2 * (shape or SMOLLM).parameters() / measured
    record_property("broken on purpose: the size of the weights in 16 bits", round(broken, 3))
    assert broken != pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize(("kind", "context"), [("Q8_0", 128), ("Q4_K_M", 512)])
def test_an_inference_s_peak_is_estimated(
    kind: str, context: int, toolchain, default_gguf: Path, tmp_path: Path, record_property: Record
) -> None:
    model = tmp_path / f"{kind}.gguf"
    program = toolchain.program
    quantise = [program("llama-quantize"), "--allow-requantize", default_gguf, model, kind]
    subprocess.run([str(word) for word in quantise], check=True, capture_output=True)
    bench = [program("llama-bench"), "-m", model, "-p", context, "-n", 32, "-r", 1, "-t", 2]
    ratio = inference_bytes(SMOLLM, kind, context) / peak_bytes([str(word) for word in bench])
    record_property(f"estimated / measured RAM of llama-bench, {kind}, {context} tokens", round(ratio, 3))
    assert ratio == pytest.approx(1, abs=TOLERANCE)
