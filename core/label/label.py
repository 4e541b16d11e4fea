"""The label stage: a Dataset's prompts get a teacher's completions, through the ledger, so that none is asked twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.config import LabelConfig
from core.contract import Limit, Stage, judge
from core.data.limits import QualityWeights, RuleLimits
from core.data.record import Reject
from core.errors import ArtifactError, DataError, EdgekilnError, NoRowsLeft, TeacherFailed
from core.events import Found, Note, OnEvent, Resumed, ignore
from core.files import read_json_lines
from core.label.answer_gate import AnswerGate
from core.label.ask import UNASKED
from core.label.asking import Asker
from core.label.entries import Spent
from core.label.exchange import exchanged, fetch_labelled, guarded
from core.label.judging import Bench, ask_judge, bench_of, silent_judge
from core.label.ledger import open_ledger
from core.label.questions import Questions, Survey, questions_of, survey
from core.label.session import Session
from core.label.teachers import Choice, choose, open_teacher
from core.label.writing import LabelsWriter, Written
from core.nouns import Dataset, LabeledDataset, refs
from core.stage import Facts, Order, produce
from core.workspace import Workspace, read_manifest

_VERSION = 3
_ROUNDING = 1e-9  # 0.29 of 100 rows are 29 of them


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
    bench = bench_of(config, on_event, beside)
    order = _order(dataset, config, choice, bench)

    def work(content: Path) -> Facts:
        questions = questions_of(dataset, config, choice.identity, workspace)
        rules, weights = (dataset.config[name] for name in ("rules", "quality"))
        gate = AnswerGate(RuleLimits.model_validate(rules), QualityWeights.model_validate(weights))
        with open_ledger(workspace.ledger("label")) as ledger, exchanged(workspace, config.sync_s, on_event):
            found = survey(questions, ledger)
            session = Session(ledger, order.identity()[:12], on_event, beside)
            with session.open(config.teacher, found) as step:
                sent = _ask(questions, found, session, guarded(step, workspace), _may_fail(dataset, config, found))
                sent += ask_judge(bench, questions, gate, session) if bench else 0
            with LabelsWriter(content, ledger, config, gate, bench) as writer:
                for question in questions:
                    writer.write(question)
            spent = ledger.spent(session.artifact_id)
        if unasked := writer.written.unasked:
            text = f"more rows got no answer than label.max_failed_share allows: {unasked} others were not asked"
            on_event(Note(stage=Stage.LABEL, text=text, level="warning"))
        findings = (*gate.findings(), *([silent_judge(writer.unjudged)] if writer.unjudged else []))
        for finding in findings:
            on_event(Found(stage=Stage.LABEL, finding=finding))
        own = {"teacher": choice.ref, "asked": sent, "reused": found.settled, "sent_again": found.in_flight}
        return _facts({**own, "findings": findings}, writer.written, _cost(spent, config))

    artifact = produce(order, _workspace_for(order, workspace), on_event, work)
    if not artifact.verdict.passed:
        raise _refusal(artifact, workspace)
    return artifact


def _facts(own: dict[str, Any], written: Written, cost: dict[str, Any]) -> Facts:
    counts = {
        "train_rows": written.rows["train"],
        "held_out_rows": written.rows["held_out"],
        "unanswered": written.rows["unanswered"],
    }
    tokens = {"prompt_tokens": written.prompt_tokens, "completion_tokens": written.completion_tokens}
    return Facts(
        own={**own, **counts, **tokens, **cost},
        metrics={
            "failed_share": counts["unanswered"] / max(1, written.rows.total()),
            "unasked": written.unasked,
            **counts,
        },
        without_meaning=frozenset({"unanswered.jsonl", "samples.jsonl"}),
    )


def _cost(spent: Spent, config: LabelConfig) -> dict[str, Any]:
    known = spent.priced > 0 and config.prices is not None
    return {"cost": spent.cost if known else None, "currency": config.prices.currency if known and config.prices else None}


def _order(dataset: Dataset, config: LabelConfig, choice: Choice, bench: Bench | None) -> Order[LabeledDataset]:
    return Order(
        noun=LabeledDataset,
        stage=Stage.LABEL,
        version=_VERSION,
        config=config,
        parents=refs(dataset),
        tools={"teacher": choice.identity, **choice.tools, **({"judge": bench.identity} if bench else {})},
        limits=(
            Limit(metric="failed_share", op="<=", value=config.max_failed_share),
            Limit(metric="train_rows", op=">=", value=1),
            Limit(metric="held_out_rows", op=">=", value=1),
        ),
    )


def _workspace_for(order: Order[LabeledDataset], workspace: Workspace) -> Workspace:
    """Redo a labelling that failed its limits or was given up instead of reusing it: only what is missing is asked."""
    fetch_labelled(workspace, order.identity())
    try:
        found = read_manifest(workspace, Stage.LABEL, order.identity()[:12], LabeledDataset)
    except ArtifactError:
        return workspace
    if judge(order.limits, found.metrics).passed and not found.metrics.get("unasked"):
        return workspace
    return replace(workspace, force=workspace.force | {Stage.LABEL})


def _may_fail(dataset: Dataset, config: LabelConfig, found: Survey) -> float:
    """Return how many more rows may stay without an answer before the labelling is refused for certain.

    With several samples a row has several chances, so that this is known only at the end.
    """
    if config.samples.count > 1:
        return math.inf
    rows = dataset.train_rows + dataset.held_out_rows
    return math.floor(config.max_failed_share * rows + _ROUNDING) - found.failed


def _ask(questions: Questions, found: Survey, session: Session, step: Callable[[int], None], may_fail: float) -> int:
    """Ask what is open and return how many requests were sent; no more once too many rows stay without an answer."""
    on_event = session.on_event
    if found.settled:
        on_event(Resumed(stage=Stage.LABEL, done=found.settled, unit="answers"))
    if not found.open or may_fail < 0:
        return 0
    if found.in_flight:
        many = "request was" if found.in_flight == 1 else "requests were"
        text = f"{found.in_flight} {many} under way when an earlier process ended; sent again"
        on_event(Note(stage=Stage.LABEL, text=text))
    config = questions.config
    teacher = open_teacher(config, on_event, session.beside)
    asker = Asker(teacher, session.ledger, config, session.account(config), on_event)
    try:
        asker.ask_all(found.opened(questions), step, may_fail)
    finally:
        teacher.close()
    return asker.sent


def _refusal(artifact: LabeledDataset, workspace: Workspace) -> EdgekilnError:
    """Return the error of a labelling that failed its limits, by whose fault most rows went without an answer."""
    path = workspace.folder(Stage.LABEL, artifact.artifact_id) / "unanswered.jsonl"
    codes: Counter[str] = Counter()
    examples: dict[str, Reject] = {}
    for reject in map(Reject.model_validate, read_json_lines(path)):
        codes[reject.code] += 1
        examples.setdefault(reject.code, reject)
    total = artifact.train_rows + artifact.held_out_rows + codes.total()
    unasked = codes.pop(UNASKED, 0)
    aside = codes.total()
    share = artifact.metrics["failed_share"]
    limit = artifact.config["max_failed_share"]
    if share <= limit:
        return NoRowsLeft(
            f"{artifact.train_rows} rows for training, {artifact.held_out_rows} held out < 1, label",
            remedy=f"Give more prompts; {path} says which of {total} rows went without an answer.",
        )
    worst = max(sorted(codes), key=lambda code: codes[code])
    example = examples[worst]
    kind = DataError if worst == "bad-schema" else TeacherFailed
    compared = f"{share:.0%} > {limit:.0%}" if not unasked else f"more than {limit:.0%}"
    others = f"; {unasked} others were not asked any more" if unasked else ""
    return kind(
        f"{aside} of {total} rows got no answer: {compared}, label.max_failed_share{others};"
        f" mostly {worst}: {example.reason}",
        remedy=f"{example.remedy} {path} lists them all.",
    )
