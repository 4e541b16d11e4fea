"""`edgekiln compare`: models side by side on the same prompts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, drawn, may_write, named_path, tree, write_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.compare.comparison import Comparison
    from core.compare.judged import Jury
    from core.compare.questions import Question
    from core.events import OnEvent
    from core.workspace import Workspace

_DEFAULT_COMMON = Common()
_TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
@Parameter(name="*")
class Jurors:
    """Who judges, and how it is asked."""

    judge: str | None = None
    "Also let a known model (edgekiln models known) choose between the answers"
    profile: str = "demo"
    "Whose label section tells the judge's endpoint, prices and budget"
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    "Change a field of it: --set label.budget.max_requests=500; may be repeated"


_NO_JURY = Jurors()


def compare(
    first: str,
    second: str,
    *others: str,
    rows: Annotated[Path | None, Parameter(converter=named_path)] = None,
    prompts: int = 32,
    max_tokens: int = 256,
    html: Annotated[Path | None, Parameter(converter=named_path)] = None,
    jury: Jurors = _NO_JURY,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Let models answer the same held-out prompts: loss, what is right, speed, size, and a verdict with its interval.

    A model is an export's id, a profile with a current model, a folder or a GGUF file; `NAME:Q4_0` takes that file of it.

    Parameters
    ----------
    first
        The model the others are held against
    second
        Another model
    others
        More models
    rows
        A file of labelled rows; else the held-out rows of the first export that is named
    prompts
        How many prompts are asked, at most; chosen by their hash, so that a file that grows keeps nearly all of them
    max_tokens
        Tokens of an answer, at most
    html
        Also write everything, with all answers, as a page that needs no network
    """
    from core.compare.judged import judged
    from core.compare.questions import of_file
    from core.report.comparison import comparison_page, comparison_tables
    from core.report.page import page_html
    from core.workspace import locked

    _may_be_asked(prompts, max_tokens, html)
    sink = begin(common)
    chosen = _jury(jury, sink)
    asked = of_file(rows, prompts) if rows is not None else None
    with locked(workspace := tree(common), "edgekiln compare"):
        made = _compared((first, second, *others), (rows, asked), (prompts, max_tokens), workspace, sink)
        made, trouble = judged(made, chosen, workspace, sink) if chosen is not None else (made, None)
    if html is not None:
        write_named(html, page_html(comparison_page(made)), "--html")
    answer(common, made.model_dump(mode="json"), "\n".join(map(drawn, comparison_tables(made))).rstrip("\n"))
    if trouble is not None:
        raise trouble


def _may_be_asked(prompts: int, max_tokens: int, html: Path | None) -> None:
    from core.errors import UsageError

    if prompts < 1 or max_tokens < 1:
        raise UsageError(f"--prompts {prompts}, --max-tokens {max_tokens}: both are >= 1", remedy="Name more.")
    if html is not None:
        may_write(html, "--html")


def _jury(asked: Jurors, sink: OnEvent) -> Jury | None:
    from core import config
    from core.compare.judged import jury
    from core.errors import UsageError

    if asked.judge is not None:
        profile = config.load(asked.profile, asked.set)
        return jury(asked.judge, profile, config.find_profile(asked.profile).parent, sink)
    if asked.set:
        raise UsageError(f"--set {asked.set[0]} is for the judge, and none is named", remedy="Name one: --judge NAME")
    return None


def _compared(
    names: Sequence[str],
    rows: tuple[Path | None, tuple[Question, ...] | None],
    most: tuple[int, int],
    workspace: Workspace,
    sink: OnEvent,
) -> Comparison:
    """Have every model asked; of the rows of a file, else of the first export's held-out rows."""
    from core import toolchain as llama_cpp
    from core.compare import entrants, questions
    from core.compare.comparison import Setting, compare
    from core.errors import UsageError

    (path, asked), (prompts, max_tokens) = rows, most
    with ExitStack() as kept:
        toolchain = llama_cpp.ensure(sink)
        found = [entrants.find(name, workspace, kept, toolchain, sink) for name in names]
        exports = [one.model for one in found if one.model is not None]
        if asked is None and not exports:
            raise UsageError(
                "none of the models is an export here, so there are no prompts", remedy="Name them: --rows FILE"
            )
        source = str(path) if asked is not None else f"the held-out rows of {exports[0].artifact_id}"
        asked = asked or questions.of_model(workspace, exports[0], prompts)
        folder = workspace.root / "comparisons"
        setting = Setting(folder=folder, toolchain=toolchain, max_tokens=max_tokens, timeout_s=_TIMEOUT_S)
        return compare(entrants.told_apart([one.entrant for one in found]), asked, source, setting, sink)
