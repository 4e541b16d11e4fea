"""The export stage: merge, convert, quantise, and let every file prove that it is the model that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import catalogue, models
from core import toolchain as llama_cpp
from core.catalogue import ModelCard as StudentCard
from core.config import ExportConfig, TrainConfig
from core.contract import Limit, Stage, judge
from core.data.record import TokenisedRow, read_labeled
from core.data.tokens import tokenise
from core.errors import BadConfig, GateRefused, ToolMissing
from core.events import Note, OnEvent, ignore
from core.export.adapter_gguf import SUFFIX, AdapterGguf, require_expressible
from core.export.card import FILE as CARD
from core.export.card import README, ModelCard, model_card, teaching
from core.export.convert import Recipe, convert, quantise
from core.export.divergence import Baseline, Runner, baseline
from core.export.gate import REQUIRED_METRIC, Gate, Judged, failing, figures, required_increase, worth_redoing
from core.export.gguf_memory.need import Meter
from core.export.imatrix import importance_matrix
from core.export.merge import MergeRequest, MergeResult, choices, merge, recorded, reference_texts
from core.export.tasks import Tasks, chosen
from core.lineage import parent
from core.nouns import Adapter, AdapterFile, GgufModel, LabeledDataset
from core.report.model_card import ADAPTER_MODELFILE, modelfile_name, write_model_card
from core.stage import Facts, Order, produce
from core.toolchain import Toolchain
from core.train import student
from core.workspace import Workspace

EXPORT_VERSION = 5
_PACKAGES = ("torch", "transformers", "peft", "gguf")


def export(
    adapter: Adapter,
    config: ExportConfig,
    workspace: Workspace,
    on_event: OnEvent = ignore,
    beside: Path | None = None,
) -> GgufModel:
    """Publish the adapter's student as GGUF files, each measured against the merged model.

    A file that fails the gate is listed under `rejected` and not kept. BadConfig before any work; GateRefused, after
    publishing, when none of `export.required` is left.
    """
    card = _student_card(adapter, beside)
    choices(config.merge, adapter)
    if config.adapter_gguf:
        require_expressible(_folder(adapter, workspace), adapter.artifact_id)
    toolchain = llama_cpp.ensure(on_event)
    order = Order(
        noun=GgufModel,
        stage=Stage.EXPORT,
        version=EXPORT_VERSION,
        config=config,
        parents=(adapter.as_parent(),),
        inputs=(adapter.student.identity,),
        tools={"llama.cpp": toolchain.identity(), **_versions(config)},
        limits=(Limit(metric=REQUIRED_METRIC, op="<=", value=config.max_loss_increase),),
    )

    def work(content: Path) -> Facts:
        return _Export(adapter, config, card, toolchain, workspace, on_event).make(content)

    model = produce(order, workspace, on_event, work)
    if worth_redoing(model, config):
        on_event(Note(stage=Stage.EXPORT, text="a file rejected earlier meets today's limit: exporting again"))
        model = produce(order, replace(workspace, force=workspace.force | {Stage.EXPORT}), on_event, work)
    return _judged(model, order.limits, config)


def _student_card(adapter: Adapter, beside: Path | None) -> StudentCard:
    card = catalogue.model(adapter.student.name, beside)
    if (identity := models.identity(card)) != adapter.student.identity:
        raise BadConfig(
            f"model {card.name!r} is {identity} today, the adapter was trained on {adapter.student.identity}",
            remedy="Put the model card back as it was (a hub's branch that moved: name the commit as its revision), or train again.",
        )
    return card


def _folder(adapter: Adapter, workspace: Workspace) -> Path:
    return workspace.folder(Stage.TRAIN, adapter.artifact_id) / "adapter"


def _versions(config: ExportConfig) -> dict[str, str]:
    packages = _PACKAGES if config.merge == "base" else (*_PACKAGES, "bitsandbytes")
    try:
        return {package: version(package) for package in packages}
    except PackageNotFoundError as error:
        raise ToolMissing(
            f"the package {error.name} is not installed", remedy="Install the extra: pip install 'edgekiln[train]'"
        ) from error


def _judged(model: GgufModel, limits: tuple[Limit, ...], config: ExportConfig) -> GgufModel:
    """Judge by today's `required`, which the metrics of a reused artifact may not know; GateRefused when none is left."""
    metrics = required_increase(model.metrics, [q.type for q in model.quantisations], config)
    verdict = judge(limits, metrics)
    if not verdict.passed:
        raise GateRefused(
            f"none of export.required={list(config.required)} is good enough: {'; '.join(failing(model, config))}, "
            f"export.max_loss_increase {config.max_loss_increase:g}; see export {model.artifact_id}",
            remedy="Require a finer type (Q8_0), train longer, or raise export.max_loss_increase or export.max_divergence "
            "if that is acceptable.",
        )
    return model.model_copy(update={"verdict": verdict})


@dataclass(frozen=True)
class _Export:
    """One export under work: what every step needs."""

    adapter: Adapter
    config: ExportConfig
    card: StudentCard
    toolchain: Toolchain
    workspace: Workspace
    on_event: OnEvent

    def make(self, content: Path) -> Facts:
        """Fill the content folder; scratch lies beside it and goes with the staging folder."""
        scratch = content.parent
        reference, rows, contents = self._merge(scratch)
        f32 = scratch / "model-F32.gguf"
        convert(scratch / "merged", f32, self.card.name, self.toolchain, self.on_event, timeout_s=self.config.timeout_s)
        shutil.rmtree(scratch / "merged")  # from here on the F32 file stands for it
        tasks = self._tasks()
        compared = self._baseline(f32, reference, contents)
        gate = Gate(reference, rows, self.config, self.toolchain, self.on_event, compared, tasks, meter=self._meter())
        gate = gate.proven(f32, scratch / "trial-conversion")
        recipe = Recipe(self._imatrix(f32) if self.config.imatrix else None, self.config.tensor_types)
        judged = [
            self._one(kind, content, f32, gate, recipe) for kind in sorted(self._types(), key=lambda kind: kind == "F32")
        ]
        f32.unlink(missing_ok=True)  # the base's F32 file takes its room
        shutil.rmtree(scratch / "divergence", ignore_errors=True)
        judged.sort(key=lambda file: self._types().index(file.type))
        around = tasks.around(student.folder(self.card, self.on_event), self.card.name, scratch / "base")
        alone = self._alone(content, rows, reference) if self.config.adapter_gguf else None
        facts = self._facts(judged, reference, {**around, **gate.measured}, alone)
        if facts.own["quantisations"]:
            write_model_card(content, self._card(facts, reference))
        return facts

    def _alone(self, content: Path, rows: tuple[TokenisedRow, ...], reference: MergeResult) -> AdapterFile:
        base = student.folder(self.card, self.on_event)
        adapter, timeout_s = _folder(self.adapter, self.workspace), self.config.timeout_s
        made = AdapterGguf(adapter, base, self.card.name, self.toolchain, self.on_event, timeout_s)
        target = content / f"{self.card.name}{SUFFIX}.gguf"
        return made.written(target, rows, reference.held_out_losses["base"], content.parent / "adapter")

    def _card(self, facts: Facts, reference: MergeResult) -> ModelCard:
        return model_card(
            self.config.card,
            self.card,
            teaching(self.workspace, self.adapter, reference.held_out_loss),
            ref=self.adapter.student,
            merge=facts.own["merge"],
            quantisations=facts.own["quantisations"],
            rejected=facts.own["rejected"],
            adapter_file=facts.own["adapter_file"],
            chat=reference.chat,
            tools={"llama.cpp": self.toolchain.identity(), **_versions(self.config)},
        )

    def _baseline(self, f32: Path, reference: MergeResult, contents: frozenset[str]) -> Baseline | None:
        texts = [one for one in reference.texts if one.text in contents]
        runner = Runner(self.toolchain, f32.parent / "divergence", self.on_event, self.config.timeout_s)
        return baseline(f32, texts, self.config.divergence_tokens, runner)

    def _meter(self) -> Meter:
        most, n_ctx = self.config.max_memory_mib, self.config.memory_context
        limit = None if most is None else most << 20
        return Meter(n_ctx, limit, self.toolchain, self.on_event, self.config.timeout_s)

    def _tasks(self) -> Tasks:
        labeled = parent(self.workspace, self.adapter, LabeledDataset)
        rows = read_labeled(self.workspace.folder(Stage.LABEL, labeled.artifact_id) / "held_out.jsonl")
        return Tasks(chosen(rows, self.config.task_prompts), self.config, self.toolchain, self.on_event)

    def _imatrix(self, f32: Path) -> Path:
        labeled = parent(self.workspace, self.adapter, LabeledDataset)
        rows = read_labeled(self.workspace.folder(Stage.LABEL, labeled.artifact_id) / "train.jsonl")
        texts = (message.content for row in rows for message in row.messages)
        most, timeout_s = self.config.imatrix_tokens, self.config.timeout_s
        return importance_matrix(f32, texts, most, self.toolchain, self.on_event, timeout_s=timeout_s)

    def _types(self) -> list[str]:
        return list(dict.fromkeys(self.config.quantisations))

    def _merge(self, scratch: Path) -> tuple[MergeResult, tuple[TokenisedRow, ...], frozenset[str]]:
        labeled = parent(self.workspace, self.adapter, LabeledDataset)
        corpus = [
            self.workspace.folder(Stage.LABEL, labeled.artifact_id) / name for name in ("held_out.jsonl", "train.jsonl")
        ]
        held_out = list(read_labeled(corpus[0]))
        base = student.folder(self.card, self.on_event)
        training = TrainConfig.model_validate(self.adapter.config)
        rows = tuple(tokenise(held_out, base, training.max_length, scratch / "tokens", self.on_event))
        contents = [message.content for row in held_out for message in row.messages]
        request = MergeRequest(
            base=str(base),
            adapter=str(_folder(self.adapter, self.workspace)),
            target=str(scratch / "merged"),
            onto=choices(self.config.merge, self.adapter, with_base=self.config.adapter_gguf),
            keep=None if self.config.merge == "auto" else self.config.merge,
            training=training,
            rows=rows,
            texts=reference_texts(contents),
            corpus=tuple(str(path) for path in corpus if path.is_file()),
        )
        merged = merge(request, scratch / "merge", self.on_event, timeout_s=self.config.timeout_s)
        return merged, rows, frozenset(contents)

    def _one(self, kind: str, content: Path, f32: Path, gate: Gate, recipe: Recipe) -> Judged:
        """Make and judge one file; F32 comes last and takes the scratch file itself."""
        target = content / f"{self.card.name}-{kind}.gguf"
        if kind == "F32":
            f32.rename(target)
        else:
            made = content.parent / target.name
            timeout_s = self.config.timeout_s
            quantise(f32, made, kind, self.toolchain, self.on_event, timeout_s=timeout_s, recipe=recipe)
            made.rename(target)
        judged = gate.examine(target, kind, content.parent / f"trial-{kind}")
        if judged.reasons:
            target.unlink()
        return judged

    def _facts(
        self,
        judged: list[Judged],
        reference: MergeResult,
        around: Mapping[str, float],
        alone: AdapterFile | None,
    ) -> Facts:
        own = {"reference_held_out_loss": reference.held_out_loss}
        tried = {f"merged_held_out_loss.{onto}": loss for onto, loss in reference.held_out_losses.items()}
        if alone is not None and alone.held_out_loss is not None:
            tried["held_out_loss.adapter"] = alone.held_out_loss
        metrics: Mapping[str, float] = {**own, **tried, **figures(judged, reference), **around}
        kept = [file.accepted() for file in judged if not file.reasons]
        return Facts(
            own={
                "student": self.adapter.student,
                "reference_held_out_loss": reference.held_out_loss,
                "merge": recorded(self.config.merge, self.adapter, reference),
                "quantisations": tuple(kept),
                "rejected": tuple(file.rejected() for file in judged if file.reasons),
                "adapter_file": alone,
            },
            metrics=required_increase(metrics, [file.type for file in kept], self.config),
            without_meaning=frozenset({CARD, README, ADAPTER_MODELFILE, *(modelfile_name(file) for file in kept)}),
        )
