"""Trains with every guard on and with plain TRL + PEFT in turn: `python -m tests.benchmarks.train_speed OUT.json [--cuda]`.

The two of a pair run at once, each in a forked child of a process that has imported torch and computed nothing, and take turns
step by step, one waiting while the other computes: whatever else the machine does falls on both alike. Both take the same rows
in the same order with the same settings and evaluate before and after; timed is all between the first step's beginning and the
training's end that was a turn of one's own. Both save a checkpoint at the end; the way called `unsaved` is plain too and
never saves.

Where a process's heap and weights come to lie in memory alone makes two trainings alike differ by up to 6 % in what they compute
(TRL's own training step, on equal numbers). So the speeds that are compared have the mean of both ways in its place, and their
own seconds for all that is beside it; the ratio of the whole turns is told too.

With --cuda: a Llama of 1.2 G random weights, max_length 2048, bf16 QLoRA; elsewhere what `--student FOLDER` names, on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
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
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from transformers.trainer_utils import SaveStrategy
from trl import SFTTrainer

from core.config import TrainConfig
from core.data.record import TokenisedRow
from core.events import ignore
from core.files import digest_of, write_json_lines
from core.train import worker
from core.train.checkpoints import Training
from core.train.held_out.worker import labels_of
from core.train.request import TrainRequest

GUARDED, PLAIN, UNSAVED, BROKEN = "guarded", "plain", "unsaved", "broken"
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
# rows of random tokens have gradients that stand out: they are told, the training goes on
_WATCHED = {"supervision": {"acts": False}}
_SHARED = {**_WATCHED, "student": "measured", "num_train_epochs": 1, "learning_rate": 1e-4, "seed": 5, "lora": _LORA}


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


class Turns(TrainerCallback):  # type: ignore[misc]  # transformers' own classes carry no types here
    """One side of two trainings that compute in turn; `seconds` adds up the turns of this one.

    A turn is a byte in a pipe: one reads its own to go on and writes the other's to let it go on.
    """

    def __init__(self, mine: int, others: int, device: str, *, goes_first: bool) -> None:
        self.seconds, self.computing_s = 0.0, 0.0
        self._mine, self._others, self._device = mine, others, device
        self._goes_first, self._began = goes_first, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """End a turn and take the next; the first one's first begins once the other is as far."""
        if self._began:
            self._pass_on()
        elif not self._goes_first:
            self._give()
        self._take()

    def train(self, train: Callable[[], object]) -> None:
        """Train in turns; what follows is done once the other has trained too."""
        train()
        self._pass_on()
        self._take()

    def count_computing(self) -> None:
        """Have TRL's training step, of any trainer in this process, add up how long it takes."""
        training_step = SFTTrainer.training_step

        def counted(*given: Any, **named: Any) -> Any:
            began = self._now()
            loss = training_step(*given, **named)
            self.computing_s += self._now() - began
            return loss

        SFTTrainer.training_step = counted

    def _pass_on(self) -> None:
        self.seconds += self._now() - self._began
        self._give()

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _give(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the other has ended, or failed and says so itself
            os.write(self._others, b".")

    def _take(self) -> None:
        os.read(self._mine, 1)
        self._began = time.perf_counter()


def peak_bytes(device: str) -> int:
    """Return the most memory this process held: on the GPU what torch took from the driver, else resident."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def guarded(setting: Setting, folder: Path, turns: Turns, *, broken: bool = False) -> dict[str, Any]:
    """Train with the worker; broken on purpose it saves at every step and keeps a copy of all weights in memory."""
    config = setting.train_config
    if broken:
        config = config.model_copy(update={"checkpoint_steps": 1})
    train = worker.ExactTrainer.train

    def measured(trainer: Any, *given: Any, **named: Any) -> None:
        trainer.kept = [parameter.detach().clone() for parameter in trainer.model.parameters()] if broken else []
        trainer.add_callback(turns)
        turns.train(lambda: train(trainer, *given, **named))

    worker.ExactTrainer.train = measured
    result = worker.work(_request(setting, config, folder), folder, ignore)
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"steps": result.steps, "losses": [step["loss"] for step in steps]}


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


def plain(setting: Setting, folder: Path, turns: Turns, *, saves: bool = True) -> dict[str, Any]:
    """Train with TRL's own trainer and the same settings, the adapter in fp32 too."""
    config, device = setting.train_config, setting.device
    set_seed(config.seed)
    arguments = worker._arguments(config, device, folder)
    arguments.save_strategy, arguments.save_steps = SaveStrategy("steps" if saves else "no"), config.checkpoint_steps
    trainer = SFTTrainer(
        model=worker.load_student(setting.student, config, device, worker.compute_dtype(device)),
        args=arguments,
        train_dataset=_dataset(setting.drawn("train", setting.rows)),
        eval_dataset=_dataset(setting.drawn("held_out", setting.held_out)),
        processing_class=AutoTokenizer.from_pretrained(setting.student),
        peft_config=worker.lora_config(config),
        callbacks=[turns],
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.args.per_device_eval_batch_size = config.per_device_train_batch_size
    trainer.evaluate()
    turns.train(trainer.train)
    trainer.evaluate()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"steps": trainer.state.global_step, "losses": losses}


def _dataset(rows: list[TokenisedRow]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [list(row.input_ids) for row in rows], "labels": [labels_of(row) for row in rows]}
    )


def train(setting: Setting, way: str, folder: Path, turns: Turns) -> None:
    """Do one training and write what was measured; ends the process it is in."""
    status = 1
    try:
        folder.mkdir(parents=True)
        is_plain = way in (PLAIN, UNSAVED)
        turns.count_computing()
        done = (
            plain(setting, folder, turns, saves=way == PLAIN)
            if is_plain
            else guarded(setting, folder, turns, broken=way == BROKEN)
        )
        told = {
            **done,
            "seconds": turns.seconds,
            "computing_s": turns.computing_s,
            "peak_bytes": peak_bytes(setting.device),
        }
        (folder / "measured.json").write_text(json.dumps(told), encoding="utf-8")
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def pair(setting: Setting, order: tuple[str, str], folder: Path) -> dict[str, Any]:
    """Do two trainings in turn, each in a forked child, and return what each measured."""
    ends = os.pipe(), os.pipe()
    children = []
    for number, way in enumerate(order):
        shutil.rmtree(folder / way, ignore_errors=True)
        children.append(os.fork())
        if children[-1] == 0:
            (mine, to_me), (to_other, others) = ends[number], ends[1 - number]
            os.close(to_me)
            os.close(to_other)
            train(setting, way, folder / way, Turns(mine, others, setting.device, goes_first=number == 0))
    for end in (*ends[0], *ends[1]):
        os.close(end)
    failed = [way for way, child in zip(order, children, strict=True) if os.waitpid(child, 0)[1]]
    if failed:
        sys.exit(f"{' and '.join(failed)} failed")
    return {way: json.loads((folder / way / "measured.json").read_text(encoding="utf-8")) for way in order}


def pairs(setting: Setting, ways: tuple[str, str], count: int, folder: Path) -> list[dict[str, Any]]:
    """Return the pairs' measurements; who goes first changes from pair to pair."""
    found = []
    for number in range(count):
        found.append(pair(setting, ways if number % 2 == 0 else ways[::-1], folder))
        sys.stderr.write(f"pair {number + 1} of {count}: {compared([found[-1]], ways)}\n")
    return found


def compared(found: list[dict[str, Any]], ways: tuple[str, str]) -> dict[str, float]:
    """Return the medians over pairs: how fast the first way is and how much memory it takes, the second being 1."""
    first, second = ways
    return {
        "tokens_per_s": statistics.median(_with_equal_computing(each[first], each[second]) for each in found),
        "whole_turns": statistics.median(each[second]["seconds"] / each[first]["seconds"] for each in found),
        "peak_memory": statistics.median(each[first]["peak_bytes"] / each[second]["peak_bytes"] for each in found),
        "furthest_loss": max(
            abs(one - other) for each in found for one, other in zip(*(each[way]["losses"] for way in ways), strict=True)
        ),
    }


def _with_equal_computing(one: dict[str, Any], other: dict[str, Any]) -> float:
    computing_s = (one["computing_s"] + other["computing_s"]) / 2
    first_s, second_s = (computing_s + way["seconds"] - way["computing_s"] for way in (one, other))
    return float(second_s / first_s)


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
    saved = {"checkpoint_steps": arguments.steps}
    if not arguments.cuda:
        config = {"per_device_train_batch_size": 4, "layer_norm_steps": 10, **saved}
        vocabulary = json.loads((Path(arguments.student) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        return Setting(arguments.student, config, rows=4 * arguments.steps, tokens=64, vocabulary=vocabulary, device="cpu")
    build_llama(scratch / "student")
    config = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 2048}
    config |= {"layer_norm_steps": 10, "optim": "paged_adamw_8bit", **saved}
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
    parser.add_argument("--steps", type=int, default=12, help="with one checkpoint, more often than in use")
    parser.add_argument("--unsaved", type=int, default=1, help="pairs with plain training that never saves")
    parser.add_argument("--broken", type=int, default=1, help="pairs of the variant that is broken on purpose")
    arguments = parser.parse_args()
    if not arguments.cuda and not arguments.student:
        parser.error("name a --student, or take --cuda")
    with tempfile.TemporaryDirectory(prefix="edgekiln-speed-") as name:
        setting = setting_for(arguments, Path(name))
        found = pairs(setting, (GUARDED, PLAIN), arguments.pairs, Path(name))
        unsaved = pairs(setting, (GUARDED, UNSAVED), arguments.unsaved, Path(name))
        broken = pairs(setting, (BROKEN, PLAIN), arguments.broken, Path(name))
    told = {
        GUARDED: compared(found, (GUARDED, PLAIN)),
        UNSAVED: compared(unsaved, (GUARDED, UNSAVED)) if unsaved else None,
        BROKEN: compared(broken, (BROKEN, PLAIN)) if broken else None,
        "pairs": [{way: {k: v for k, v in each[way].items() if k != "losses"} for way in each} for each in found],
    }
    arguments.output.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
