"""The verb search: rows, range test, trials in processes of their own, and the artifact that says what was found."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import catalogue, models
from core.catalogue import ModelCard
from core.config import SearchConfig, TrainConfig
from core.contract import Limit, Stage
from core.errors import ToolMissing
from core.events import Note, OnEvent, Resumed, ignore
from core.files import digest_of, write_atomic, write_json_lines
from core.nouns import LabeledDataset, SearchReport, refs
from core.report.search import TRIALS, Found, write_page
from core.search import joining
from core.search.processes import take_trials
from core.search.range_test.curve import Curve
from core.search.range_test.take import take
from core.search.request import TrialsRequest
from core.search.rows import check_rows
from core.search.space import check
from core.search.study import Trials
from core.search.winner import WINNER, overrides_file, winner_of
from core.stage import Facts, Order, produce
from core.workspace import Workspace

VERSION = 1
_LOOK_S = 0.5


def search(
    labeled: LabeledDataset,
    config: SearchConfig,
    train: TrainConfig,
    workspace: Workspace,
    on_event: OnEvent = ignore,
    *,
    beside: Path | None = None,
) -> SearchReport:
    """Search training settings for the lowest held-out loss; the gate is the train stage's own.

    Trials that ended are kept over any end of this process, and for a search with another budget. BadConfig for a space
    that does not fit the training; BudgetReached or TrainingDiverged when no trial finished.
    """
    check(config.space, train)
    check_rows(labeled, config)
    card = catalogue.model(train.student, beside)
    order = Order(
        noun=SearchReport,
        stage=Stage.SEARCH,
        version=VERSION,
        config=config,
        parents=refs(labeled),
        inputs=(models.identity(card), digest_of(train.shaping())),
        tools={"optuna": _optuna()},
        limits=(Limit(metric="gain", op=">", value=train.min_gain),),
    )
    study = study_folder(order, workspace)
    if Stage.SEARCH in workspace.force:
        shutil.rmtree(study, ignore_errors=True)
    request = TrialsRequest(
        study=str(study),
        workspace=str(workspace.root),
        labeled=labeled,
        search=config,
        train=train,
        beside=str(beside) if beside else None,
    )
    return produce(order, workspace, on_event, lambda content: _work(content, request, card, on_event))


def study_folder(order: Order[SearchReport], workspace: Workspace) -> Path:
    """Return where the study of a search lies: the same one whatever the number of trials and seconds."""
    endless = order.config.model_copy(update={"trials": 1, "budget_s": None})
    return workspace.root / "search" / replace(order, config=endless).identity()[:12]


def _work(content: Path, request: TrialsRequest, card: ModelCard, on_event: OnEvent) -> Facts:
    config, folder = request.search, Path(request.study)
    curve = _range_test(request, card, on_event)
    with Trials(folder, config, request.train) as trials:
        if curve and curve.suggested_learning_rate and (rate := config.space.learning_rate):
            trials.begin_with({"learning_rate": min(max(curve.suggested_learning_rate, rate.low), rate.high)})
        if done := trials.counted():
            on_event(Resumed(stage=Stage.SEARCH, done=done, unit="trials"))
        joining.tell(request)
        _take_trials(trials, request, on_event)
        found = Found(
            goals=config.goals,
            records=tuple(trials.records()),
            importances=trials.importances(),
            curve=curve,
        )
    shutil.rmtree(folder / "trials", ignore_errors=True)
    return _facts(content, found, request, models.ref(card))


def _range_test(request: TrialsRequest, card: ModelCard, on_event: OnEvent) -> Curve | None:
    if not request.search.range_test.steps:
        return None
    rows = Path(request.workspace) / "artifacts" / Stage.LABEL.value / request.labeled.artifact_id / "train.jsonl"
    curve = take(rows, request.search.range_test, request.train, card, Path(request.study), on_event=on_event)
    rate = curve.suggested_learning_rate
    told = f"suggests {rate:.2e}" if rate else "suggests no rate: the loss never fell"
    on_event(Note(stage=Stage.SEARCH, text=f"the learning-rate range test {told}; {curve.ended}"))
    return curve


def _take_trials(trials: Trials, request: TrialsRequest, on_event: OnEvent) -> None:
    """Have all trials made; a process that died may have left one when the others had ended."""
    waits = False
    while not trials.are_complete():
        if not trials.are_taken():
            take_trials(request, [str(number) for number in range(request.search.processes)], on_event)
            continue
        if not waits:
            text = "the last trials are under way in another terminal; this one waits for them"
            on_event(Note(stage=Stage.SEARCH, text=text))
        waits = True
        time.sleep(_LOOK_S)


def _facts(content: Path, found: Found, request: TrialsRequest, student: object) -> Facts:
    best, measured = winner_of(found.records, request.search)
    write_json_lines(content / TRIALS, (record.model_dump(mode="json") for record in found.records))
    rows = f"{request.search.subset_rows or request.labeled.train_rows} of {request.labeled.train_rows} rows"
    heading = (
        f"Trial {best.number} of a search over {len(found.records)} trials, each on {rows}.",
        f"Held-out loss {measured.held_out_loss:.4f}, before training {measured.base_held_out_loss:.4f}.",
        "edgekiln run --profile PROFILE --set THIS_FILE",
    )
    write_atomic(content / WINNER, overrides_file(best.settings, heading).encode())
    if found.curve:
        write_atomic(content / "range_test.json", found.curve.model_dump_json(indent=1).encode())
    drawn = write_page(content, found, best)
    outcomes = [record.outcome for record in found.records]
    return Facts(
        own={
            "student": student,
            "goals": request.search.goals,
            "rows": request.search.subset_rows or request.labeled.train_rows,
            "outcomes": {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
            "best_trial": best.number,
            "best_trials": tuple(record.number for record in found.records if record.is_best),
            "winner": best.settings,
            "base_held_out_loss": measured.base_held_out_loss,
            "held_out_loss": measured.held_out_loss,
            "importances": found.importances,
            "suggested_learning_rate": found.curve.suggested_learning_rate if found.curve else None,
        },
        metrics={
            "held_out_loss": measured.held_out_loss,
            "base_held_out_loss": measured.base_held_out_loss,
            "gain": measured.base_held_out_loss - measured.held_out_loss,
        },
        without_meaning=frozenset(drawn),
    )


def _optuna() -> str:
    try:
        return version("optuna")
    except PackageNotFoundError as error:
        raise ToolMissing(
            "the package optuna is not installed, a search needs it",
            remedy="Install the extra: pip install edgekiln[train]",
        ) from error
