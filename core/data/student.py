"""Which student the rows must fit: the tokenizer of the profile's student, where it lies on this machine already."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from core import catalogue
from core.catalogue import HubModel, LocalModel, ModelCard, PackagedGguf
from core.config import Profile
from core.contract import Finding, Severity
from core.data.token_rules import Student
from core.files import digest_of, sha256_of

_TOKENIZER = "tokenizer.json"
_SHAPING = (_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def student_of(profile: Profile, beside: Path | None) -> Student | None:
    """Return the profile's student when its tokens are to be counted; its folder is empty where it is not at hand."""
    if not profile.data.token_rules:
        return None
    card = catalogue.model(profile.train.student, beside)
    folder = _folder(card)
    there = folder is not None and (folder / _TOKENIZER).is_file()
    return Student(
        folder=str(folder) if there else "",
        max_length=profile.train.max_length,
        context_distillation=profile.label.context_distillation,
    )


def _folder(card: ModelCard) -> Path | None:
    """Return where a student's files lie, fetching nothing."""
    match card.source:
        case LocalModel(path=path):
            return Path(path).expanduser()
        case HubModel(repo=repo, revision=revision) if find_spec("huggingface_hub"):
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(repo, _TOKENIZER, revision=revision)
            return Path(found).parent if isinstance(found, str) else None
        case PackagedGguf():
            from core.train.student import cached

            return cached(card)
        case _:
            return None


def identity(student: Student) -> str:
    """Return what of a student shapes the rows: its tokenizer's files, how long a chat may be, and what it is shown."""
    files = {name: sha256_of(path) for name in _SHAPING if (path := Path(student.folder) / name).is_file()}
    return digest_of([files, student.max_length, student.context_distillation]) if student.folder else "not at hand"


def not_at_hand() -> Finding:
    """Return the finding of a pass that could not count tokens."""
    return Finding(
        code="data-tokens-not-counted",
        severity=Severity.INFO,
        where="train.student",
        evidence="the student's tokenizer is not on this machine yet",
        cause="so no row was judged by what the student's template and train.max_length leave of it",
        remedy="Train once, or fetch the student, and run again; or set data.token_rules to false.",
    )
