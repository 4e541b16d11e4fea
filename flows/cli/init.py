"""`edgekiln init`: a project of one's own. Asks for what no option names, writes a short commented profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.report.visible import visible
from flows.cli.session import Common, answer

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFAULT_COMMON = Common()
_TEMPLATE = """\
# A job of edgekiln. What is not named here keeps its default; all keys: edgekiln config schema
description: {description}
data:
  sources: [{dataset}]  # JSONL, one record a line: messages, prompt and completion, or only prompt
label:
  teacher: {teacher}  # a card of `edgekiln models known`, or of models/ beside this file
{backend}train:
  student: {student}
  # preset: auto  # settings for this machine's GPU, or for none; all: edgekiln train presets
  # num_train_epochs: 2
  # lora: {{r: 16}}
export:
  quantisations: [Q8_0, Q4_K_M, Q4_0]
bench:
  device: {device}  # local, or a card of devices/ beside this file
# alerts:
#   url_envs: [MY_APPRISE_URL]  # the NAME of a variable that holds an Apprise URL
"""
_ENDPOINT = """\
  backend: openai
  base_url: http://127.0.0.1:8000/v1  # any OpenAI-compatible endpoint
  # api_key_env: TEACHER_API_KEY  # the NAME of the variable that holds the key
"""


def init(
    name: str,
    *,
    dataset: str | None = None,
    teacher: str | None = None,
    student: str | None = None,
    device: str | None = None,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Write NAME.yaml, a profile of your own, and say what to run. An existing file is never overwritten.

    Parameters
    ----------
    name
        The profile's name; its file is written here
    dataset
        A JSONL file with prompts, or builtin:python-docs
    teacher
        The model that answers the prompts
    student
        The model that learns
    device
        Where the quantisations are measured
    """
    import shlex

    from core import catalogue
    from flows.cli.models import known_cards

    path = _path(name)
    cards, mistakes = known_cards()
    for mistake in mistakes:
        print(f"! {visible(mistake)}", file=sys.stderr)
    roles = {role: [card.name for card in cards if role in card.roles] for role in ("teacher", "student")}
    chosen = {
        "dataset": _ask("dataset", dataset, "builtin:python-docs", None),
        "teacher": _ask("teacher", teacher, "smollm2-135m-instruct", roles["teacher"]),
        "student": _ask("student", student, "smollm2-135m-instruct", roles["student"]),
        "device": _ask("device", device, "local", catalogue.names("devices")),
    }
    _write(path, chosen)
    next_commands = [shlex.join(["edgekiln", *words, str(path)]) for words in (("config", "check"), ("run", "--profile"))]
    text = f"{path} is written. Next:\n" + "\n".join(f"  {command}" for command in next_commands)
    answer(common, {"profile": str(path), **chosen, "next": next_commands}, text)


def _path(name: str) -> Path:
    from pydantic import TypeAdapter, ValidationError

    from core.errors import UsageError
    from core.field_types import ProfileName

    path = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    try:
        TypeAdapter(ProfileName).validate_python("" if name.startswith("-") else path.stem)
    except ValidationError as error:
        raise UsageError(
            f"{name!r} names no profile: letters, digits, '.', '_', '-' and spaces, a letter or digit first, 80 at most;"
            " not 'journal'",
            remedy="Choose another name, for example `edgekiln init mine`.",
        ) from error
    if path.exists():
        raise UsageError(f"{path} exists already, it is not overwritten", remedy="Choose another name, or edit that file.")
    return path


def _ask(what: str, given: str | None, default: str, known: Sequence[str] | None) -> str:
    from core.errors import UsageError

    if given is None and not sys.stdin.isatty():
        given = default
    if given is None:
        choices = f" ({', '.join(known)})" if known else ""
        print(f"{what}{choices} [{default}]: ", end="", file=sys.stderr, flush=True)
        given = _line(what).strip() or default
    if not given.strip():
        raise UsageError(f"{what} is empty", remedy=f"Name one, or leave --{what} out: it is {default} then.")
    if known is not None and given not in known:
        raise UsageError(f"{what} {given!r} is not known", remedy=f"Choose one of {', '.join(known)}.")
    return given


def _line(what: str) -> str:
    from core.errors import UsageError

    line = sys.stdin.readline()
    if not line:
        raise UsageError(f"no answer for {what}, nothing was written", remedy=f"Answer, or name it with --{what}.")
    return line


def _write(path: Path, chosen: dict[str, str]) -> None:
    import json

    from core import catalogue, config
    from core.files import write_atomic

    endpoint = catalogue.model(chosen["teacher"]).source.kind == "endpoint"
    described = f"{chosen['student']} learns from {chosen['teacher']}"
    dataset = json.dumps(chosen["dataset"], ensure_ascii=False)
    filled = {**chosen, "dataset": dataset, "description": described, "backend": _ENDPOINT if endpoint else ""}
    if chosen["dataset"].startswith("builtin:"):
        filled["backend"] += "  context_distillation: true  # the teacher sees the documentation, the student does not\n"
    write_atomic(path, _TEMPLATE.format(**filled).encode())
    config.load(str(path))
