"""Training and conversion as a part of the doctor: what the trial's process answered, judged for the job."""

from __future__ import annotations

from pathlib import Path

from core import catalogue, toolchain
from core.contract import Confidence, Finding, Severity
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.memory_need import quantised
from core.env.probe import Probe
from core.env.roles import Role
from core.env.trial.reading import ConversionTrial, Problem, ProblemKind, Step, TrainingTrial, TrialReading, TrialRequest
from core.errors import ToolMissing
from core.nouns import Fact
from core.shape import ModelShape

PROBE = "trial"
TRAINS = "trains"
CONVERTS = "converts"
_TRAINER = frozenset({Role.TRAINER})
_MAKERS = frozenset({Role.TRAINER, Role.EXPORTER})
_TIMEOUT_S = 90.0  # 9 s on two cores; a Raspberry Pi that reads torch from a card for the first time takes a minute
_VERIFY = ("edgekiln", "env", "--no-cache")
_BLOCK_ROWS = 32  # the smallest block of llama.cpp's types: below it only F16 is left

_CAUSES: dict[ProblemKind, tuple[Severity, str, str]] = {
    "architecture": (
        Severity.ERROR,
        "llama.cpp's converter of the pinned toolchain does not know this architecture",
        "Choose another train.student, one whose architecture `convert_hf_to_gguf.py --print-supported-models` lists.",
    ),
    "pre-tokenizer": (
        Severity.ERROR,
        "the tokenizer splits text in a way the converter's table of hashes does not have: it is new, or was changed by hand",
        "Use the tokenizer's files as the model was published, or choose another train.student.",
    ),
    "tokenizer": (
        Severity.ERROR,
        "the tokenizer's files are missing, broken, or do not belong to these weights",
        "Put the files back as the model was published, all of one revision.",
    ),
    "parameters": (
        Severity.ERROR,
        "config.json lacks a value the converter needs, or has one it does not know",
        "Put config.json back as the model was published, or choose another train.student.",
    ),
    "chat-template": (
        Severity.ERROR,
        "the chat template cannot make the rows the student is trained on",
        "Mend chat_template.jinja, or choose a student with a chat template.",
    ),
    "system-message": (
        Severity.WARNING,
        "the chat template takes no system message",
        "Use prompts without `system`, or mend chat_template.jinja.",
    ),
}


def probes(context: Context) -> list[Probe]:
    """Return the one child that imports torch for both trials."""
    request = TrialRequest(
        train=context.profile.train,
        card=catalogue.model(context.profile.train.student, context.beside),
        converter=_converter(),
    )
    argument = request.model_dump(mode="json")
    return [Probe(name=PROBE, target="core.env.trial.worker:read", argument=argument, timeout_s=_TIMEOUT_S)]


def _converter() -> Path | None:
    try:
        found = toolchain.find()
    except ToolMissing:
        return None
    return found.source if found else None


def findings(readings: Readings, context: Context) -> list[Finding]:
    """Judge the trial for a context's job."""
    trial = value_of(readings, PROBE, TrialReading)
    if trial is None:
        reading = readings.get(PROBE)
        return _died(reading.error or "it ended without a word") if reading else []
    return [
        *training_findings(trial.training, context.profile.train.device),
        *conversion_findings(trial.conversion),
        *quantisation_findings(trial.conversion, context.profile.export.quantisations),
    ]


def _died(error: str) -> list[Finding]:
    return [
        Finding(
            code=TRAINS,
            severity=Severity.ERROR,
            where="a tiny training in a process of its own",
            evidence=error,
            cause="torch, bitsandbytes or a driver ends the process that uses it, or waits for ever",
            confidence=Confidence.MEDIUM,
            remedy="Mend what `edgekiln env` says of packages and of the GPU first; `edgekiln env fix` installs the pinned ones.",
            remedy_argv=("edgekiln", "env", "fix"),
            verify_argv=_VERIFY,
        )
    ]


def training_findings(trial: TrainingTrial, wanted: str) -> list[Finding]:
    """Judge the steps: the one a training would take must work, others on a device or in a type are told."""
    found = []
    if trial.error is not None:
        found += [_no_device(trial.error, wanted)] if trial.steps else _died(trial.error)
    return found + [_step_finding(step, wanted) for step in trial.steps if step.error is not None]


def _no_device(error: str, wanted: str) -> Finding:
    return Finding(
        code=TRAINS,
        severity=Severity.ERROR,
        where=f"train.device={wanted}",
        evidence=error,
        cause="the profile asks for a device that torch cannot use here",
        confidence=Confidence.HIGH,
        remedy="Mend what `edgekiln env` says of the GPU, or train here without it: --set train.device=cpu.",
        verify_argv=_VERIFY,
    )


def _step_finding(step: Step, wanted: str) -> Finding:
    if step.used:
        severity, cause = Severity.ERROR, f"4-bit training does not work on {step.name}, where train.device={wanted} trains"
    elif step.device == "cpu":
        severity, cause = Severity.INFO, f"this processor's torch cannot compute in {step.dtype}; no training asks it to"
    else:
        severity, cause = Severity.WARNING, f"{step.name} cannot compute in {step.dtype}; this job does not ask it to"
    return Finding(
        code=TRAINS,
        severity=severity,
        where=f"{step.device} ({step.name}), {step.dtype}",
        evidence=f"one optimiser step of a tiny 4-bit model: {step.error}",
        cause=cause,
        confidence=Confidence.HIGH if step.used else Confidence.MEDIUM,
        remedy="Install the pinned torch and bitsandbytes with `edgekiln env fix`, or set train.device to one that works.",
        remedy_argv=("edgekiln", "env", "fix") if step.used else (),
        verify_argv=_VERIFY,
    )


def conversion_findings(trial: ConversionTrial) -> list[Finding]:
    """Judge what converter and template answered; what could not be asked is told, not guessed."""
    found = [_problem_finding(problem, trial) for problem in trial.problems]
    student = trial.student
    if student.folder is not None and not student.complete:
        return [*found, _broken(trial)]
    return found + [_unchecked(each, trial) for each in trial.unchecked]


def _problem_finding(problem: Problem, trial: ConversionTrial) -> Finding:
    severity, cause, remedy = _CAUSES[problem.kind]
    return Finding(
        code=CONVERTS,
        severity=severity,
        where=f"{trial.student.name}: {problem.kind}",
        evidence=f"{problem.evidence} ({trial.student.folder})",
        cause=cause,
        confidence=Confidence.HIGH,
        remedy=remedy,
        verify_argv=_VERIFY,
    )


def _broken(trial: ConversionTrial) -> Finding:
    return Finding(
        code=CONVERTS,
        severity=Severity.ERROR,
        where=trial.student.name,
        evidence=str(trial.student.why),
        cause="the student's folder is not whole",
        confidence=Confidence.HIGH,
        remedy="Fetch the student again, or correct source.path in its card.",
        verify_argv=_VERIFY,
    )


def _unchecked(what: str, trial: ConversionTrial) -> Finding:
    return Finding(
        code=CONVERTS,
        severity=Severity.INFO,
        where=trial.student.name,
        evidence=f"not checked: {what}",
        cause="it is fetched or built by the first run that needs it, and looked at then",
        confidence=Confidence.HIGH,
        remedy="Nothing has to be done; to check it before a run, fetch the student and build the toolchain, then look again.",
        remedy_argv=("edgekiln", "toolchain", "build"),
        verify_argv=_VERIFY,
    )


def quantisation_findings(trial: ConversionTrial, kinds: tuple[str, ...]) -> list[Finding]:
    """Tell which quantisations are not what their name says, as rows are no multiple of 256 or 32."""
    shape = trial.student.shape
    if shape is None:
        return []
    return [finding for kind in kinds if (finding := _fallback(shape, kind, trial.student.name))]


def _fallback(shape: ModelShape, kind: str, name: str) -> Finding | None:
    made = quantised(shape, kind)
    if not made.fallbacks:
        return None
    widths = sorted({matrix.inputs for matrix in shape.matrices()})
    told = ", ".join(f"{count} {change}" for change, count in made.fallbacks.items())
    odd = any(width % _BLOCK_ROWS for width in widths)
    return Finding(
        code=CONVERTS,
        severity=Severity.WARNING if odd else Severity.INFO,
        where=f"{name}: {kind}",
        evidence=(
            f"{sum(made.fallbacks.values())} of {made.matrices} matrices fall back ({told}); "
            f"{made.bits_per_weight:.2f} bits a weight; rows of {', '.join(map(str, widths))}"
        ),
        cause=f"llama-quantize needs rows of a multiple of {32 if odd else 256} for this type",
        confidence=Confidence.HIGH,
        remedy="Leave the type out of export.quantisations, or keep it: the file is larger than its name says, not broken.",
    )


def facts(readings: Readings, _context: Context) -> list[Fact]:
    """Tell what was tried and what the converter would write."""
    trial = value_of(readings, PROBE, TrialReading)
    if trial is None:
        return []
    told = [Fact(name="trains", value=_step_line(step), source="one optimiser step") for step in trial.training.steps]
    conversion = trial.conversion
    if conversion.architecture is not None:
        parts = [conversion.architecture, f"tokenizer {conversion.tokenizer_model} {conversion.pre_tokenizer}"]
        parts.append(f"{conversion.vocabulary} words")
        if conversion.student.shape is not None:
            parts.append("embeddings tied" if conversion.student.shape.tie_word_embeddings else "embeddings not tied")
        parts.append("chat template renders" if conversion.renders else "chat template does not render")
        told.append(Fact(name="converts", value=", ".join(parts), source=str(conversion.student.folder)))
    return told


def _step_line(step: Step) -> str:
    outcome = f"works, {step.seconds:.2f} s" if step.error is None else "does not work"
    return f"{step.device} {step.dtype} {outcome}{' (what a training takes here)' if step.used else ''}"


CAPABILITY = Capability(
    name="trial",
    checks=(Check(code=TRAINS, blocks=_TRAINER), Check(code=CONVERTS, blocks=_MAKERS)),
    probes=probes,
    findings=findings,
    facts=facts,
)
