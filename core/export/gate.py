"""The gate of a GGUF file: what is measured, which limits it must meet, and what a reused verdict rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.config import ExportConfig
from core.contract import Contract, Limit, LimitFailure, Stage, judge
from core.data.record import TokenisedRow
from core.errors import GateRefused
from core.events import Note, OnEvent
from core.export.divergence import Baseline
from core.export.gguf_loss.loss import Trial, TrialRequest, run_trial
from core.export.gguf_memory.need import Meter
from core.export.inspect import GgufFacts, differences, read_gguf, structure_problems
from core.export.merge import MergeResult
from core.export.source import source_problems
from core.export.tasks import Tasks
from core.export.tasks import metrics as metrics_of
from core.nouns import Divergence, GgufModel, MemoryNeed, Quantisation, RejectedQuantisation, UnprovenQuantisation
from core.toolchain import Toolchain

REQUIRED_METRIC = "required_loss_increase"
_MIB = 1 << 20
_LEVEL = 0.1  # logits nearer than this swap places by rounding alone (SmolLM2 in bf16: up to 0.055)
_LEVEL_IN_F32 = 0.01
_CONVERSION_LIMITS = (
    Limit(metric="conversion.tokenizer_mismatches", op="==", value=0),
    Limit(metric="conversion.splits", op="==", value=0),
    Limit(metric="conversion.loss_difference", op="<=", value=0.05),  # 1e-4 on SmolLM2; bf16 on a GPU rounds more
)
_CAUSES = {
    "tokenizer_mismatches": "another tokenizer was saved than the student was trained with, or special tokens lost their type",
    "conversion.splits": "a tied embedding was trained, or the weights were merged in 4 bit or damaged on their way",
    "conversion.loss_difference": "a tied embedding was trained, or the weights were merged in 4 bit or damaged on their way",
    "loss_increase": "the type is too coarse for this model, or the file's bytes were damaged",
    "kl_mean": "the type is too coarse for this model, or the file's bytes were damaged",
    "memory_mib": "the model, or the context of export.memory_context tokens, is too large for the board: take a coarser type",
    "answer_characters": "the weights are broken, or the chat template ends the answer at once",
}
_OF_ROUNDING = {"loss_increase", "kl_mean"}
ANSWER_TOKENS = 32  # enough to see that it answers; the answer's worth is judged by the loss


class Judged(Contract):
    """One file with its figures; it is kept when there are no reasons against it."""

    type: str
    path: str
    bytes: int
    structure: GgufFacts | None
    trial: Trial | None
    divergence: Divergence | None
    tasks: dict[str, float] = {}
    memory: MemoryNeed | None = None
    reasons: tuple[str, ...]

    def accepted(self) -> Quantisation:
        """Return it as a published file."""
        return Quantisation.model_validate(self._figures().model_dump())

    def rejected(self) -> RejectedQuantisation:
        """Return it as a rejected file."""
        return RejectedQuantisation(quantisation=self._figures(), reasons=self.reasons)

    def _figures(self) -> UnprovenQuantisation:
        return UnprovenQuantisation(
            type=self.type,
            path=self.path,
            bytes=self.bytes,
            bits_per_weight=self.structure.bits_per_weight if self.structure else None,
            fallback_tensors=self.structure.fallback_tensors if self.structure else None,
            held_out_loss=self.trial.held_out_loss if self.trial else None,
            sample=self.trial.sample if self.trial else None,
            divergence=self.divergence,
            memory=self.memory,
        )


@dataclass(frozen=True)
class Gate:
    """What every file of one export is held against; `conversion` says what is wrong with the F32 file all are made of.

    `measured` are the figures of that file against the merged model. Only it is held against the whole corpus: the others
    must have its tokenizer, byte for byte.
    """

    reference: MergeResult
    rows: tuple[TokenisedRow, ...]
    config: ExportConfig
    toolchain: Toolchain
    on_event: OnEvent
    baseline: Baseline | None = None
    tasks: Tasks | None = None
    conversion: tuple[str, ...] = ()
    source: GgufFacts | None = None
    meter: Meter | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    def proven(self, f32: Path, scratch: Path) -> Gate:
        """Hold the F32 file against the merged model and return a gate that knows what is wrong with it."""
        problems: list[str] = []
        try:
            source = read_gguf(f32, "F32")
            problems = source_problems(source, self.reference.source) if self.reference.source else []
            trial = self._try(f32, scratch, self.reference.corpus)
        except GateRefused as error:
            return replace(self, conversion=(*problems, error.problem))
        measured = self._converted(trial)
        problems += [_reason(failure, trial) for failure in judge(_CONVERSION_LIMITS, measured).failures]
        return replace(self, source=source, conversion=tuple(problems), measured=measured)

    def _converted(self, trial: Trial) -> dict[str, float]:
        exact = self.reference.measured_in == "float32"
        level = _LEVEL_IN_F32 if exact else _LEVEL
        loss = trial.held_out_loss
        differs = {} if loss is None else {"conversion.loss_difference": abs(loss - self.reference.held_out_loss)}
        return {
            "conversion.tokenizer_texts": trial.texts,
            "conversion.unnormalised_texts": self.reference.unnormalised,
            "conversion.tokenizer_mismatches": trial.tokenizer_mismatches,
            "conversion.splits": sum(margin > level for margin in trial.splits),
            **differs,
        }

    def examine(self, path: Path, kind: str, scratch: Path) -> Judged:
        """Read, run and judge one file; a broken one is a judgement too, never an error."""
        structure, trial, divergence, memory = None, None, None, None
        tasks: dict[str, float] = {}
        reasons = list(self.conversion)
        try:
            structure = read_gguf(path, kind, self.config.tensor_types.asked())
            reasons += structure_problems(structure, wants_chat_template=self.reference.has_chat_template)
            reasons += differences(structure, self.source) if self.source else []
            if not self.conversion:
                trial = self._try(path, scratch)
                divergence = self.baseline.compare(path) if self.baseline else None
                tasks = self.tasks.shares_of(path, scratch / "tasks") if self.tasks else {}
                memory = self.meter.need(path, structure, scratch / "memory") if self.meter else None
                measured = _measured(kind, trial, self.reference, divergence) | metrics_of(kind, tasks)
                measured |= _memory(kind, memory)
                verdict = judge(_limits(kind, self.config, measured), measured)
                reasons += [_reason(failure, trial, structure) for failure in verdict.failures]
        except GateRefused as error:
            reasons.append(error.problem)
        for reason in reasons:
            self.on_event(Note(stage=Stage.EXPORT, text=f"{path.name} is rejected: {reason}", level="warning"))
        size = path.stat().st_size
        return Judged(
            type=kind,
            path=path.name,
            bytes=size,
            structure=structure,
            trial=trial,
            divergence=divergence,
            tasks=tasks,
            memory=memory,
            reasons=tuple(reasons),
        )

    def _try(self, path: Path, scratch: Path, corpus: str | None = None) -> Trial:
        request = TrialRequest(
            gguf=str(path),
            toolchain=self.toolchain,
            rows=self.rows,
            texts=self.reference.texts,
            corpus=corpus,
            greedy=self.reference.greedy,
            answer_tokens=ANSWER_TOKENS,
        )
        return run_trial(request, scratch, self.on_event, timeout_s=self.config.timeout_s)


def figures(judged: Iterable[Judged], reference: MergeResult) -> dict[str, float]:
    """Return the metrics of all files, the rejected ones too."""
    metrics: dict[str, float] = {}
    for file in judged:
        metrics[f"bytes.{file.type}"] = file.bytes
        if file.structure:
            metrics[f"bits_per_weight.{file.type}"] = file.structure.bits_per_weight
        if file.trial:
            metrics |= _measured(file.type, file.trial, reference, file.divergence)
        metrics |= metrics_of(file.type, file.tasks) | _memory(file.type, file.memory)
    return metrics


def required_increase(metrics: Mapping[str, float], kept: Iterable[str], config: ExportConfig) -> dict[str, float]:
    """Return the metrics with the least loss increase among the required files that meet their limits; absent without one."""
    good = [kind for kind in kept if kind in config.required and judge(_adjustable(kind, config, metrics), metrics).passed]
    others = {key: value for key, value in metrics.items() if key != REQUIRED_METRIC}
    return others | ({REQUIRED_METRIC: min(metrics[_loss_metric(kind)] for kind in good)} if good else {})


def failing(model: GgufModel, config: ExportConfig) -> Iterable[str]:
    """Yield why each file falls short, the rejected ones with their reasons, the kept ones by today's limits."""
    for one in model.rejected:
        yield f"{one.quantisation.type}: {', '.join(one.reasons)}"
    for file in model.quantisations:
        verdict = judge(_adjustable(file.type, config, model.metrics), model.metrics)
        if not verdict.passed:
            yield f"{file.type}: {', '.join(map(_told, verdict.failures))}"


def worth_redoing(model: GgufModel, config: ExportConfig) -> bool:
    """Say whether a file was rejected for figures alone that today's limits would let pass; its bytes are gone."""
    return any(_would_pass(one, model.metrics, config) for one in model.rejected)


def _would_pass(rejected: RejectedQuantisation, metrics: Mapping[str, float], config: ExportConfig) -> bool:
    limits = _adjustable(rejected.quantisation.type, config, metrics)
    names = {limit.metric for limit in limits}
    return all(reason.partition(" ")[0] in names for reason in rejected.reasons) and judge(limits, metrics).passed


def _loss_metric(kind: str) -> str:
    return f"loss_increase.{kind}"


def _divergence_metric(kind: str) -> str:
    return f"kl_mean.{kind}"


def _measured(kind: str, trial: Trial, reference: MergeResult, divergence: Divergence | None) -> dict[str, float]:
    metrics = {
        f"answer_characters.{kind}": float(len(trial.sample)),
        f"tokenizer_mismatches.{kind}": float(trial.tokenizer_mismatches),
    }
    if trial.held_out_loss is not None:
        metrics[f"held_out_loss.{kind}"] = trial.held_out_loss
        metrics[_loss_metric(kind)] = trial.held_out_loss - reference.held_out_loss
    metrics[f"clear_splits.{kind}"] = float(sum(margin > _LEVEL for margin in trial.splits))
    if divergence is not None:
        metrics[_divergence_metric(kind)] = divergence.kl_mean
        metrics[f"perplexity_ratio.{kind}"] = divergence.perplexity_ratio
        metrics[f"same_top_share.{kind}"] = divergence.same_top_share
    return metrics


def _memory(kind: str, need: MemoryNeed | None) -> dict[str, float]:
    """Return the larger of what a file's header says it needs and what was measured."""
    return {} if need is None else {_memory_metric(kind): max(need.estimated_bytes, need.measured_bytes or 0) / _MIB}


def _memory_metric(kind: str) -> str:
    return f"memory_mib.{kind}"


def _limits(kind: str, config: ExportConfig, measured: Mapping[str, float]) -> Sequence[Limit]:
    return (
        Limit(metric=f"answer_characters.{kind}", op=">=", value=1),
        Limit(metric=f"tokenizer_mismatches.{kind}", op="==", value=0),
        *_adjustable(kind, config, measured),
    )


def _adjustable(kind: str, config: ExportConfig, measured: Mapping[str, float]) -> Sequence[Limit]:
    """Return the limits a profile sets; those on the divergence and on tasks where there was something to measure them on."""
    limits = [Limit(metric=_loss_metric(kind), op="<=", value=config.max_loss_increase)]
    if _divergence_metric(kind) in measured:
        limits.append(Limit(metric=_divergence_metric(kind), op="<=", value=config.max_divergence.of(kind)))
    if config.max_memory_mib is not None and _memory_metric(kind) in measured:
        limits.append(Limit(metric=_memory_metric(kind), op="<=", value=config.max_memory_mib))
    wanted = ((f"{task}.{kind}", least) for task, least in config.min_task.asked().items())
    return limits + [Limit(metric=name, op=">=", value=least) for name, least in wanted if name in measured]


def _told(failure: LimitFailure) -> str:
    measured = "not a number" if failure.measured is None else f"{failure.measured:.4f}"
    return f"{failure.limit.metric} {measured}, limit {failure.limit.op} {failure.limit.value:g}"


def _reason(failure: LimitFailure, trial: Trial, structure: GgufFacts | None = None) -> str:
    about = f", first on {trial.first_mismatch!r}" if "tokenizer_mismatches" in failure.limit.metric else ""
    kind = next((name for name in _CAUSES if name in failure.limit.metric), None)
    cause = f"; likely cause: {_CAUSES[kind]}" if kind else ""
    if kind in _OF_ROUNDING and structure is not None and structure.fallback_tensors:
        cause += f" ({structure.fallback_tensors} tensors fell back: a width that is no multiple of 256)"
    return f"{_told(failure)}{about}{cause}"
