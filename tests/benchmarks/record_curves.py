"""Records tests/data/curves/curves.jsonl: `python -m tests.benchmarks.record_curves`; some four minutes on one core.

A Llama of two layers learns the bytes of Python's own documentation, from nothing and as a fine-tuning with LoRA; clean
runs of several seeds and learning rates, and the same runs with a fault from one step on.
"""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.benchmarks.curves import RECORDED, Curve, write

CONTEXT = 96
HELD_OUT_EVERY = 25
AFTER = 60
_IGNORED = -100


@dataclass(frozen=True)
class Run:
    """One training; `fault` begins at `fault_step`."""

    regime: str
    seed: int
    learning_rate: float
    batch: int
    steps: int
    fault: str | None = None
    fault_step: int | None = None

    @property
    def name(self) -> str:
        what = f", {self.fault} at {self.fault_step}" if self.fault else ""
        return f"{self.regime}, seed {self.seed}, rate {self.learning_rate:g}{what}"


CLEAN = (
    Run("from nothing", 1, 3e-3, 16, 800),
    Run("from nothing", 2, 1e-3, 16, 800),
    Run("from nothing", 3, 6e-3, 8, 800),
    Run("from nothing", 4, 2e-3, 4, 800),
    Run("LoRA", 1, 2e-3, 4, 800),
    Run("LoRA", 2, 5e-4, 4, 800),
    Run("LoRA", 3, 4e-3, 8, 800),
    Run("LoRA", 4, 1e-3, 2, 800),
    Run("LoRA, one row a step", 1, 1e-3, 1, 800),
    Run("LoRA, one row a step", 2, 3e-3, 1, 800),
    Run("LoRA, one row a step", 3, 5e-4, 1, 800),
    Run("LoRA, few rows", 1, 3e-3, 4, 800),
    Run("LoRA, few rows", 2, 1e-2, 4, 800),
)
FAULTS = ("rate x100", "rate x1000", "poisoned rows", "half-poisoned rows", "NaN gradient")
FAULT_STEPS = (40, 70, 150, 330)


def runs() -> Iterator[Run]:
    """Yield the clean runs, then each kind of fault on the first two runs of three regimes, at alternating steps."""
    yield from CLEAN
    chosen = [run for run in CLEAN if run.regime != "LoRA, few rows" and run.seed <= 2]
    for number, run in enumerate(chosen):
        for offset, fault in enumerate(FAULTS):
            step = FAULT_STEPS[(number + offset) % len(FAULT_STEPS)]
            yield replace(run, fault=fault, fault_step=step, steps=run.steps)


def rows() -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return rows to learn first, rows to fine-tune on and rows held out: paragraphs of the language reference."""
    paragraphs = [
        " ".join(paragraph.split()).encode()[:CONTEXT]
        for name in sorted(topics)
        for paragraph in topics[name].split("\n\n")
        if len(paragraph.strip()) > 12
    ]
    random.Random(0).shuffle(paragraphs)
    code = [row for row in paragraphs if any(mark in row for mark in (b"::=", b">>>", b"def ", b"()"))]
    prose = [row for row in paragraphs if row not in set(code)]
    return prose, code[48:], code[:48]


def fresh(seed: int) -> LlamaForCausalLM:
    """Return an untrained model of 0.1 M weights over bytes."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )
    )


def loss_of(model: torch.nn.Module, batch: list[bytes]) -> torch.Tensor:
    width = max(map(len, batch))
    ids = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), _IGNORED)
    for index, row in enumerate(batch):
        ids[index, : len(row)] = torch.tensor(list(row))
        labels[index, : len(row)] = ids[index, : len(row)]
    return model(input_ids=ids, labels=labels).loss


def record(run: Run, base: LlamaForCausalLM | None, learned: list[bytes], held_out: list[bytes]) -> Curve:
    """Train and return the curve; a run with a fault ends sixty steps after it."""
    model: torch.nn.Module = fresh(run.seed) if base is None else copy.deepcopy(base)
    torch.manual_seed(run.seed)
    if base is not None:
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=run.learning_rate, weight_decay=0.0)
    draw = random.Random(run.seed)
    end = run.steps if run.fault_step is None else run.fault_step + AFTER
    losses, norms, evaluated = [], [], []
    for step in range(end):
        if step % HELD_OUT_EVERY == 0:
            with torch.no_grad():
                evaluated.append((step, float(loss_of(model, held_out))))
        batch = _poisoned([draw.choice(learned) for _ in range(run.batch)], run, step)
        for group in optimiser.param_groups:
            group["lr"] = run.learning_rate * _rate(run, step)
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        if run.fault == "NaN gradient" and step == run.fault_step:
            weights[0].grad[0, 0] = math.nan
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights, 1.0)))
        losses.append(float(loss.detach()))
        optimiser.step()
    about = f"batch {run.batch}, learning rate {run.learning_rate:g}, AdamW, clipped at 1, warm-up 10, cosine"
    before = replace(run, fault=None, fault_step=None).name if run.fault else ""
    return Curve(run.name, tuple(losses), tuple(norms), tuple(evaluated), run.fault, run.fault_step, about, before)


def _rate(run: Run, step: int) -> float:
    usual = min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / run.steps))
    if run.fault is None or not run.fault.startswith("rate") or step < (run.fault_step or 0):
        return usual
    return usual * float(run.fault.removeprefix("rate x"))


def _poisoned(batch: list[bytes], run: Run, step: int) -> list[bytes]:
    """Put random bytes in place of rows for three steps, in place of every other row where half are poisoned."""
    if run.fault is None or "poisoned" not in run.fault or not 0 <= step - (run.fault_step or 0) < 3:
        return batch
    every = 2 if run.fault.startswith("half") and len(batch) > 1 else 1
    noise = random.Random(f"{run.name} {step}")
    return [noise.randbytes(len(row)) if index % every == 0 else row for index, row in enumerate(batch)]


def _require_same_start(curve: Curve, curves: list[Curve]) -> None:
    """Stop where a run with a fault was not its clean run until then: what is stored once would not be what was."""
    begins = curve.fault_step or 0
    clean = {one.name: one for one in curves}.get(curve.before, curve)
    if (curve.loss[:begins], curve.grad_norm[:begins]) != (clean.loss[:begins], clean.grad_norm[:begins]):
        sys.exit(f"{curve.name} differs from {clean.name} before its fault")


def main(path: Path) -> None:
    """Record every run."""
    torch.set_num_threads(1)
    prose, code, held_out = rows()
    base = fresh(0)
    optimiser = torch.optim.AdamW(base.parameters(), lr=3e-3)
    draw = random.Random(0)
    for _ in range(600):
        loss = loss_of(base, [draw.choice(prose) for _ in range(16)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    curves = []
    for run in runs():
        learned = prose if run.regime == "from nothing" else code[:64] if "few rows" in run.regime else code
        curves.append(record(run, None if run.regime == "from nothing" else base, learned, held_out))
        _require_same_start(curves[-1], curves)
        sys.stderr.write(f"{run.name}: loss {curves[-1].loss[0]:.3f} -> {curves[-1].loss[-1]:.3f}\n")
    write(curves, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED)
