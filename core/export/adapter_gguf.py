"""The adapter alone as a GGUF file, which llama.cpp adds to its base: made by llama.cpp's own converter, then proven."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.contract import Contract, Limit, Stage, judge
from core.data.record import TokenisedRow
from core.errors import BadConfig, GateRefused
from core.events import Note, OnEvent
from core.export.convert import convert, make
from core.export.gguf_loss.loss import TrialRequest, run_trial
from core.export.inspect import Pair, read_adapter
from core.nouns import AdapterFile
from core.toolchain import Toolchain

SUFFIX = "-adapter"
# keys of adapter_config.json that change what the adapter does and have no place in llama.cpp's file (convert_lora_to_gguf.py)
_NOT_EXPRESSED = (
    *("use_dora", "use_rslora", "lora_bias", "modules_to_save", "alpha_pattern", "trainable_token_indices"),
    *("layer_replication", "alora_invocation_tokens"),
)
_LIMIT = Limit(
    metric="adapter.loss_difference", op="<=", value=0.02
)  # 1.4e-3 on SmolLM2: merged weights are rounded to bf16


def require_expressible(adapter: Path, artifact_id: str) -> None:
    """Raise BadConfig that names what of a PEFT adapter llama.cpp's format has no place for."""
    config = _config(adapter)
    found = [f"{key}={config[key]}" for key in _NOT_EXPRESSED if config.get(key)]
    found += [f"bias={config['bias']}"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA":
        found.insert(0, f"peft_type={config.get('peft_type')}")
    if found:
        raise BadConfig(
            f"export.adapter_gguf is true, adapter {artifact_id} has {', '.join(found)}, for which llama.cpp's adapter file "
            "has no place",
            remedy="Set export.adapter_gguf=false, or train again without (train.lora).",
        )


class Trained(Contract):
    """An adapter as PEFT saved it: its scale, and its pairs by the name of the module they change."""

    lora_alpha: float
    pairs: dict[str, Pair]


@dataclass(frozen=True)
class AdapterGguf:
    """One adapter and the base it is for, both as Hugging Face folders."""

    adapter: Path
    base: Path
    name: str
    toolchain: Toolchain
    on_event: OnEvent
    timeout_s: float

    def written(self, target: Path, rows: tuple[TokenisedRow, ...], merged_loss: float, scratch: Path) -> AdapterFile:
        """Write the file and hold it against the adapter and the merged model; it is removed when anything is against it.

        `merged_loss` is that of the model merged onto the base's own weights. ProcessFailed with the converter's words.
        """
        scratch.mkdir(parents=True)
        made, base = scratch / target.name, scratch / "base-F32.gguf"
        script = self.toolchain.source / "convert_lora_to_gguf.py"
        argv = [sys.executable, str(script), "--base", str(self.base), "--outtype", "f32", "--outfile", str(made)]
        make([*argv, str(self.adapter)], made, "convert the adapter", self.on_event, self.timeout_s)
        convert(self.base, base, self.name, self.toolchain, self.on_event, timeout_s=self.timeout_s)
        judged = self.judged(made, base, rows, merged_loss)
        base.unlink()
        for reason in judged.reasons:
            self.on_event(Note(stage=Stage.EXPORT, text=f"{made.name} is rejected: {reason}", level="warning"))
        if not judged.reasons:
            made.rename(target)
        return judged

    def judged(self, made: Path, base: Path, rows: tuple[TokenisedRow, ...], merged_loss: float) -> AdapterFile:
        """Read and run an adapter's file; a broken one is a judgement too, never an error."""
        trained = trained_in(self.adapter)
        own = {"path": made.name, "bytes": made.stat().st_size, "lora_alpha": trained.lora_alpha}
        own |= {"r": max(pair.r for pair in trained.pairs.values()), "pairs": len(trained.pairs)}
        reasons: list[str] = []
        loss = None
        try:
            reasons += structure_problems(made, base, trained)
            if not reasons:
                loss = self._loss(made, base, rows)
                reasons += _far(loss, merged_loss)
        except GateRefused as error:
            reasons.append(error.problem)
        told = {"held_out_loss": loss, "merged_held_out_loss": merged_loss, "reasons": tuple(reasons)}
        return AdapterFile.model_validate({**own, **told})

    def _loss(self, made: Path, base: Path, rows: tuple[TokenisedRow, ...]) -> float | None:
        request = TrialRequest(
            gguf=str(base), adapter=str(made), toolchain=self.toolchain, rows=rows, texts=(), answer_tokens=0
        )
        return run_trial(request, base.parent / "trial", self.on_event, timeout_s=self.timeout_s).held_out_loss


def _far(loss: float | None, merged_loss: float) -> list[str]:
    measured = {} if loss is None else {_LIMIT.metric: abs(loss - merged_loss)}
    return [
        f"{_LIMIT.metric} {measured.get(_LIMIT.metric, 'not a number')}, limit {_LIMIT.op} {_LIMIT.value:g}"
        for _ in judge((_LIMIT,), measured).failures
    ]


def trained_in(adapter: Path) -> Trained:
    """Read the scale and the shapes of a PEFT adapter."""
    from safetensors import safe_open

    pairs: dict[str, Pair] = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as tensors:
        for key in tensors.keys():  # noqa: SIM118 - it is no mapping
            if key.endswith(".lora_A.weight"):
                name = key.removesuffix(".lora_A.weight")
                r, inputs = tensors.get_slice(key).get_shape()
                outputs, _ = tensors.get_slice(f"{name}.lora_B.weight").get_shape()
                pairs[name.removeprefix("base_model.model.")] = Pair(inputs=inputs, r=r, outputs=outputs)
    return Trained(lora_alpha=float(_config(adapter)["lora_alpha"]), pairs=pairs)


def _config(adapter: Path) -> Mapping[str, Any]:
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    return config


def structure_problems(made: Path, base: Path, trained: Trained) -> list[str]:
    """Return where a file is not the trained adapter, or not one for its base; GateRefused when it cannot be read."""
    facts = read_adapter(made, base, tuple(trained.pairs))
    problems = []
    if facts.kind != ("adapter", "lora"):
        problems.append(f"it says it is {facts.kind}, not a LoRA adapter")
    if facts.architecture != facts.base_architecture:
        problems.append(f"its architecture is {facts.architecture}, its base's {facts.base_architecture}")
    if facts.lora_alpha != trained.lora_alpha:
        problems.append(f"its alpha is {facts.lora_alpha:g}, the adapter's {trained.lora_alpha:g}")
    wanted = {facts.names[module]: pair for module, pair in trained.pairs.items()}
    problems += [
        f"its pair {name} is {_shown(facts.pairs.get(name))}, the adapter's {_shown(wanted.get(name))}"
        for name in sorted(wanted.keys() | facts.pairs.keys())
        if facts.pairs.get(name) != wanted.get(name)
    ]
    problems += [
        f"its pair {name} is {_shown(pair)}, its base's tensor {facts.base_shapes.get(name, 'is not there')}"
        for name, pair in facts.pairs.items()
        if facts.base_shapes.get(name) != (pair.inputs, pair.outputs)
    ]
    return problems


def _shown(pair: Pair | None) -> str:
    return "not there" if pair is None else f"{pair.outputs} x {pair.r} x {pair.inputs}"
