"""From a number back to everything it came from: run, benchmark, model file, adapter, labels, dataset, sources, tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from core import config
from core.benchdb import projection, queries
from core.benchdb.queries import StoredResult
from core.contract import CHAIN, Artifact, Origin, ParentRef, Stage, utc
from core.errors import ArtifactError, ArtifactMissing
from core.nouns import (
    NOUNS,
    Adapter,
    BenchmarkRun,
    Dataset,
    Divergence,
    EnvReport,
    GgufModel,
    LabeledDataset,
    MemoryNeed,
    ModelRef,
    SearchReport,
    UnprovenQuantisation,
)
from core.publish.record import Publication, publications, readable_publications
from core.report.table import Cell, Column, Table
from core.runs import RunRecord, standing
from core.section import Section
from core.workspace import MANIFEST, Workspace, artifacts, read_manifest, refuse_broken

Line = tuple[Cell, ...]
Figure = tuple[str, Cell, str, str]
"""What, value, unit, and the field of the manifest it is read from."""
_COLUMNS = (
    Column(key="of", title="of"),
    Column(key="what", title="what"),
    Column(key="value", title="value"),
    Column(key="unit", title="unit"),
    Column(key="from", title="comes from"),
)
_SECTIONS: dict[Stage, type[Section]] = {
    Stage.ENV: config.EnvConfig,
    Stage.DATA: config.DataConfig,
    Stage.LABEL: config.LabelConfig,
    Stage.TRAIN: config.TrainConfig,
    Stage.EXPORT: config.ExportConfig,
    Stage.BENCH: config.BenchConfig,
    Stage.INGEST: config.IngestConfig,
    Stage.SEARCH: config.SearchConfig,
}
_NOTE = "`comes from` names a field of the manifest unless it names a file; unknown means nobody could measure it"
_LOSS = "nats/token"
_SPEED = "tokens/s"
_SHORTEST_BEGINNING = 4  # a shorter one would name something by chance


def trace(workspace: Workspace, what: str) -> Table:
    """Return where a result, an artifact or a run came from, nearest first.

    `what` is an id or the beginning of one. ArtifactMissing when nothing has it, or when several do, which are named.
    """
    target = resolve(workspace, what)
    if isinstance(target, RunRecord):
        title, lines = f"run {target.run_id}", _run(workspace, target)
    elif isinstance(target, StoredResult):
        title, lines = f"result {target.result_id[:12]}", _result(workspace, target)
    else:
        title, lines = _name(target), _with_ancestors(workspace, target)
    return Table(title=f"Where {title} comes from", columns=_COLUMNS, rows=tuple(lines), notes=(_NOTE,))


def resolve(workspace: Workspace, what: str) -> RunRecord | StoredResult | Artifact:
    """Return the run, artifact or result with an id, or with one that begins so; upper and lower case are the same.

    ArtifactMissing when nothing has it, or when several do, which are named.
    """
    what = what.lower()
    everything: dict[str, RunRecord | StoredResult | Artifact] = {}
    if what:
        everything |= {f"run {run.run_id}": run for run in standing(workspace) if run.run_id.lower().startswith(what)}
        everything |= {
            _name(one): one for stage in Stage for one in artifacts(workspace, stage) if one.artifact_id.startswith(what)
        }
        everything |= {_name(one): one for one in _published_as(workspace, what)}
        everything |= {f"result {found.result_id[:16]}": found for found in queries.find_results(workspace, what)}
    exact = [found for name, found in everything.items() if name.partition(" ")[2].lower() == what]
    matches = exact or (list(everything.values()) if len(what) >= _SHORTEST_BEGINNING else [])
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ArtifactMissing(
            f"{what!r} is the beginning of {len(matches)} ids: {', '.join(list(everything)[:6])}",
            remedy="Give more of the id.",
        )
    if len(what) >= _SHORTEST_BEGINNING:
        refuse_broken(workspace, what)
    raise ArtifactMissing(
        f"no run, artifact, result or publication in {workspace.root} is {what!r} or begins so (>= {_SHORTEST_BEGINNING} characters)",
        remedy="List the runs with `edgekiln runs`; `edgekiln show RUN` names its artifacts.",
    )


def _name(artifact: Artifact) -> str:
    return f"{artifact.stage.value} {artifact.artifact_id}"


def _run(workspace: Workspace, record: RunRecord) -> Iterator[Line]:
    name = f"run {record.run_id}"
    where = f"runs/{record.run_id}/run.json"
    yield name, "profile", record.profile, "", where
    yield name, "started", utc(record.started_at), "", where
    yield name, "status", record.status.value, "", where
    told: set[str] = set()
    for stage in reversed(CHAIN):
        artifact_id = record.artifacts.get(stage)
        if artifact_id is None:
            yield name, stage.value, "not reached", "", where
            continue
        how = "reused" if stage in record.reused else "made by this run"
        yield name, stage.value, f"{artifact_id} ({how})", "", where
        try:
            artifact = read_manifest(workspace, stage, artifact_id, NOUNS[stage])
        except ArtifactError as error:
            yield f"{stage.value} {artifact_id}", "manifest", None, "", error.problem
            continue
        yield from _with_ancestors(workspace, artifact, told)


def _result(workspace: Workspace, result: StoredResult) -> Iterator[Line]:
    run = read_manifest(workspace, Stage.BENCH, result.artifact_id, BenchmarkRun)
    keys = [projection.result_id(run, one) for one in run.measurements]
    if result.result_id not in keys:
        raise ArtifactMissing(
            f"result {result.result_id[:12]} is not in {_where(run)}, which was made again since",
            remedy="Run `edgekiln db rebuild`: the database then says what the artifacts say.",
        )
    name = f"result {result.result_id[:12]}"
    source = f"bench {run.artifact_id}: measurements.{keys.index(result.result_id)}"
    samples = ", ".join(f"{sample:.2f}" for sample in result.samples_tps) or None
    yield name, f"{result.quantisation} {result.test}, median", result.median_tps, _SPEED, f"{source}.median_tps"
    yield name, "samples", samples, _SPEED, f"{source}.samples_tps"
    yield name, "origin", result.origin.value, "", f"{source}.origin"
    if result.error:
        yield name, "error", result.error, "", f"{source}.error"
    yield name, "threads", result.threads, "", f"{source}.threads"
    yield name, "depth", result.n_depth, "tokens", f"{source}.n_depth"
    yield name, "measured at", utc(result.measured_at), "", f"{source}.raw.0.test_time, or the manifest's created_at"
    for record in standing(workspace):
        if record.artifacts.get(Stage.BENCH) == run.artifact_id:
            made = "reused" if Stage.BENCH in record.reused else "made"
            yield name, "run", record.run_id, "", f"runs/{record.run_id}/run.json ({made} by profile {record.profile})"
    yield from _with_ancestors(workspace, run, quantisation=result.quantisation)


def _with_ancestors(
    workspace: Workspace, artifact: Artifact, told: set[str] | None = None, *, quantisation: str | None = None
) -> Iterator[Line]:
    """Yield an artifact's lines and those of what it was made from, nearest first, each artifact once."""
    told = set() if told is None else told
    waiting = [artifact]
    while waiting:
        one = waiting.pop(0)
        if one.artifact_id in told:
            continue
        told.add(one.artifact_id)
        yield from _artifact(one, quantisation)
        if isinstance(one, GgufModel):
            yield from _publications(workspace, one)
        for ref in one.parents:
            above, why_not = _parent(workspace, ref)
            if above is not None:
                waiting.append(above)
            else:
                yield _name(one), f"{ref.stage.value} {ref.artifact_id}", None, "", why_not


def _published_as(workspace: Workspace, what: str) -> Iterator[GgufModel]:
    """Yield the exports that were published as a commit, or with a manifest, of that beginning and are still here."""
    marks = ((told.artifact_id, told.revision or told.manifest_sha256) for told in readable_publications(workspace))
    for artifact_id in dict.fromkeys(found for found, mark in marks if mark and mark.startswith(what)):
        with suppress(ArtifactError):
            yield read_manifest(workspace, Stage.EXPORT, artifact_id, GgufModel)


def _publications(workspace: Workspace, gguf: GgufModel) -> Iterator[Line]:
    """Yield where a model was published; one of that id whose content is another was made again since, and is told."""
    name, where = _name(gguf), str(workspace.publications.relative_to(workspace.root))
    try:
        told = [one for one in publications(workspace) if one.artifact_id == gguf.artifact_id]
    except ArtifactError as error:
        yield name, "published to", None, "", error.problem
        return
    for one in told:
        yield name, f"published to {one.to}", _published(one, gguf), "", where


def _published(one: Publication, gguf: GgufModel) -> str:
    manifest = f"manifest {one.manifest_sha256}" if one.manifest_sha256 else ""
    files = f"{len(one.files)} file{'' if len(one.files) == 1 else 's'}"
    parts = [utc(one.at), f"commit {one.revision}" if one.revision else manifest, files]
    parts += [] if one.seal == gguf.seal else ["of this export as it was before it was made again"]
    return ", ".join(part for part in parts if part)


def _parent(workspace: Workspace, ref: ParentRef) -> tuple[Artifact | None, str]:
    """Return the parent a child was really made from, or why it cannot be shown."""
    try:
        found = read_manifest(workspace, ref.stage, ref.artifact_id, NOUNS[ref.stage])
    except ArtifactError as error:
        return None, error.problem
    if found.content_digest != ref.content_digest:
        return None, f"made again since: content is {found.content_digest[:12]}, was {ref.content_digest[:12]}"
    return found, ""


def _where(artifact: Artifact) -> str:
    return f"artifacts/{artifact.stage.value}/{artifact.artifact_id}/{MANIFEST}"


def _artifact(artifact: Artifact, quantisation: str | None) -> Iterator[Line]:
    name = _name(artifact)
    yield name, "manifest", _where(artifact), "", "the workspace"
    yield name, "made at", utc(artifact.created_at), "", "created_at"
    yield name, "content sha256", artifact.content_digest, "", "content_digest"
    for index, ref in enumerate(artifact.parents):
        yield name, "made from", f"{ref.stage.value} {ref.artifact_id}", "", f"parents.{index}"
    yield from ((name, *figure) for figure in _figures(artifact, quantisation))
    for tool, version in sorted(artifact.tools.items()):
        yield name, f"tool {tool}", version, "", f"tools.{tool}"
    for key, setting in _settings(artifact):
        yield name, f"setting {key}", setting, "", f"config.{key}"


def _figures(artifact: Artifact, quantisation: str | None) -> Iterator[Figure]:
    if isinstance(artifact, BenchmarkRun):
        yield from _of_benchmark(artifact)
    elif isinstance(artifact, GgufModel):
        yield from _of_gguf(artifact, quantisation)
    elif isinstance(artifact, Adapter):
        yield from _of_adapter(artifact)
    elif isinstance(artifact, SearchReport):
        yield from _of_search(artifact)
    elif isinstance(artifact, LabeledDataset):
        yield from _of_labels(artifact)
    elif isinstance(artifact, Dataset):
        yield from _of_dataset(artifact)
    elif isinstance(artifact, EnvReport):
        yield "host", artifact.host.fingerprint, "", "host.fingerprint"
        yield "CPU", artifact.host.cpu_model, "", "host.cpu_model"


def _of_benchmark(run: BenchmarkRun) -> Iterator[Figure]:
    yield "device", run.device, "", "device"
    yield "host", run.device_host.fingerprint, "", "device_host.fingerprint"
    yield "board", run.device_host.board_model, "", "device_host.board_model"
    yield "CPU", run.device_host.cpu_model, "", "device_host.cpu_model"
    yield "memory", run.device_memory.evidence, "", "device_memory.evidence"
    yield "highest temperature", run.telemetry.max_temperature_c, "°C", "telemetry.max_temperature_c"
    yield "throttled", run.telemetry.throttled, "", "telemetry.throttled"
    for index, one in enumerate(run.measurements):
        what = f"{one.quantisation} {one.test}, {one.origin.value}"
        yield what, one.median_tps, _SPEED, f"measurements.{index}.median_tps"


def _of_gguf(gguf: GgufModel, quantisation: str | None) -> Iterator[Figure]:
    yield "student", _model(gguf.student), "", "student"
    yield "held-out loss, merged", gguf.reference_held_out_loss, _LOSS, "reference_held_out_loss"
    if gguf.merge is not None:
        yield "merged onto", f"{gguf.merge.onto}: {gguf.merge.reason}", "", "merge"
        for onto, loss in gguf.merge.held_out_losses.items():
            yield f"held-out loss, merged onto {onto}", loss, _LOSS, f"merge.held_out_losses.{onto}"
    if gguf.adapter_file is not None:
        yield "adapter file", str(gguf.adapter_file), "", "adapter_file.path"
        yield (
            "held-out loss, adapter file on its base",
            gguf.adapter_file.held_out_loss,
            _LOSS,
            "adapter_file.held_out_loss",
        )
    files: dict[str, UnprovenQuantisation] = {
        f"quantisations.{index}": file for index, file in enumerate(gguf.quantisations)
    }
    files |= {f"rejected.{index}.quantisation": one.quantisation for index, one in enumerate(gguf.rejected)}
    for field, file in files.items():
        if quantisation not in (None, file.type):
            continue
        kept = [ref.sha256 for ref in gguf.files if ref.path == file.path]
        yield f"{file.type} file", file.path if kept else "rejected, not kept", "", f"{field}.path"
        yield f"{file.type} sha256", kept[0] if kept else None, "", "files"
        yield f"{file.type} size", file.bytes / (1 << 20), "MiB", f"{field}.bytes"
        yield f"{file.type} bits per weight", file.bits_per_weight, "", f"{field}.bits_per_weight"
        yield f"{file.type} held-out loss", file.held_out_loss, _LOSS, f"{field}.held_out_loss"
        if file.divergence is not None:
            yield from _of_divergence(file.type, file.divergence, f"{field}.divergence")
        if file.memory is not None:
            yield from _of_memory(file.type, file.memory, f"{field}.memory")


def _of_divergence(kind: str, divergence: Divergence, field: str) -> Iterator[Figure]:
    yield f"{kind} KL divergence", divergence.kl_mean, _LOSS, f"{field}.kl_mean"
    yield f"{kind} KL divergence, standard error", divergence.kl_mean_error, _LOSS, f"{field}.kl_mean_error"
    yield f"{kind} perplexity / that of F32", divergence.perplexity_ratio, "", f"{field}.perplexity_ratio"
    yield f"{kind} same likeliest token", divergence.same_top_share, "", f"{field}.same_top_share"


def _of_memory(kind: str, need: MemoryNeed, field: str) -> Iterator[Figure]:
    what = f"{kind} RAM with a KV cache of {need.n_ctx} tokens"
    yield f"{what}, {Origin.PREDICTED.value}", need.estimated_bytes / (1 << 20), "MiB", f"{field}.estimated_bytes"
    if need.measured_bytes is not None:
        on = f"{Origin.MEASURED.value} on {need.measured_on}"
        yield f"{what}, {on}", need.measured_bytes / (1 << 20), "MiB", f"{field}.measured_bytes"


def _of_adapter(adapter: Adapter) -> Iterator[Figure]:
    yield "student", _model(adapter.student), "", "student"
    yield "held-out loss, base", adapter.base_held_out_loss, _LOSS, "base_held_out_loss"
    yield "held-out loss, adapter", adapter.held_out_loss, _LOSS, "held_out_loss"
    yield "optimiser steps", adapter.steps, "", "steps"
    yield "trainable parameters", adapter.trainable_parameters, "", "trainable_parameters"
    yield "trained tokens", adapter.trained_tokens, "", "trained_tokens"
    yield "resumed from steps", ", ".join(map(str, adapter.resumed_from_steps)) or "never", "", "resumed_from_steps"


def _of_search(search: SearchReport) -> Iterator[Figure]:
    yield "student", _model(search.student), "", "student"
    yield "held-out loss, base", search.base_held_out_loss, _LOSS, "base_held_out_loss"
    yield f"held-out loss, trial {search.best_trial}", search.held_out_loss, _LOSS, "held_out_loss"
    yield from ((f"winner {key}", value, "", f"winner.{key}") for key, value in _flat(search.winner, ""))


def _of_labels(labels: LabeledDataset) -> Iterator[Figure]:
    yield "teacher", _model(labels.teacher), "", "teacher"
    yield "rows to train on", labels.train_rows, "", "train_rows"
    yield "rows held out", labels.held_out_rows, "", "held_out_rows"
    yield "rows unanswered", labels.unanswered, "", "unanswered"


def _of_dataset(dataset: Dataset) -> Iterator[Figure]:
    for index, source in enumerate(dataset.sources):
        yield f"source {source.name}", f"{source.records} records, shape {source.shape}", "", f"sources.{index}"
        yield f"source {source.name} sha256", source.sha256, "", f"sources.{index}.sha256"
    yield "rows kept", dataset.rows, "", "rows"
    yield "rows rejected", dataset.rejected, "", "rejected"


def _model(model: ModelRef) -> str:
    return f"{model.name}, {model.identity}, licence {model.licence}"


def _settings(artifact: Artifact) -> Iterator[tuple[str, Cell]]:
    """Yield the settings that shaped the bytes; nothing but those, so that no address and no name of a secret is told."""
    try:
        shaping = _SECTIONS[artifact.stage].model_validate(artifact.config).shaping()
    except ValidationError:
        return  # the manifest is of another version's configuration, and what shaped it then is not known now
    yield from _flat(shaping, "")


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Cell]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield prefix + key, ", ".join(map(str, value))
        else:
            yield prefix + key, "not set" if value is None else value
