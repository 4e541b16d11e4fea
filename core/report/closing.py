"""The closing table: every file a run made, how big, how good, how fast, and whether it may be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.contract import Artifact, LimitFailure, Stage
from core.errors import ArtifactError
from core.lineage import parent
from core.nouns import Adapter, BenchmarkRun, GgufModel, Measurement, MemoryNeed, UnprovenQuantisation
from core.report.quantisations import adapter_told, memory_columns, memory_figures, merge_told
from core.report.table import Cell, Column, Table
from core.workspace import Workspace

MIB = 1 << 20


def closing_table(workspace: Workspace, gguf: GgufModel, run: BenchmarkRun) -> Table:
    """Return one row a GGUF file, rejected ones too; speeds are the medians of the shallowest test of each kind."""
    rows = [_row(file, run, _verdict(file.type, gguf, run), file.path) for file in gguf.quantisations]
    rows += [_row(one.quantisation, run, "rejected: " + "; ".join(one.reasons), "not kept") for one in gguf.rejected]
    columns = (
        Column(key="quantisation", title="quantisation"),
        Column(key="size_mib", title="size", unit="MiB", digits=1, align="right"),
        Column(key="bits_per_weight", title="bits per weight", digits=2, align="right"),
        Column(key="held_out_loss", title="held-out loss", digits=4, align="right"),
        Column(key="kl_mean", title="KL divergence", digits=4, align="right"),
        Column(key="pp_tps", title=_title(run, prompt=True), unit="tokens/s", digits=1, align="right"),
        Column(key="tg_tps", title=_title(run, prompt=False), unit="tokens/s", digits=1, align="right"),
        Column(key="origin", title="speeds"),
        Column(key="verdict", title="verdict"),
        Column(key="file", title="file", optional=True),
        *memory_columns(),
    )
    return Table(
        title=f"What came out: {gguf.student.name} on {run.device}",
        columns=columns,
        rows=tuple(rows),
        notes=(
            *_losses(workspace, gguf),
            *adapter_told(gguf.adapter_file),
            *_memory(gguf),
            *_failures(run),
            f"files: {workspace.folder(Stage.EXPORT, gguf.artifact_id)}",
        ),
    )


def speed(run: BenchmarkRun, quantisation: str, *, prompt: bool) -> Measurement | None:
    """Return a file's prompt-processing (pp) or generation (tg) measurement at the least depth, None when there is none."""
    found = [m for m in _of_kind(run, prompt=prompt) if m.quantisation == quantisation]
    return min(found, key=lambda m: m.n_depth, default=None)


def _of_kind(run: BenchmarkRun, *, prompt: bool) -> list[Measurement]:
    return [m for m in run.measurements if (m.n_prompt > 0, m.n_gen > 0) == (prompt, not prompt)]


def _title(run: BenchmarkRun, *, prompt: bool) -> str:
    names = {m.test for m in _of_kind(run, prompt=prompt)}
    return names.pop() if len(names) == 1 else "pp" if prompt else "tg"


def _row(file: UnprovenQuantisation, run: BenchmarkRun, verdict: str, file_name: str) -> tuple[Cell, ...]:
    found = [speed(run, file.type, prompt=True), speed(run, file.type, prompt=False)]
    origins = sorted({m.origin.value for m in found if m is not None and m.median_tps is not None})
    return (
        file.type,
        file.bytes / MIB,
        file.bits_per_weight,
        file.held_out_loss,
        file.divergence.kl_mean if file.divergence else None,
        *(m.median_tps if m else None for m in found),
        ", ".join(origins) or None,
        verdict,
        file_name,
        *memory_figures(file),
    )


def _verdict(quantisation: str, *artifacts: Artifact) -> str:
    failures = [failure for artifact in artifacts for failure in artifact.verdict.failures]
    return _judgement([failure for failure in failures if failure.limit.metric.endswith(f".{quantisation}")])


def verdict_of(artifact: Artifact) -> str:
    """Return an artifact's verdict as one line with every limit that was not met."""
    return _judgement(artifact.verdict.failures)


def _judgement(failures: Sequence[LimitFailure]) -> str:
    return "failed: " + "; ".join(map(_describe, failures)) if failures else "passed"


def _describe(failure: LimitFailure) -> str:
    measured = "not measured" if failure.measured is None else f"{failure.measured:g}"
    return f"{failure.limit.metric} {measured}, limit {failure.limit.op} {failure.limit.value:g}"


def _losses(workspace: Workspace, gguf: GgufModel) -> Iterable[str]:
    merged = f"merged model before quantisation {gguf.reference_held_out_loss:.4f}{merge_told(gguf.merge)}"
    try:
        adapter = parent(workspace, gguf, Adapter)
    except ArtifactError:
        yield f"held-out loss: {merged} (the adapter's record is not in this workspace)"
        return
    base, trained = adapter.base_held_out_loss, adapter.held_out_loss
    yield (
        f"held-out loss: base {base:.4f}, adapter {trained:.4f} ({trained - base:+.4f}), {merged}"
        " (nats per completion token, lower is better)"
    )


def _memory(gguf: GgufModel) -> Iterable[str]:
    """Say what RAM the kept files need, a measured figure before what was estimated."""
    needs = [(file.type, file.memory) for file in gguf.quantisations if file.memory is not None]
    for n_ctx in sorted({need.n_ctx for _, need in needs}):
        told = ", ".join(f"{kind} {_needed(need)}" for kind, need in needs if need.n_ctx == n_ctx)
        yield f"RAM with a KV cache of {n_ctx:,} tokens: {told}"


def _needed(need: MemoryNeed) -> str:
    estimated = f"{need.estimated_bytes / MIB:.1f} MiB estimated"
    if need.measured_bytes is None:
        return estimated
    return f"{need.measured_bytes / MIB:.1f} MiB measured on {need.measured_on} ({estimated})"


def _failures(run: BenchmarkRun) -> Iterable[str]:
    return (f"{m.quantisation} {m.test} was not measured: {m.error}" for m in run.measurements if m.error)
