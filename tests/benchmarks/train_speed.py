"""Trains with every guard on and with plain TRL + PEFT in turn: `python -m tests.benchmarks.train_speed OUT.json [--cuda]`.

Pairs in one run, each training in a forked child of a process that has imported torch and computed nothing, the order of a
pair changing from one to the next. Both take the same rows in the same order with the same settings, evaluate before and after,
and are timed from the first step's beginning to the last one's end, checkpoints included.

With --cuda: a Llama of 1.2 G random weights, max_length 2048, bf16 QLoRA; elsewhere what `--student FOLDER` names, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTTrainer

from core.config import TrainConfig
from core.data.record import TokenisedRow
from core.events import ignore
from core.files import digest_of, write_json_lines
from core.train import worker
from core.train.checkpoints import Training
from core.train.held_out.worker import labels_of
from core.train.request import TrainRequest

WAYS = ("guarded", "plain")
BROKEN = "broken"
_LLAMA_1B = {  # the sizes of Llama-3.2-1B
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
_LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
_SHARED = {"student": "measured", "num_train_epochs": 1, "learning_rate": 1e-4, "seed": 5, "lora": _LORA}


@dataclass(frozen=True)
class Setting:
    """What is trained: a student's folder, how, on how many random rows of how many tokens."""

    student: str
    config: dict[str, Any]
    rows: int
    tokens: int
    vocabulary: int
    device: str
    held_out: int = field(default=4)

    def drawn(self, split: str, count: int) -> list[TokenisedRow]:
        """Return rows whose first quarter is the prompt."""
        draw = random.Random(split)
        made = []
        for number in range(count):
            length = draw.randrange(3 * self.tokens // 4, self.tokens + 1)
            ids = tuple(draw.randrange(3, self.vocabulary) for _ in range(length))
            mask = tuple(int(place >= length // 4) for place in range(length))
            made.append(TokenisedRow(row_id=f"{split}-{number}", input_ids=ids, completion_mask=mask))
        return made

    @property
    def train_config(self) -> TrainConfig:
        """The section both ways take."""
        return TrainConfig.model_validate({**_SHARED, "device": self.device, **self.config})


def timed(train: Callable[[], object], device: str) -> float:
    """Return the seconds that a training takes."""
    _wait(device)
    began = time.perf_counter()
    train()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device: str) -> int:
    """Return the most memory this process held: on the GPU what torch took from the driver, else resident."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def guarded(setting: Setting, folder: Path, *, broken: bool = False) -> dict[str, Any]:
    """Train with the worker; broken on purpose it saves at every step and keeps a copy of all weights in memory."""
    config, seconds = setting.train_config, []
    if broken:
        config = config.model_copy(update={"checkpoint_steps": 1})
    train = worker.ExactTrainer.train

    def measured(trainer: Any, *given: Any, **named: Any) -> None:
        trainer.kept = [parameter.detach().clone() for parameter in trainer.model.parameters()] if broken else []
        seconds.append(timed(lambda: train(trainer, *given, **named), setting.device))

    worker.ExactTrainer.train = measured
    result = worker.work(_request(setting, config, folder), folder, ignore)
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"seconds": seconds[0], "steps": result.steps, "losses": [step["loss"] for step in steps]}


def _request(setting: Setting, config: TrainConfig, folder: Path) -> TrainRequest:
    for split, count in (("train", setting.rows), ("held_out", setting.held_out)):
        write_json_lines(folder / f"{split}.jsonl", (row.model_dump(mode="json") for row in setting.drawn(split, count)))
    return TrainRequest(
        student_folder=setting.student,
        student_name="measured",
        train=str(folder / "train.jsonl"),
        held_out=str(folder / "held_out.jsonl"),
        adapter=str(folder / "adapter"),
        steps=str(folder / "steps.jsonl"),
        metrics=str(folder / "metrics.jsonl"),
        held_out_losses=str(folder / "held_out_losses.jsonl"),
        checkpoints=str(folder / "checkpoints"),
        resume_from=None,
        config=config,
        training=Training(config=digest_of(config.shaping()), rows="0" * 64, student="measured"),
        versions={"torch": torch.__version__},
    )


def plain(setting: Setting, folder: Path) -> dict[str, Any]:
    """Train with TRL's own trainer and the same settings, the adapter in fp32 too."""
    config, device = setting.train_config, setting.device
    set_seed(config.seed)
    trainer = SFTTrainer(
        model=worker.load_student(setting.student, config, device, worker.compute_dtype(device)),
        args=worker._arguments(config, device, folder),
        train_dataset=_dataset(setting.drawn("train", setting.rows)),
        eval_dataset=_dataset(setting.drawn("held_out", setting.held_out)),
        processing_class=AutoTokenizer.from_pretrained(setting.student),
        peft_config=worker.lora_config(config),
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.args.per_device_eval_batch_size = config.per_device_train_batch_size
    trainer.evaluate()
    seconds = timed(trainer.train, device)
    trainer.evaluate()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "steps": trainer.state.global_step, "losses": losses}


def _dataset(rows: list[TokenisedRow]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [list(row.input_ids) for row in rows], "labels": [labels_of(row) for row in rows]}
    )


def in_child(setting: Setting, way: str, folder: Path) -> dict[str, Any]:
    """Do one training in a forked child and return what it measured."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            done = plain(setting, folder) if way == "plain" else guarded(setting, folder, broken=way == BROKEN)
            told = {**done, "peak_bytes": peak_bytes(setting.device)}
            (folder / "measured.json").write_text(json.dumps(told), encoding="utf-8")
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if ended:
        sys.exit(f"{way} ended with {ended}")
    return dict(json.loads((folder / "measured.json").read_text(encoding="utf-8")))


def pairs(setting: Setting, ways: tuple[str, str], count: int, folder: Path) -> list[dict[str, Any]]:
    """Return the pairs' measurements; who goes first changes from pair to pair."""
    found = []
    for number in range(count):
        order = ways if number % 2 == 0 else ways[::-1]
        found.append({way: in_child(setting, way, folder / way) for way in order})
        sys.stderr.write(f"pair {number + 1} of {count}: {compared([found[-1]], ways)}\n")
    return found


def compared(found: list[dict[str, Any]], ways: tuple[str, str]) -> dict[str, float]:
    """Return the medians over pairs: how fast the first way is and how much memory it takes, the second being 1."""
    first, second = ways
    return {
        "tokens_per_s": statistics.median(pair[second]["seconds"] / pair[first]["seconds"] for pair in found),
        "peak_memory": statistics.median(pair[first]["peak_bytes"] / pair[second]["peak_bytes"] for pair in found),
        "furthest_loss": max(
            abs(one - other) for pair in found for one, other in zip(*(pair[way]["losses"] for way in ways), strict=True)
        ),
    }


def build_llama(folder: Path) -> None:
    """Write a Llama of 1.2 G random weights, in a child, with a tokenizer that no row needs."""
    child = os.fork()
    if child == 0:
        torch.manual_seed(7)
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(LlamaConfig(**_LLAMA_1B, pad_token_id=0, eos_token_id=1)).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        tokenizer.save_pretrained(folder)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("the student could not be made")


def setting_for(arguments: argparse.Namespace, scratch: Path) -> Setting:
    """Return what is measured on this device."""
    if not arguments.cuda:
        config = {"per_device_train_batch_size": 4, "layer_norm_steps": 10}
        vocabulary = json.loads((Path(arguments.student) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        return Setting(arguments.student, config, rows=4 * arguments.steps, tokens=64, vocabulary=vocabulary, device="cpu")
    build_llama(scratch / "student")
    config = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 2048}
    config |= {"layer_norm_steps": 10, "optim": "paged_adamw_8bit"}
    vocabulary = int(str(_LLAMA_1B["vocab_size"]))
    return Setting(
        str(scratch / "student"), config, rows=4 * arguments.steps, tokens=2048, vocabulary=vocabulary, device="cuda"
    )


def main() -> None:
    """Measure and write the medians with every pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--student", help="a Hugging Face folder, for the CPU")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="so many that the first checkpoint and the last weigh little")
    parser.add_argument("--broken", type=int, default=1, help="pairs of the variant that is broken on purpose")
    arguments = parser.parse_args()
    if not arguments.cuda and not arguments.student:
        parser.error("name a --student, or take --cuda")
    with tempfile.TemporaryDirectory(prefix="edgekiln-speed-") as name:
        setting = setting_for(arguments, Path(name))
        found = pairs(setting, ("guarded", "plain"), arguments.pairs, Path(name))
        broken = pairs(setting, (BROKEN, "plain"), arguments.broken, Path(name))
    told = {
        "guarded": compared(found, ("guarded", "plain")),
        "broken": compared(broken, (BROKEN, "plain")) if broken else None,
        "pairs": [{way: {k: v for k, v in pair[way].items() if k != "losses"} for way in pair} for pair in found],
    }
    arguments.output.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
