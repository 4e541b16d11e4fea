"""The stages called directly, without Prefect: each makes or reuses what comes before it."""

from __future__ import annotations

from core.contract import Artifact, Stage
from core.nouns import Adapter, BenchmarkRun, Dataset, EnvReport, GgufModel, IngestReceipt, LabeledDataset
from tasks.job import Job


def make(stage: Stage, job: Job) -> Artifact:
    """Return a stage's artifact, with everything it needs made or reused before."""
    steps = {
        Stage.ENV: env,
        Stage.DATA: data,
        Stage.LABEL: label,
        Stage.TRAIN: train,
        Stage.EXPORT: export,
        Stage.BENCH: bench,
        Stage.INGEST: ingest,
    }
    return steps[stage](job)


def env(job: Job) -> EnvReport:
    """Check the machine."""
    from core.env.check import check

    return check(job.profile, job.workspace, job.beside, job.on_event)


def data(job: Job) -> Dataset:
    """Validate the prompts."""
    from core.data.student import student_of
    from core.data.validate import validate

    return validate(job.profile.data, job.workspace, job.on_event, student_of(job.profile, job.beside))


def label(job: Job) -> LabeledDataset:
    """Ask the teacher."""
    from core.label.label import label as ask

    return ask(data(job), job.profile.label, job.workspace, job.on_event, job.beside)


def train(job: Job) -> Adapter:
    """Train the adapter."""
    from core.train.train import train as fit

    return fit(label(job), job.profile.train, job.workspace, job.on_event, job.beside)


def export(job: Job) -> GgufModel:
    """Merge, convert and quantise."""
    from core.export.export import export as quantise

    return quantise(train(job), job.profile.export, job.workspace, job.on_event, job.beside)


def bench(job: Job) -> BenchmarkRun:
    """Measure every quantisation."""
    from core.bench.bench import bench as measure

    return measure(export(job), job.profile.bench, job.workspace, job.on_event, job.beside)


def ingest(job: Job) -> IngestReceipt:
    """Write the results into the database."""
    from core.ingest.ingest import ingest as store

    return store(bench(job), job.profile.ingest, job.workspace, job.on_event)
