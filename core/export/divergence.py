"""How far a GGUF file's next tokens are from the F32 file's: perplexity and KL divergence by llama-perplexity."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.contract import Stage
from core.env.host import affinity
from core.errors import GateRefused, ProcessFailed
from core.events import Note, OnEvent
from core.export.chunks import telling
from core.export.merge import ReferenceText
from core.export.perplexity_host import hosted
from core.nouns import Divergence
from core.process import ended_by_signal, run
from core.toolchain import Toolchain

FEWEST_TOKENS = 256  # llama-perplexity wants 100 scored tokens; of eight chunks of 32 it scores 120
_CHUNKS = 8
_LONGEST_CONTEXT = 512  # llama-perplexity's own default
_NUMBER = r"(-?(?:[\d.]+|nan|inf))"
_PRINTED = {
    "perplexity": rf"Mean PPL\(Q\) +: +{_NUMBER} ± +{_NUMBER}",
    "reference_perplexity": rf"Mean PPL\(base\) +: +{_NUMBER} ± +{_NUMBER}",
    "perplexity_ratio": rf"Mean PPL\(Q\)/PPL\(base\) +: +{_NUMBER} ± +{_NUMBER}",
    "kl_mean": rf"Mean +KLD: +{_NUMBER} ± +{_NUMBER}",
    "kl_p99": rf"99\.0% +KLD: +{_NUMBER}",
    "kl_max": rf"Maximum KLD: +{_NUMBER}",
    "same_top_percent": rf"Same top p: +{_NUMBER} ± +{_NUMBER}",
}
# llama-perplexity, tools/perplexity/perplexity.cpp: the magic, then the context, the vocabulary and the chunks
_LOGITS_HEAD = struct.Struct("<8s3i")


@dataclass(frozen=True)
class Runner:
    """Runs llama-perplexity; `scratch` takes its texts, logits and logs."""

    toolchain: Toolchain
    scratch: Path
    on_event: OnEvent
    timeout_s: float

    def run(self, gguf: Path, n_ctx: int, arguments: Sequence[str], told: tuple[str, int]) -> str:
        """Run a file in chunks of `n_ctx` tokens and return what is printed; `told` is the task and its chunks."""
        folder = self.scratch / gguf.stem
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / "printed.txt"
        # f32 cache and no flash attention, as in gguf_loss/runner.py: what is seen is what the weights lost
        given = [
            *("--model", str(gguf), "--kl-divergence-base", str(self.logits)),
            *("--ctx-size", str(n_ctx), "--batch-size", str(n_ctx), "--threads", str(affinity())),
            *("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off", "--no-warmup"),
            *arguments,
        ]
        argv = hosted(self.toolchain, given)
        tick = telling(output, *told, self.on_event)
        run(argv, log=folder / "log", stdout=output, timeout_s=self.timeout_s, on_tick=tick)
        return output.read_text(encoding="utf-8", errors="replace")

    @property
    def logits(self) -> Path:
        """Return where the F32 file's log-probabilities are kept."""
        return self.scratch / "logits.bin"


@dataclass(frozen=True)
class Baseline:
    """What the F32 file predicts over a text: its log-probabilities as llama-perplexity keeps them, 16 bits each."""

    runner: Runner
    n_ctx: int
    chunks: int

    def compare(self, gguf: Path) -> Divergence:
        """Return a file's divergence; GateRefused when llama-perplexity cannot run it or prints what is no number."""
        told = (f"divergence, {gguf.name}", self.chunks)
        try:
            printed = self.runner.run(gguf, self.n_ctx, ["--kl-divergence"], told)
        except ProcessFailed as error:
            # only a signal is the file's doing, as in gguf_loss/loss.py
            if not ended_by_signal(error):
                raise
            raise GateRefused(
                f"{gguf.name}: {error.problem}", remedy=f"Read {self.runner.scratch / gguf.stem / 'log'}."
            ) from error
        return Divergence(n_ctx=self.n_ctx, chunks=self.chunks, **_figures(printed, gguf.name))


def baseline(f32: Path, texts: Sequence[ReferenceText], most_tokens: int, runner: Runner) -> Baseline | None:
    """Run the F32 file over the texts and keep what it predicts.

    None, and a warning, where the texts are too short for a mean or llama.cpp ends on the file.
    """
    text, tokens = _joined(texts, most_tokens)
    if tokens < FEWEST_TOKENS:
        _tell_unmeasured(f"the held-out texts have {tokens} tokens < {FEWEST_TOKENS}", runner.on_event)
        return None
    n_ctx = min(_LONGEST_CONTEXT, 1 << int(math.log2(tokens / _CHUNKS)))
    runner.scratch.mkdir(parents=True, exist_ok=True)
    source = runner.scratch / "text.txt"
    source.write_text(text, encoding="utf-8")
    try:
        runner.run(f32, n_ctx, ["--file", str(source)], ("divergence, what the F32 file says", tokens // n_ctx))
    except ProcessFailed as error:
        if not ended_by_signal(error):
            raise
        _tell_unmeasured(error.problem, runner.on_event)
        return None
    return Baseline(runner, n_ctx, _chunks(runner.logits))


def _chunks(logits: Path) -> int:
    with logits.open("rb") as stream:
        return int(_LOGITS_HEAD.unpack(stream.read(_LOGITS_HEAD.size))[3])


def _tell_unmeasured(why: str, on_event: OnEvent) -> None:
    on_event(Note(stage=Stage.EXPORT, text=f"no file's divergence is measured: {why}", level="warning"))


def _joined(texts: Sequence[ReferenceText], most_tokens: int) -> tuple[str, int]:
    chosen: list[str] = []
    tokens = 0
    for one in texts:
        if tokens + len(one.ids) > most_tokens:
            break
        chosen.append(one.text)
        tokens += len(one.ids)
    return "\n\n".join(chosen), tokens


def _figures(printed: str, name: str) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for figure, pattern in _PRINTED.items():
        match = re.search(pattern, printed)
        values = [float(one) for one in match.groups()] if match else []
        if not values or not math.isfinite(values[0]):
            raise GateRefused(
                f"{name}: llama-perplexity prints {match.group(0) if match else 'nothing'} as {figure}",
                remedy="The file's weights are broken: export again from a sound adapter.",
            )
        # the root of a difference that rounding made negative is printed as nan: the error is below what can be told
        errors = [value if math.isfinite(value) else 0.0 for value in values[1:]]
        found |= dict(zip((figure, f"{figure}_error"), (values[0], *errors), strict=False))
    top, error = (found.pop(key) / 100 for key in ("same_top_percent", "same_top_percent_error"))
    return {**found, "same_top_share": top, "same_top_share_error": error}
