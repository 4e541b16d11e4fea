"""The label stage: a Dataset's prompts get a teacher's completions, through the ledger, so that none is asked twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.config import LabelConfig
from core.contract import Limit, Stage, judge
from core.data.limits import RuleLimits
from core.data.record import PromptRow, Reject, read_prompts
from core.errors import ArtifactError, DataError, EdgekilnError, NoRowsLeft, TeacherFailed
from core.events import Found, Note, OnEvent, Progress, Resumed, ignore
from core.files import write_json_lines
from core.label.answer_gate import AnswerGate
from core.label.ask import Problem, first_request, labeled, schema_problem, set_aside
from core.label.asking import Asker, Outcome, follow
from core.label.ledger import Ledger, Request, open_ledger
from core.label.teachers import Choice, choose, open_teacher
from core.nouns import Dataset, LabeledDataset, refs
from core.stage import Facts, Order, produce
from core.workspace import Workspace, read_manifest

_VERSION = 2
_PROGRESS_EVERY_S = 0.2


def label(
    dataset: Dataset,
    config: LabelConfig,
    workspace: Workspace,
    on_event: OnEvent = ignore,
    beside: Path | None = None,
) -> LabeledDataset:
    """Return the dataset with a completion to every prompt that got one.

    TeacherFailed when the teacher answers nothing, or, after publishing, when more than `max_failed_share` of the rows
    went without an answer through its fault; DataError when it was the rows' fault; NoRowsLeft when a split is empty.
    """
    choice = choose(config, on_event, beside)
    order = _order(dataset, config, choice)

    def work(content: Path) -> Facts:
        rows = list(read_prompts(workspace.folder(Stage.DATA, dataset.artifact_id)))
        with open_ledger(workspace.ledger("label")) as ledger:
            plan = _plan(rows, choice.identity, config, ledger)
            sent = _ask(plan, config, ledger, on_event, beside)
            outcomes = {key: follow(request, ledger) for key, request in plan.unique.items()}
        gate = AnswerGate(RuleLimits.model_validate(dataset.config["rules"]))
        distil = config.context_distillation
        counted = _write(content, rows, plan, outcomes, context_distillation=distil, gate=gate)
        for finding in gate.findings():
            on_event(Found(stage=Stage.LABEL, finding=finding))
        spent = {
            "prompt_tokens": sum(outcome.prompt_tokens for outcome in outcomes.values()),
            "completion_tokens": sum(outcome.completion_tokens for outcome in outcomes.values()),
        }
        return Facts(
            own={
                "teacher": choice.ref,
                "asked": sent,
                "reused": plan.reused,
                "findings": gate.findings(),
                **counted,
                **spent,
            },
            metrics={"failed_share": counted["unanswered"] / max(1, len(rows)), **counted},
            without_meaning=frozenset({"unanswered.jsonl"}),
        )

    artifact = produce(order, _workspace_for(order, workspace), on_event, work)
    if not artifact.verdict.passed:
        raise _refusal(artifact, workspace)
    return artifact


def _order(dataset: Dataset, config: LabelConfig, choice: Choice) -> Order[LabeledDataset]:
    return Order(
        noun=LabeledDataset,
        stage=Stage.LABEL,
        version=_VERSION,
        config=config,
        parents=refs(dataset),
        tools={"teacher": choice.identity, **choice.tools},
        limits=(
            Limit(metric="failed_share", op="<=", value=config.max_failed_share),
            Limit(metric="train_rows", op=">=", value=1),
            Limit(metric="held_out_rows", op=">=", value=1),
        ),
    )


def _workspace_for(order: Order[LabeledDataset], workspace: Workspace) -> Workspace:
    """Redo a labelling that failed its limits instead of reusing it: the ledger asks only for what is still missing."""
    try:
        found = read_manifest(workspace, Stage.LABEL, order.identity()[:12], LabeledDataset)
    except ArtifactError:
        return workspace
    if judge(order.limits, found.metrics).passed:
        return workspace
    return replace(workspace, force=workspace.force | {Stage.LABEL})


@dataclass
class _Plan:
    """The first request of each row that needs one, by row id, and which questions are still open."""

    questions: dict[str, Request] = field(default_factory=dict)
    broken: dict[str, Problem] = field(default_factory=dict)
    open: dict[str, Request] = field(default_factory=dict)
    in_flight: int = 0
    reused: int = 0

    @property
    def unique(self) -> dict[str, Request]:
        """The questions by key: rows that ask the same are asked once."""
        return {request.key: request for request in self.questions.values()}


def _plan(rows: Iterable[PromptRow], teacher: str, config: LabelConfig, ledger: Ledger) -> _Plan:
    plan = _Plan()
    for row in rows:
        if row.completion is not None:
            continue
        if problem := schema_problem(row):
            plan.broken[row.row_id] = problem
        else:
            plan.questions[row.row_id] = first_request(row, teacher, config)
    for key, request in plan.unique.items():
        missing = follow(request, ledger).missing
        if missing is None:
            plan.reused += 1
            continue
        plan.open[key] = request
        entry = ledger.find(missing.key)
        plan.in_flight += entry is not None and entry.state == "waiting"
    return plan


def _ask(plan: _Plan, config: LabelConfig, ledger: Ledger, on_event: OnEvent, beside: Path | None) -> int:
    """Ask what is open and return how many requests were sent."""
    if plan.reused:
        on_event(Resumed(stage=Stage.LABEL, done=plan.reused, unit="answers"))
    if not plan.open:
        return 0
    if plan.in_flight:
        many = "request was" if plan.in_flight == 1 else "requests were"
        text = f"{plan.in_flight} {many} under way when an earlier process ended; sent again"
        on_event(Note(stage=Stage.LABEL, text=text))
    teacher = open_teacher(config, on_event, beside)
    asker = Asker(teacher, ledger, config)
    try:
        asker.ask_all(list(plan.open.values()), _progress(plan, config, on_event))
    finally:
        teacher.close()
    return asker.sent


def _progress(plan: _Plan, config: LabelConfig, on_event: OnEvent) -> Callable[[], None]:
    done, total, told_at = plan.reused, plan.reused + len(plan.open), 0.0

    def step() -> None:
        nonlocal done, told_at
        done += 1
        now = time.perf_counter()
        if done == total or now - told_at >= _PROGRESS_EVERY_S:
            told_at = now
            on_event(Progress(stage=Stage.LABEL, task=f"asking {config.teacher}", done=done, total=total, unit="answers"))

    return step


def _write(
    content: Path,
    rows: list[PromptRow],
    plan: _Plan,
    outcomes: dict[str, Outcome],
    *,
    context_distillation: bool,
    gate: AnswerGate,
) -> dict[str, int]:
    """Write the files in the dataset's order and return their counts.

    They come from the ledger alone, so that neither concurrency nor kills leave a trace in them.
    """
    kept: dict[str, list[dict[str, Any]]] = {"train": [], "held_out": []}
    aside: list[Reject] = []
    for row in rows:
        completion, calls, problem = row.completion, row.answer_tool_calls, plan.broken.get(row.row_id)
        if question := plan.questions.get(row.row_id):
            outcome = outcomes[question.key]
            completion, calls, problem = outcome.completion, outcome.tool_calls, outcome.problem
            if completion is not None and (reject := gate.judge(row, completion, calls)):
                aside.append(reject)
                continue
        if completion is not None:
            kept[row.split].append(labeled(row, completion, context_distillation, calls).model_dump(mode="json"))
        elif problem is not None:
            aside.append(set_aside(row, problem))
    for split, records in kept.items():
        write_json_lines(content / f"{split}.jsonl", records)
    write_json_lines(content / "unanswered.jsonl", (reject.model_dump(mode="json") for reject in aside))
    return {"train_rows": len(kept["train"]), "held_out_rows": len(kept["held_out"]), "unanswered": len(aside)}


def _refusal(artifact: LabeledDataset, workspace: Workspace) -> EdgekilnError:
    """Return the error of a labelling that failed its limits, by whose fault most rows went without an answer."""
    path = workspace.folder(Stage.LABEL, artifact.artifact_id) / "unanswered.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    aside = [Reject.model_validate_json(line) for line in lines]
    total = artifact.train_rows + artifact.held_out_rows + len(aside)
    share = artifact.metrics["failed_share"]
    limit = artifact.config["max_failed_share"]
    if share <= limit:
        return NoRowsLeft(
            f"{artifact.train_rows} rows for training, {artifact.held_out_rows} held out < 1, label",
            remedy=f"Give more prompts; {path} says which of {total} rows went without an answer.",
        )
    codes = [reject.code for reject in aside]
    worst = max(sorted(set(codes)), key=codes.count)
    example = next(reject for reject in aside if reject.code == worst)
    kind = DataError if worst == "bad-schema" else TeacherFailed
    return kind(
        f"{len(aside)} of {total} rows got no answer: {share:.0%} > {limit:.0%}, label.max_failed_share;"
        f" mostly {worst}: {example.reason}",
        remedy=f"{example.remedy} {path} lists them all.",
    )
