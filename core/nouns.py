"""The seven nouns, one frozen artifact a stage, and the search's beside them; each is the manifest of its folder."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from core.contract import Artifact, Contract, Finding, Origin, ParentRef, Stage
from core.env.roles import Role, RoleVerdict
from core.train.decision import Decision


class HostFacts(Contract):
    """What a machine is; `fingerprint` names it across runs, None means it could not be read."""

    fingerprint: str
    arch: str
    os: str
    cpu_model: str | None
    cpu_features: tuple[str, ...]
    cpus_usable: int = Field(ge=1)
    ram_bytes: int | None
    ram_limit_bytes: int | None
    board_model: str | None = None


class MemoryModule(Contract):
    """One memory device as firmware describes it; None where firmware says nothing."""

    kind: str | None
    bytes: int | None
    data_rate_mts: int | None
    configured_mts: int | None
    manufacturer: str | None
    part_number: str | None


class MemoryFacts(Contract):
    """The memory a benchmark ran on; `known` is False when nothing could be read, and `evidence` says from where."""

    known: bool
    total_bytes: int | None
    modules: tuple[MemoryModule, ...]
    theoretical_gbs: float | None
    evidence: str


class Fact(Contract):
    """A line of the doctor's report: something a machine is, as a person reads it, and where that was read."""

    name: str
    value: str
    source: str


class EnvReport(Artifact):
    """Whether this machine can do the job, and why not. Files: `readings.json` (core.env.probe.Reading by name)."""

    stage: Literal[Stage.ENV] = Stage.ENV
    host: HostFacts
    findings: tuple[Finding, ...]
    roles: dict[Role, RoleVerdict] = {}
    facts: tuple[Fact, ...] = ()


class SourceRef(Contract):
    """A dataset source as it was read; `shape` names the record format."""

    name: str
    sha256: str
    shape: str
    records: int


class Dataset(Artifact):
    """Validated prompts.

    Files: `rows.parquet` (core.data.record.PromptRow); `rejects.jsonl`, `warnings.jsonl` (core.data.record.Reject);
    `worst.jsonl` (core.data.quality.ScoredRow), `clusters.jsonl`, and `privacy.json` where personal data was redacted.
    """

    stage: Literal[Stage.DATA] = Stage.DATA
    sources: tuple[SourceRef, ...]
    rows: int
    train_rows: int
    held_out_rows: int
    rejected: int
    findings: tuple[Finding, ...]


class ModelRef(Contract):
    """A model by the hash or pinned revision that fixes its bytes."""

    name: str
    identity: str
    parameters: int | None
    licence: str


class LabeledDataset(Artifact):
    """Prompts with the teacher's answers.

    Files: `train.jsonl`, `held_out.jsonl` (core.data.record.LabeledRow), `unanswered.jsonl` (core.data.record.Reject); with
    several samples a prompt `samples.jsonl`, with log-probabilities `logprobs.parquet` (core.label.logprobs_file).
    `sent_again` counts requests that were under way when a process ended, `cost` is what the labelling's requests took.
    """

    stage: Literal[Stage.LABEL] = Stage.LABEL
    teacher: ModelRef
    train_rows: int
    held_out_rows: int
    unanswered: int
    asked: int
    reused: int
    sent_again: int = 0
    cost: float | None = None
    currency: str | None = None
    prompt_tokens: int
    completion_tokens: int
    findings: tuple[Finding, ...] = ()


class Adapter(Artifact):
    """A LoRA adapter and what training it measured; losses are mean cross-entropy in nats per completion token.

    Files: `adapter/` (PEFT format), `steps.jsonl` (one record a step), `decisions.jsonl` (what the supervisor decided,
    the same as `decisions`).
    """

    stage: Literal[Stage.TRAIN] = Stage.TRAIN
    student: ModelRef
    base_held_out_loss: float
    held_out_loss: float
    steps: int
    trainable_parameters: int
    trained_tokens: int
    resumed_from_steps: tuple[int, ...]
    decisions: tuple[Decision, ...] = ()


class SearchReport(Artifact):
    """What a search for training settings found; `winner` is what it changes in the section `train`, as a tree of its keys.

    No stage is made from it, so it is none of the seven: its winner enters a run through the configuration. Losses are in
    nats per completion token on all held-out rows; `outcomes` counts trials. Files: `trials.jsonl`
    (core.search.record.TrialRecord), `winner.yaml` (overrides), `index.html` and a PNG a chart, and `range_test.json`
    (core.search.range_test.curve.Curve) where the test was asked for.
    """

    stage: Literal[Stage.SEARCH] = Stage.SEARCH
    student: ModelRef
    goals: tuple[str, ...]
    rows: int
    outcomes: dict[str, int]
    best_trial: int
    best_trials: tuple[int, ...]
    winner: dict[str, Any]
    base_held_out_loss: float
    held_out_loss: float
    importances: dict[str, float]
    suggested_learning_rate: float | None


class Divergence(Contract):
    """How far a file's next tokens are from the F32 file's, over the same held-out texts, as llama-perplexity prints it.

    KL divergence in nats a token; `same_top_share` is the share of tokens whose likeliest successor is the same; an
    `_error` is one standard error of the mean. Only the second half of each chunk of `n_ctx` tokens is scored.
    """

    n_ctx: int
    chunks: int
    perplexity: float
    perplexity_error: float
    reference_perplexity: float
    reference_perplexity_error: float
    perplexity_ratio: float
    perplexity_ratio_error: float
    kl_mean: float
    kl_mean_error: float
    kl_p99: float
    kl_max: float
    same_top_share: float
    same_top_share_error: float


class MemoryNeed(Contract):
    """The RAM a file needs with a KV cache of `n_ctx` tokens: by its header, and the peak that was measured, and where."""

    n_ctx: int
    estimated_bytes: int
    measured_bytes: int | None = None
    measured_on: str | None = None

    @model_validator(mode="after")
    def _a_measured_figure_has_its_place(self) -> Self:
        if (self.measured_bytes is None) != (self.measured_on is None):
            raise ValueError("a measured peak needs the machine it was measured on, and nothing else has one")
        return self


class UnprovenQuantisation(Contract):
    """A GGUF file as far as it could be measured; None where it could not be read or run."""

    type: str
    path: str
    bytes: int
    bits_per_weight: float | None
    fallback_tensors: int | None
    held_out_loss: float | None
    sample: str | None
    divergence: Divergence | None = None
    memory: MemoryNeed | None = None


class Quantisation(UnprovenQuantisation):
    """One GGUF file with its measured figures; the loss is on the held-out rows, in nats per completion token."""

    bits_per_weight: float
    fallback_tensors: int
    held_out_loss: float
    sample: str


class RejectedQuantisation(Contract):
    """A GGUF file that failed its gate, with its figures and why; the file itself is not kept."""

    quantisation: UnprovenQuantisation
    reasons: tuple[str, ...]


class Merge(Contract):
    """Onto which weights an adapter was merged and why: the student's own (`base`) or its 4-bit ones (`dequantised`).

    `held_out_losses` are those of the merged model for each that was tried, in nats per completion token.
    """

    onto: str
    held_out_losses: dict[str, float]
    reason: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"onto {self.onto}: {self.reason}"


class AdapterFile(Contract):
    """The adapter alone as a GGUF file, for llama.cpp beside its base; it is not kept where there are reasons against it.

    `held_out_loss` is that of the base's F32 file with it, None where it could not be run; `merged_held_out_loss` that of the
    model merged onto the base's own weights. Both in nats per completion token.
    """

    path: str
    bytes: int
    r: int
    lora_alpha: float
    pairs: int
    held_out_loss: float | None
    merged_held_out_loss: float
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in a line."""
        return f"rejected: {'; '.join(self.reasons)}" if self.reasons else self.path


class GgufModel(Artifact):
    """All quantisations of one merged model; `merge` is None where it was not recorded.

    Files: `<name>-<type>.gguf`, and `<name>-adapter.gguf` where the adapter alone was asked for.
    """

    stage: Literal[Stage.EXPORT] = Stage.EXPORT
    student: ModelRef
    reference_held_out_loss: float
    merge: Merge | None = None
    quantisations: tuple[Quantisation, ...]
    rejected: tuple[RejectedQuantisation, ...]
    adapter_file: AdapterFile | None = None


class Measurement(Contract):
    """One llama-bench result; samples are tokens per second, a failed measurement carries `error` and no samples."""

    quantisation: str
    test: str
    n_prompt: int
    n_gen: int
    n_depth: int
    threads: int
    origin: Origin
    samples_tps: tuple[float, ...]
    median_tps: float | None
    error: str | None = None
    raw: tuple[dict[str, object], ...] = ()


class TelemetrySummary(Contract):
    """What the 1 Hz sampler saw during a benchmark; None where the machine does not tell."""

    samples: int
    max_temperature_c: float | None
    min_clock_mhz: float | None
    max_load_1min: float | None
    min_available_ram_bytes: int | None
    throttled: bool | None


class BenchmarkRun(Artifact):
    """Speeds of every quantisation on one device. Files: `measurements.jsonl`, `telemetry.jsonl`."""

    stage: Literal[Stage.BENCH] = Stage.BENCH
    device: str
    device_host: HostFacts
    device_memory: MemoryFacts
    host_memory: MemoryFacts
    measurements: tuple[Measurement, ...]
    telemetry: TelemetrySummary


class IngestReceipt(Artifact):
    """What one ingest wrote into the database. File: `receipt.json`."""

    stage: Literal[Stage.INGEST] = Stage.INGEST
    migration: int
    inserted: int
    already_there: int
    result_ids: tuple[str, ...]


NOUNS: dict[Stage, type[Artifact]] = {
    Stage.ENV: EnvReport,
    Stage.DATA: Dataset,
    Stage.LABEL: LabeledDataset,
    Stage.TRAIN: Adapter,
    Stage.EXPORT: GgufModel,
    Stage.BENCH: BenchmarkRun,
    Stage.INGEST: IngestReceipt,
    Stage.SEARCH: SearchReport,
}


def refs(*artifacts: Artifact) -> tuple[ParentRef, ...]:
    """Return parent references in the order given."""
    return tuple(artifact.as_parent() for artifact in artifacts)
