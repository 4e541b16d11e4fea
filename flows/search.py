"""The flow `search`: the rows, the teacher's answers, then trials of training settings. Composition only."""

from __future__ import annotations

from prefect import flow

from core.config import parse_overrides
from core.promote import refuse_failed
from core.report.run_page import write_run_page
from core.runs import read_run
from flows.choices import ProfileName, StageName, StudentName, TeacherName, chosen
from flows.hooks import tell_of_crash
from flows.opening import opened, run_name
from tasks.data import data_validate
from tasks.env import env_check
from tasks.label import teacher_label
from tasks.search import settings_search


@flow(name="search", flow_run_name=run_name, on_crashed=[tell_of_crash], persist_result=False)
def search(
    profile: ProfileName = "demo",
    *,
    dataset: str | None = None,
    student: StudentName | None = None,
    teacher: TeacherName | None = None,
    trials: int | None = None,
    overrides: tuple[str, ...] = (),
    profile_file: str | None = None,
    workspace: str | None = None,
    force: tuple[StageName, ...] = (),
) -> str:
    """Search the training settings that give the student the lowest held-out loss.

    Args:
        profile: The job; everything left empty below keeps the profile's value.
        dataset: A JSONL file with prompts, or builtin:python-docs.
        student: The model that learns.
        teacher: The model that answers the prompts.
        trials: How many trials to make, those of earlier searches of the same kind counted.
        overrides: Any other field, one entry each, such as search.space.r=[8,16].
        profile_file: A profile of your own as a YAML file; it takes the place of the profile chosen above.
        workspace: The folder for everything that is made; empty takes EDGEKILN_WORKSPACE, then .edgekiln.
        force: Do this stage and those after it again although finished results are there; search forgets its trials.
    """
    form = chosen(dataset=dataset, student=student, teacher=teacher)
    counted = {"search.trials": trials} if trials else {}
    changes = {**form, **dict(parse_overrides(overrides)), **counted}
    with opened(profile_file or profile, changes, workspace, force) as job:
        env_check(job)
        found = settings_search(job, teacher_label(job, data_validate(job)))
        refuse_failed(found)
    write_run_page(job.workspace, read_run(job.workspace, job.run_id))
    return job.run_id
