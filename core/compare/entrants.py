"""Finds the models a person names: an export, a profile's current model, a folder, a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from core.compare.comparison import Entrant
from core.compare.converted import converted
from core.contract import Stage
from core.errors import UsageError
from core.events import OnEvent
from core.export.adapter_gguf import SUFFIX
from core.files import confine
from core.nouns import GgufModel
from core.promote import current, promoted_file
from core.toolchain import Toolchain
from core.workspace import Workspace, load

_PROFILE = re.compile(r"[\w-][\w.-]*")
_ARTIFACT = re.compile(r"[0-9a-f]{12}")


class Found(NamedTuple):
    """A model that was named, and its export where it is one of this workspace."""

    entrant: Entrant
    model: GgufModel | None = None


def find(name: str, workspace: Workspace, kept: ExitStack, toolchain: Toolchain, on_event: OnEvent) -> Found:
    """Return what a name stands for; `name:TYPE` takes another file than the one a promotion would be verified with.

    A Hugging Face folder is converted, and its file stays for as long as `kept` does.
    UsageError when it is nothing, FileTampered or ManifestBroken when the export is not whole.
    """
    if Path(name).suffix == ".gguf" and Path(name).is_file():
        return Found(Entrant(Path(name).name, Path(name)))
    place, _, kind = name.partition(":")
    if _ARTIFACT.fullmatch(place):
        return _of_export(place, place, kind, workspace)
    if place and Path(place).is_dir():
        return _of_folder(Path(place), kind, kept, toolchain, on_event)
    if _PROFILE.fullmatch(place) and (pointer := current(workspace, place)) is not None:
        return _of_export(place, pointer.artifact_id, kind, workspace)
    raise UsageError(
        f"{name!r} is no export of {workspace.root}, no profile with a current model, no folder, no GGUF file",
        remedy="List what is there with `edgekiln status`, or name a path.",
    )


def told_apart(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Return the models under names that differ: files of one name by their path, the same file twice with a number."""
    places: dict[str, set[Path]] = {}
    for one in entrants:
        places.setdefault(one.name, set()).add(one.gguf)
    named = [str(one.gguf) if len(places[one.name]) > 1 else one.name for one in entrants]
    again = [named[:place].count(name) for place, name in enumerate(named)]
    names = [f"{name} ({before + 1})" if before else name for name, before in zip(named, again, strict=True)]
    return [replace(one, name=name) for one, name in zip(entrants, names, strict=True)]


def of_export(name: str, model: GgufModel, kind: str, workspace: Workspace) -> Found:
    """Return a file of an export: the one of a type, else the one a promotion is verified with."""
    if not kind:
        file = promoted_file(model)
    elif not (same := [one for one in model.quantisations if one.type == kind]):
        made = ", ".join(one.type for one in model.quantisations) or "none"
        raise UsageError(f"export {model.artifact_id} has no {kind}", remedy=f"Name a type it has: {made}.")
    else:
        file = same[0]
    path = confine(workspace.folder(Stage.EXPORT, model.artifact_id), file.path)
    return Found(Entrant(f"{name}:{file.type}", path), model)


def _of_export(name: str, artifact_id: str, kind: str, workspace: Workspace) -> Found:
    return of_export(name, load(workspace, Stage.EXPORT, artifact_id, GgufModel), kind, workspace)


def _of_folder(folder: Path, kind: str, kept: ExitStack, toolchain: Toolchain, on_event: OnEvent) -> Found:
    files = sorted(path for path in folder.glob("*.gguf") if not path.stem.endswith(SUFFIX))
    named = [path for path in files if not kind or path.stem.upper().endswith(kind.upper())]
    if len(named) == 1:
        return Found(Entrant(f"{folder.name}/{named[0].name}", named[0]))
    if files:
        types = ", ".join(path.name for path in files)
        raise UsageError(f"{folder} holds {len(named)} files for {kind or 'one model'}", remedy=f"Name one: {types}.")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no GGUF file and no Hugging Face model", remedy="Name another folder.")
    return Found(Entrant(folder.name, kept.enter_context(converted(folder, toolchain, on_event))))
