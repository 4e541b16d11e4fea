"""What this workspace has produced: every export with its figures, what it was made from, where it stands and was published.

Cards of the models that others made are in catalogue.py; a model's card for its readers is in export/card.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pydantic import AwareDatetime

from core.contract import Artifact, ArtifactId, Contract, Origin, Stage
from core.data.card import shown_name
from core.errors import ArtifactError, ArtifactMissing
from core.lineage import known_ancestors
from core.nouns import BenchmarkRun, Dataset, GgufModel, LabeledDataset, Measurement, ModelRef
from core.promote import current, unmet
from core.publish.record import Publication, publications
from core.runs import runs
from core.workspace import Workspace, artifacts, refuse_broken

A = TypeVar("A", bound=Artifact)


class Speed(Contract):
    """The newest speed of one file in one test on one device, in tokens per second."""

    device: str
    quantisation: str
    test: str
    median_tps: float
    origin: Origin
    bench: ArtifactId
    measured_at: AwareDatetime


class Ancestor(Contract):
    """What a model was made from; `created_at` is None where the artifact is not in this workspace, or broken."""

    stage: Stage
    artifact_id: ArtifactId
    created_at: AwareDatetime | None


class Produced(Contract):
    """One export as the catalogue tells of it.

    `model` is its manifest, which has the figures of every file; `profiles` are those whose runs made or reused it,
    `current_for` those whose pointer is on it. None is what this workspace does not know.
    """

    title: str
    model: GgufModel
    failures: tuple[str, ...]
    profiles: tuple[str, ...]
    current_for: tuple[str, ...]
    base: ModelRef
    teacher: ModelRef | None
    dataset: ArtifactId | None
    dataset_title: str | None
    speeds: tuple[Speed, ...]
    published: tuple[Publication, ...]
    lineage: tuple[Ancestor, ...]


def produced(workspace: Workspace) -> list[Produced]:
    """Return the catalogue, newest first; exports whose manifest is broken are left out (`edgekiln status` tells of them)."""
    benches = [one for one in artifacts(workspace, Stage.BENCH) if isinstance(one, BenchmarkRun)]
    told, made_by, pointed = publications(workspace), _made_by(workspace), _pointers(workspace)
    models = [one for one in artifacts(workspace, Stage.EXPORT) if isinstance(one, GgufModel)]
    return [
        _produced(
            workspace,
            model,
            profiles=tuple(sorted(made_by.get(model.artifact_id, ()))),
            current_for=tuple(name for name, artifact_id in pointed.items() if artifact_id == model.artifact_id),
            speeds=_speeds(model, benches),
            published=tuple(one for one in told if one.artifact_id == model.artifact_id),
        )
        for model in reversed(models)
    ]


def find(workspace: Workspace, prefix: str) -> Produced:
    """Return the one whose id starts with a prefix; ArtifactMissing for none or several, ManifestBroken for one that is."""
    refuse_broken(workspace, prefix)
    found = [one for one in produced(workspace) if one.model.artifact_id.startswith(prefix)]
    if len(found) != 1:
        raise ArtifactMissing(
            f"{len(found)} exports of {workspace.root} begin with {prefix!r}, 1 is needed",
            remedy="List them with `edgekiln models`, and name one by more of its id.",
        )
    return found[0]


def _produced(
    workspace: Workspace,
    model: GgufModel,
    *,
    profiles: tuple[str, ...],
    current_for: tuple[str, ...],
    speeds: tuple[Speed, ...],
    published: tuple[Publication, ...],
) -> Produced:
    ancestors = known_ancestors(workspace, model)
    here = [artifact for _, artifact in ancestors if artifact is not None]
    labeled, dataset = _first(here, LabeledDataset), _first(here, Dataset)
    return Produced(
        title=str(model.config.get("card", {}).get("title") or model.student.name),
        model=model,
        failures=() if model.verdict.passed else tuple(unmet(model)),
        profiles=profiles,
        current_for=current_for,
        base=model.student,
        teacher=labeled.teacher if labeled else None,
        dataset=dataset.artifact_id if dataset else None,
        dataset_title=_dataset_title(dataset) if dataset else None,
        speeds=speeds,
        published=published,
        lineage=tuple(
            Ancestor(stage=ref.stage, artifact_id=ref.artifact_id, created_at=artifact.created_at if artifact else None)
            for ref, artifact in ancestors
        ),
    )


def _first(found: Iterable[Artifact], kind: type[A]) -> A | None:
    return next((artifact for artifact in found if isinstance(artifact, kind)), None)


def _dataset_title(dataset: Dataset) -> str:
    named = dataset.config.get("title")
    return str(named) if named else ", ".join(shown_name(source.name) for source in dataset.sources)


def _made_by(workspace: Workspace) -> dict[str, set[str]]:
    """Return the profiles whose runs made or reused each export."""
    found: dict[str, set[str]] = {}
    for run in runs(workspace):
        if (artifact_id := run.artifacts.get(Stage.EXPORT)) is not None:
            found.setdefault(artifact_id, set()).add(run.profile)
    return found


def _pointers(workspace: Workspace) -> dict[str, str]:
    """Return what each profile points to; a pointer that is broken counts as none (`edgekiln status` tells of it)."""
    found = {}
    for path in sorted((workspace.root / "current").glob("*.json")):
        if path == workspace.journal:
            continue
        try:
            pointer = current(workspace, path.stem)
        except ArtifactError:
            continue
        if pointer is not None:
            found[path.stem] = pointer.artifact_id
    return found


def _speeds(model: GgufModel, benches: list[BenchmarkRun]) -> tuple[Speed, ...]:
    """Return the newest of each test; `benches` are in the order they were made."""
    found: dict[tuple[str, str, str], Speed] = {}
    for bench in benches:
        if any(ref.artifact_id == model.artifact_id for ref in bench.parents):
            for one in bench.measurements:
                if one.median_tps is not None:
                    found[bench.device, one.quantisation, one.test] = _speed(bench, one, one.median_tps)
    return tuple(found.values())


def _speed(bench: BenchmarkRun, measured: Measurement, median_tps: float) -> Speed:
    return Speed(
        device=bench.device,
        quantisation=measured.quantisation,
        test=measured.test,
        median_tps=median_tps,
        origin=measured.origin,
        bench=bench.artifact_id,
        measured_at=bench.created_at,
    )
