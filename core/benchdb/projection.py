"""What the database says about a benchmark run: rows by table, computed from its artifacts. No SQL, no connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from core.contract import Artifact, Contract, Origin
from core.errors import ArtifactError
from core.files import canonical_json, digest_of
from core.nouns import (
    NOUNS,
    Adapter,
    BenchmarkRun,
    GgufModel,
    HostFacts,
    LabeledDataset,
    Measurement,
    MemoryFacts,
    ModelRef,
    UnprovenQuantisation,
)
from core.workspace import Workspace, read_manifest

Row = dict[str, Any]

_NOT_STORED = {"perplexity_error", "reference_perplexity_error", "perplexity_ratio_error", "same_top_share_error"}
TABLES = (
    "artifacts",
    "lineage",
    "hosts",
    "memory_configs",
    "models",
    "results",
    "samples",
    "quality",
    "divergences",
    "memory_needs",
    "ingests",
)
"""In the order in which rows may be inserted: what is referred to comes first."""


def result_id(run: BenchmarkRun, measurement: Measurement) -> str:
    """Return a result's natural key: the hash of the measurement and of the run it belongs to."""
    return digest_of({"artifact_id": run.artifact_id, "measurement": measurement.model_dump(mode="json")})


def result_ids(run: BenchmarkRun) -> tuple[str, ...]:
    """Return the keys of a run's results, sorted, each once."""
    return tuple(sorted({result_id(run, measurement) for measurement in run.measurements}))


def rows_of(workspace: Workspace, run: BenchmarkRun) -> dict[str, list[Row]]:
    """Return a run's rows by table; the run and its ancestors are read from their manifests."""
    published = read_manifest(workspace, run.stage, run.artifact_id, BenchmarkRun)
    line = [published, *_ancestors(workspace, published)]
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    for artifact in line:
        rows["artifacts"].append(_artifact(artifact))
        rows["lineage"] += _edges(artifact)
        rows["models"] += _models(artifact)
        rows["quality"] += _quality(artifact)
        rows["divergences"] += _divergences(artifact)
        rows["memory_needs"] += _memory_needs(artifact)
    rows["hosts"] = [host_row(published.device_host)]
    rows["memory_configs"] = [_memory(published.device_memory), _memory(published.host_memory)]
    for measurement in published.measurements:
        rows["results"].append(_result(published, measurement, rows["models"]))
        rows["samples"] += _samples(published, measurement)
    rows["ingests"] = [_ingest(published)]
    return rows


def _ancestors(workspace: Workspace, artifact: Artifact) -> list[Artifact]:
    """Return the ancestors whose very content is still there; of the others the edges remain."""
    found: dict[str, Artifact] = {}
    waiting = list(artifact.parents)
    while waiting:
        ref = waiting.pop(0)
        try:
            parent = read_manifest(workspace, ref.stage, ref.artifact_id, NOUNS[ref.stage])
        except ArtifactError:
            continue
        if ref.artifact_id not in found and parent.content_digest == ref.content_digest:
            found[ref.artifact_id] = parent
            waiting.extend(parent.parents)
    return list(found.values())


def _json(value: Any) -> str:
    return canonical_json(value).decode()


def _dump(record: Contract) -> Any:
    return record.model_dump(mode="json")


def _artifact(artifact: Artifact) -> Row:
    return {
        "artifact_id": artifact.artifact_id,
        "content_digest": artifact.content_digest,
        "stage": artifact.stage.value,
        "identity": artifact.identity,
        "created_at": artifact.created_at,
        "manifest": _json(_dump(artifact)),
    }


def _edges(artifact: Artifact) -> Iterable[Row]:
    for ref in artifact.parents:
        yield {
            "child_id": artifact.artifact_id,
            "child_digest": artifact.content_digest,
            "parent_id": ref.artifact_id,
            "parent_digest": ref.content_digest,
        }


def host_row(host: HostFacts) -> Row:
    """Return a machine's row; its key is the hash of all its facts."""
    return {
        "host_id": digest_of(_dump(host)),
        "fingerprint": host.fingerprint,
        "arch": host.arch,
        "os": host.os,
        "cpu_model": host.cpu_model,
        "board_model": host.board_model,
        "cpus_usable": host.cpus_usable,
        "ram_bytes": host.ram_bytes,
        "facts": _json(_dump(host)),
    }


def _memory(memory: MemoryFacts) -> Row:
    rates = [module.configured_mts for module in memory.modules if module.configured_mts is not None]
    return {
        "memory_id": digest_of(_dump(memory)),
        "known": memory.known,
        "total_bytes": memory.total_bytes,
        "modules": len(memory.modules),
        "configured_mts": min(rates, default=None),  # mixed modules run at the slowest one's rate
        "theoretical_gbs": memory.theoretical_gbs,
        "evidence": memory.evidence,
        "facts": _json(_dump(memory)),
    }


def _models(artifact: Artifact) -> Iterable[Row]:
    if isinstance(artifact, LabeledDataset):
        yield _model("teacher", artifact.teacher)
    if isinstance(artifact, Adapter):
        yield _model("student", artifact.student)
    if isinstance(artifact, GgufModel):
        yield from (_gguf(artifact, file, accepted=True) for file in artifact.quantisations)
        yield from (_gguf(artifact, rejected.quantisation, accepted=False) for rejected in artifact.rejected)


def _model(kind: str, model: ModelRef) -> Row:
    row = {**_dump(model), "kind": kind, "artifact_id": None, "quantisation": None, "file_bytes": None}
    row |= {"bits_per_weight": None, "fallback_tensors": None, "accepted": None}
    return {"model_id": digest_of(row), **row}


def _gguf(gguf: GgufModel, file: UnprovenQuantisation, *, accepted: bool) -> Row:
    row = {
        "kind": "gguf",
        "name": file.path,
        "identity": gguf.file(file.path).sha256 if accepted else None,
        "parameters": gguf.student.parameters,
        "licence": gguf.student.licence,
        "artifact_id": gguf.artifact_id,
        "quantisation": file.type,
        "file_bytes": file.bytes,
        "bits_per_weight": file.bits_per_weight,
        "fallback_tensors": file.fallback_tensors,
        "accepted": accepted,
    }
    return {"model_id": digest_of(row), **row}


def _result(run: BenchmarkRun, measurement: Measurement, models: Sequence[Row]) -> Row:
    files = [model["model_id"] for model in models if model["quantisation"] == measurement.quantisation]
    return {
        "result_id": result_id(run, measurement),
        "artifact_id": run.artifact_id,
        "device": run.device,
        "device_fingerprint": run.device_host.fingerprint,
        "host_id": digest_of(_dump(run.device_host)),
        "memory_id": digest_of(_dump(run.device_memory)),
        "model_id": files[0] if len(files) == 1 else None,
        **measurement.model_dump(mode="json", exclude={"samples_tps", "raw"}),
        "raw": _json(list(measurement.raw)),
        "measured_at": _measured_at(run, measurement),
    }


def _measured_at(run: BenchmarkRun, measurement: Measurement) -> datetime:
    """Return when llama-bench says it measured, or when the run was published."""
    told = measurement.raw[0].get("test_time") if measurement.raw else None
    try:
        moment = datetime.fromisoformat(str(told))
    except ValueError:
        return run.created_at
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _samples(run: BenchmarkRun, measurement: Measurement) -> Iterable[Row]:
    starts = _process_starts(measurement)
    for index, tps in enumerate(measurement.samples_tps):
        yield {
            "result_id": result_id(run, measurement),
            "sample_index": index,
            "process_start": starts[index] if starts else None,
            "tps": tps,
        }


def _process_starts(measurement: Measurement) -> list[int]:
    """Return the process start of each sample, empty when the raw records do not account for every sample."""
    starts: list[int] = []
    for start, record in enumerate(measurement.raw):
        samples = record.get("samples_ts")
        starts += [start] * (len(samples) if isinstance(samples, list) else 0)
    return starts if len(starts) == len(measurement.samples_tps) else []


def _quality(artifact: Artifact) -> Iterable[Row]:
    if isinstance(artifact, Adapter):
        yield _loss(artifact, "base", "", artifact.base_held_out_loss)
        yield _loss(artifact, "adapter", "", artifact.held_out_loss)
    if isinstance(artifact, GgufModel):
        yield _loss(artifact, "merged", "", artifact.reference_held_out_loss)
        yield from (
            _loss(artifact, "quantisation", file.type, file.held_out_loss)
            for file in _files(artifact)
            if file.held_out_loss is not None
        )


def _divergences(artifact: Artifact) -> Iterable[Row]:
    if not isinstance(artifact, GgufModel):
        return
    for file in _files(artifact):
        if file.divergence is not None:
            yield {
                "artifact_id": artifact.artifact_id,
                "content_digest": artifact.content_digest,
                "quantisation": file.type,
                **file.divergence.model_dump(exclude=_NOT_STORED),
                "origin": Origin.MEASURED.value,
            }


def _memory_needs(artifact: Artifact) -> Iterable[Row]:
    """Yield a row for what a file's header says and one for the peak, so that nobody takes the one for the other."""
    if not isinstance(artifact, GgufModel):
        return
    for file in _files(artifact):
        if (need := file.memory) is None:
            continue
        row = {
            "artifact_id": artifact.artifact_id,
            "content_digest": artifact.content_digest,
            "quantisation": file.type,
            "n_ctx": need.n_ctx,
        }
        yield {**row, "origin": Origin.PREDICTED.value, "bytes": need.estimated_bytes, "measured_on": None}
        if need.measured_bytes is not None:
            origin = Origin.MEASURED.value  # an emulator's memory is never asked for (core/export/gguf_memory/need.py)
            yield {**row, "origin": origin, "bytes": need.measured_bytes, "measured_on": need.measured_on}


def _files(gguf: GgufModel) -> list[UnprovenQuantisation]:
    return [*gguf.quantisations, *(rejected.quantisation for rejected in gguf.rejected)]


def _loss(artifact: Artifact, subject: str, quantisation: str, loss: float) -> Row:
    return {
        "artifact_id": artifact.artifact_id,
        "content_digest": artifact.content_digest,
        "subject": subject,
        "quantisation": quantisation,
        "held_out_loss": loss,
        "origin": Origin.MEASURED.value,  # train and export run the held-out rows themselves and publish nothing else
    }


def _ingest(run: BenchmarkRun) -> Row:
    return {
        "artifact_id": run.artifact_id,
        "content_digest": run.content_digest,
        "results": len(result_ids(run)),
        "failed": sum(measurement.error is not None for measurement in run.measurements),
    }
