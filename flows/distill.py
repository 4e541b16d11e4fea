"""The flow `distill`: seven stages in a row, then promotion in one transaction. Composition only."""

from __future__ import annotations

from prefect import flow
from prefect.transactions import transaction

from core.config import parse_overrides
from core.promote import conclude, points_to, refuse_failed
from core.report.run_page import write_run_page
from core.runs import read_run
from flows.choices import DeviceName, PresetName, ProfileName, Quantisation, StageName, StudentName, TeacherName, chosen
from flows.hooks import tell_of_crash
from flows.opening import opened, run_name
from tasks.bench import pi_benchmark
from tasks.compare import compare_with_current
from tasks.data import data_validate
from tasks.env import env_check
from tasks.export import gguf_export
from tasks.ingest import db_ingest
from tasks.job import Job
from tasks.label import teacher_label
from tasks.promote import announce, promote, verify
from tasks.train import qlora_train


@flow(name="distill", flow_run_name=run_name, on_crashed=[tell_of_crash], persist_result=False)
def distill(
    profile: ProfileName = "demo",
    *,
    dataset: str | None = None,
    student: StudentName | None = None,
    teacher: TeacherName | None = None,
    preset: PresetName | None = None,
    quantisations: tuple[Quantisation, ...] = (),
    device: DeviceName | None = None,
    overrides: tuple[str, ...] = (),
    profile_file: str | None = None,
    workspace: str | None = None,
    force: tuple[StageName, ...] = (),
) -> str:
    """Make a small language model from a file of prompts and prove it on the device it will live on.

    Args:
        profile: The job; everything left empty below keeps the profile's value.
        dataset: A JSONL file with prompts, or builtin:python-docs.
        student: The model that learns.
        teacher: The model that answers the prompts.
        preset: Training settings below the profile's own; auto takes those for this machine.
        quantisations: The GGUF files to make.
        device: Where the files are measured.
        overrides: Any other field, one entry each, such as train.lora.r=32.
        profile_file: A profile of your own as a YAML file; it takes the place of the profile chosen above.
        workspace: The folder for everything that is made; empty takes EDGEKILN_WORKSPACE, then .edgekiln.
        force: Do this stage and those after it again although finished results are there.
    """
    form = {"dataset": dataset, "student": student, "teacher": teacher, "preset": preset, "device": device}
    changes = {**chosen(**form, quantisations=quantisations), **dict(parse_overrides(overrides))}
    with opened(profile_file or profile, changes, workspace, force) as job:
        make_and_promote(job)
    write_run_page(job.workspace, read_run(job.workspace, job.run_id))
    return job.run_id


def make_and_promote(job: Job) -> None:
    """Run the seven stages, each a task of its own, and make the model current when every gate said yes."""
    env_check(job)
    dataset = data_validate(job)
    labeled = teacher_label(job, dataset)
    adapter = qlora_train(job, labeled)
    model = gguf_export(job, adapter)
    run = pi_benchmark(job, model)
    db_ingest(job, run)
    refuse_failed(adapter, model, run)  # the figures of a refused candidate are kept, it is never promoted
    if points_to(job.workspace, job.profile.name, model):
        return  # an earlier run verified it through the pointer, and this one its files
    compare_with_current(job, model)
    with transaction():
        promote(job, model)
        verify(job)
        announce(job, model)
    conclude(job.workspace)
