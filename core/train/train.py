"""The train stage: tokenise the labelled rows, call the worker, resume from a verified checkpoint, judge the gain."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import attended_worker, catalogue, models
from core.catalogue import ModelCard
from core.config import TrainConfig
from core.contract import Limit, Stage
from core.data.record import TokenisedRow, read_labeled
from core.data.tokens import tokenise
from core.errors import ToolMissing
from core.events import OnEvent, ignore
from core.files import digest_of, replace_json_lines, sha256_of
from core.nouns import Adapter, LabeledDataset, ModelRef, refs
from core.stage import Facts, Order, produce
from core.train import student, teacher
from core.train.checkpoints import Training
from core.train.decision import Decisions
from core.train.kept import Kept
from core.train.request import WORKERS, TrainRequest, TrainResult
from core.train.second_home import carried
from core.train.supervisor import Hands, Supervisor
from core.workspace import Workspace

VERSION = 3
_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
_DECISIONS = "decisions.jsonl"
_METRICS = "metrics.jsonl"


def train(
    labeled: LabeledDataset,
    config: TrainConfig,
    workspace: Workspace,
    on_event: OnEvent = ignore,
    beside: Path | None = None,
) -> Adapter:
    """Train a LoRA adapter on the labelled rows; the gate asks that the held-out loss falls by more than `min_gain`.

    A killed training goes on from its newest verified checkpoint and ends with the same bytes on the same CPU threads.
    One that goes wrong is put right (supervisor.py). TrainingDiverged names what was tried where that was not enough, and
    the best checkpoint, which is kept; DataError a row that cannot be learned.
    """
    teacher.require_logprobs(labeled, config)
    card = catalogue.model(config.student, beside)
    order = Order(
        noun=Adapter,
        stage=Stage.TRAIN,
        version=VERSION,
        config=config,
        parents=refs(labeled),
        inputs=(models.identity(card), f"materialised-{student.MATERIALISE_VERSION}"),
        tools=_versions(),
        limits=(Limit(metric="gain", op=">", value=config.min_gain),),
        keeps_progress=True,
    )

    def work(content: Path) -> Facts:
        source = workspace.folder(Stage.LABEL, labeled.artifact_id)
        with carried(workspace, content.parent, config.eviction, on_event) as hear:
            return _work(content, source, card, config, hear, quarantine=workspace.root / "quarantine")

    return produce(order, workspace, on_event, work)


def _work(
    content: Path, source: Path, card: ModelCard, config: TrainConfig, on_event: OnEvent, *, quarantine: Path
) -> Facts:
    staged = content.parent
    folder = student.folder(card, on_event)
    train_file, held_out_file = _token_files(staged, source, folder, config, on_event)
    logprobs = source / teacher.FILE if config.needs_logprobs else None
    decisions = Decisions(content / _DECISIONS, on_event, quarantine)
    training = Training(
        config=digest_of(config.shaping()),
        rows=digest_of([sha256_of(path) for path in (train_file, held_out_file, *([logprobs] if logprobs else []))]),
        student=models.identity(card),
    )
    request = TrainRequest(
        student_folder=str(folder),
        student_name=card.name,
        train=str(train_file),
        held_out=str(held_out_file),
        adapter=str(content / "adapter"),
        steps=str(content / "steps.jsonl"),
        metrics=str(content / _METRICS),
        held_out_losses=str(content / "held_out_losses.jsonl"),
        checkpoints=str(staged / "checkpoints"),
        resume_from=None,
        logprobs=str(logprobs) if logprobs else None,
        config=config,
        training=training,
        versions=_versions(),
    )
    kept = Kept(staged / "checkpoints", quarantine, training, decisions, on_event)
    launch = attended_worker.module("core.train.worker" if config.parallel.processes == 1 else "core.train.launch.worker")
    result = Supervisor(request, Hands(staged / WORKERS, kept, decisions, on_event, launch)).run()
    decisions.add("finished", result.steps, adapter_step=result.adapter_step, device=result.device)
    return _facts(result, models.ref(card), decisions)


def _facts(result: TrainResult, ref: ModelRef, decisions: Decisions) -> Facts:
    resumed = tuple(decision.step for decision in decisions.records if decision.decision == "resumed")
    return Facts(
        own={
            "student": ref,
            "resumed_from_steps": resumed,
            "decisions": tuple(decision.model_dump() for decision in decisions.records),
            **result.model_dump(exclude={"device", "adapter_step"}),
        },
        metrics={
            "base_held_out_loss": result.base_held_out_loss,
            "held_out_loss": result.held_out_loss,
            "gain": result.base_held_out_loss - result.held_out_loss,
        },
        without_meaning=frozenset({_DECISIONS, _METRICS}),
    )


def _token_files(
    staged: Path, source: Path, tokenizer_folder: Path, config: TrainConfig, on_event: OnEvent
) -> tuple[Path, Path]:
    rows = [row for name in ("train.jsonl", "held_out.jsonl") for row in read_labeled(source / name)]
    rows.sort(key=lambda row: row.split == "held_out")
    turns, scratch = config.assistant_turns, staged / "tokens"
    tokens = tokenise(rows, tokenizer_folder, config.max_length, scratch, on_event, assistant_turns=turns)
    trained = len(tokens) - sum(row.split == "held_out" for row in rows)  # a train row may become several
    train_file, held_out_file = scratch / "train.jsonl", scratch / "held_out.jsonl"
    _write(train_file, tokens[:trained])
    _write(held_out_file, tokens[trained:])
    return train_file, held_out_file


def _write(path: Path, rows: list[TokenisedRow]) -> None:
    replace_json_lines(path, (row.model_dump(mode="json") for row in rows))  # a worker left over may be about to read it


def _versions() -> dict[str, str]:
    try:
        return {name: version(name) for name in _PACKAGES}
    except PackageNotFoundError as error:
        raise ToolMissing(
            f"the package {error.name} is not installed, training needs it",
            remedy="Install the extra: pip install edgekiln[train]",
        ) from error
