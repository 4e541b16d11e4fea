"""The gate of a GGUF file: what is measured, which limits it must meet, and what a reused verdict rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.config import ExportConfig
from core.contract import Contract, Limit, LimitFailure, Stage, judge
from core.data.record import TokenisedRow
from core.errors import GateRefused
from core.events import Note, OnEvent
from core.export.gguf_loss.loss import Trial, TrialRequest, run_trial
from core.export.inspect import GgufFacts, read_gguf, structure_problems
from core.export.merge import MergeResult
from core.nouns import GgufModel, Quantisation, RejectedQuantisation, UnprovenQuantisation
from core.toolchain import Toolchain

REQUIRED_METRIC = "required_loss_increase"
ANSWER_TOKENS = 32  # enough to see that it answers; the answer's worth is judged by the loss


class Judged(Contract):
    """One file with its figures; it is kept when there are no reasons against it."""

    type: str
    path: str
    bytes: int
    structure: GgufFacts | None
    trial: Trial | None
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
        )


@dataclass(frozen=True)
class Gate:
    """What every file of one export is held against."""

    reference: MergeResult
    rows: tuple[TokenisedRow, ...]
    config: ExportConfig
    toolchain: Toolchain
    on_event: OnEvent

    def examine(self, path: Path, kind: str, scratch: Path) -> Judged:
        """Read, run and judge one file; a broken one is a judgement too, never an error."""
        structure, trial = None, None
        reasons: list[str] = []
        try:
            structure = read_gguf(path, kind)
            reasons += structure_problems(structure, wants_chat_template=self.reference.has_chat_template)
            trial = self._try(path, scratch)
            verdict = judge(_limits(kind, self.config), _measured(kind, trial, self.reference))
            reasons += [_reason(failure, trial) for failure in verdict.failures]
        except GateRefused as error:
            reasons.append(error.problem)
        for reason in reasons:
            self.on_event(Note(stage=Stage.EXPORT, text=f"{path.name} is rejected: {reason}", level="warning"))
        size = path.stat().st_size
        return Judged(type=kind, path=path.name, bytes=size, structure=structure, trial=trial, reasons=tuple(reasons))

    def _try(self, path: Path, scratch: Path) -> Trial:
        request = TrialRequest(
            gguf=str(path),
            toolchain=self.toolchain,
            rows=self.rows,
            texts=self.reference.texts,
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
            metrics |= _measured(file.type, file.trial, reference)
    return metrics


def required_increase(metrics: Mapping[str, float], kept: Iterable[str], config: ExportConfig) -> dict[str, float]:
    """Return the metrics with the least loss increase among the required files that are left; absent when none is."""
    increases = [metrics[f"loss_increase.{kind}"] for kind in kept if kind in config.required]
    others = {key: value for key, value in metrics.items() if key != REQUIRED_METRIC}
    return others | ({REQUIRED_METRIC: min(increases)} if increases else {})


def worth_redoing(model: GgufModel, config: ExportConfig) -> bool:
    """Say whether a file was rejected for its loss alone that today's limit would let pass; its bytes are gone."""
    return any(
        len(file.reasons) == 1
        and file.reasons[0].startswith(_loss_metric(file.quantisation.type))
        and model.metrics.get(_loss_metric(file.quantisation.type), float("inf")) <= config.max_loss_increase
        for file in model.rejected
    )


def _loss_metric(kind: str) -> str:
    return f"loss_increase.{kind}"


def _measured(kind: str, trial: Trial, reference: MergeResult) -> dict[str, float]:
    metrics = {
        f"answer_characters.{kind}": float(len(trial.sample)),
        f"tokenizer_mismatches.{kind}": float(trial.tokenizer_mismatches),
    }
    if trial.held_out_loss is not None:
        metrics[f"held_out_loss.{kind}"] = trial.held_out_loss
        metrics[_loss_metric(kind)] = trial.held_out_loss - reference.held_out_loss
    return metrics


def _limits(kind: str, config: ExportConfig) -> Sequence[Limit]:
    return (
        Limit(metric=f"answer_characters.{kind}", op=">=", value=1),
        Limit(metric=f"tokenizer_mismatches.{kind}", op="==", value=0),
        Limit(metric=_loss_metric(kind), op="<=", value=config.max_loss_increase),
    )


def _reason(failure: LimitFailure, trial: Trial) -> str:
    limit = failure.limit
    measured = "not a number" if failure.measured is None else f"{failure.measured:.4f}"
    about = f", first on {trial.first_mismatch!r}" if limit.metric.startswith("tokenizer") else ""
    return f"{limit.metric} {measured}, limit {limit.op} {limit.value:g}{about}"
