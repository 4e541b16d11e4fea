"""Whether a new model is worse than the one that is current: the last gate before a promotion."""

from __future__ import annotations

from core import toolchain as llama_cpp
from core.compare.comparison import Comparison, Setting, compare
from core.compare.difference import Difference
from core.compare.entrants import of_export
from core.compare.questions import of_model
from core.config import ExportConfig
from core.contract import Stage
from core.errors import ArtifactError, GateRefused
from core.events import Note, OnEvent
from core.nouns import GgufModel
from core.promote import current
from core.workspace import Workspace, load


def refuse_worse(workspace: Workspace, profile: str, model: GgufModel, config: ExportConfig, on_event: OnEvent) -> None:
    """Raise GateRefused when a model is worse than the profile's current one, in any figure and beyond its interval.

    Both answer the new model's held-out prompts, at most `export.compare_prompts`; 0 asks none. A current model that is not
    whole any more is told and passed over.
    """
    if not config.compare_prompts or (before := _current(workspace, profile, on_event)) is None:
        return
    if before.artifact_id == model.artifact_id:
        return
    found = _compared(workspace, before, model, config, on_event)
    if worse := [one for one in found.differences[0] if one.verdict == "worse"]:
        raise GateRefused(
            f"export {model.artifact_id} is worse than the current {before.artifact_id} of {profile}: "
            + "; ".join(map(told, worse)),
            remedy="The current model stays. Look at both: edgekiln compare "
            f"{before.artifact_id} {model.artifact_id}. To promote it all the same: --set export.compare_prompts=0",
        )
    text = f"held against the current {before.artifact_id}: " + "; ".join(map(told, found.differences[0]))
    on_event(Note(stage=Stage.EXPORT, text=text))


def told(one: Difference) -> str:
    """Say a difference with its interval and its verdict."""
    return (
        f"{one.metric} {one.first:.4g} to {one.second:.4g}, difference {one.difference:+.4g} "
        f"[{one.low:+.4g}, {one.high:+.4g}] over {one.prompts} prompts, {one.verdict}"
    )


def _current(workspace: Workspace, profile: str, on_event: OnEvent) -> GgufModel | None:
    pointer = current(workspace, profile)
    if pointer is None:
        return None
    try:
        return load(workspace, Stage.EXPORT, pointer.artifact_id, GgufModel)
    except ArtifactError as error:
        text = f"the current model of {profile} cannot be compared with: {error.problem}"
        on_event(Note(stage=Stage.EXPORT, text=text, level="warning"))
        return None


def _compared(
    workspace: Workspace, before: GgufModel, model: GgufModel, config: ExportConfig, on_event: OnEvent
) -> Comparison:
    setting = Setting(
        folder=workspace.root / "comparisons",
        toolchain=llama_cpp.ensure(on_event),
        max_tokens=config.compare_tokens,
        timeout_s=config.timeout_s,
        generates=False,
    )
    entrants = [of_export(one.artifact_id, one, "", workspace).entrant for one in (before, model)]
    questions = of_model(workspace, model, config.compare_prompts)
    return compare(entrants, questions, f"the held-out rows of {model.artifact_id}", setting, on_event)
