"""`edgekiln compare`: models side by side on the same prompts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, drawn, named_path, tree, write_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.compare.comparison import Comparison

_DEFAULT_COMMON = Common()
_TIMEOUT_S = 6 * 3600.0


def compare(
    first: str,
    second: str,
    *others: str,
    rows: Annotated[Path | None, Parameter(converter=named_path)] = None,
    prompts: int = 32,
    max_tokens: int = 256,
    html: Annotated[Path | None, Parameter(converter=named_path)] = None,
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
    from core.errors import UsageError
    from core.report.comparison import comparison_page, differences_table, models_table
    from core.report.page import page_html

    if prompts < 1 or max_tokens < 1:
        raise UsageError(f"--prompts {prompts}, --max-tokens {max_tokens}: both are >= 1", remedy="Name more.")
    made = _compared((first, second, *others), rows, prompts, max_tokens, common)
    if html is not None:
        write_named(html, page_html(comparison_page(made)))
    text = f"{drawn(models_table(made))}\n{drawn(differences_table(made))}".rstrip("\n")
    answer(common, made.model_dump(mode="json"), text)


def _compared(names: Sequence[str], rows: Path | None, prompts: int, max_tokens: int, common: Common) -> Comparison:
    from core import toolchain as llama_cpp
    from core.compare import entrants, questions
    from core.compare.comparison import Setting, compare
    from core.errors import UsageError
    from core.workspace import locked

    sink, workspace = begin(common), tree(common)
    with locked(workspace, "edgekiln compare"), ExitStack() as kept:
        toolchain = llama_cpp.ensure(sink)
        found = [entrants.find(name, workspace, kept, toolchain, sink) for name in names]
        exports = [one.model for one in found if one.model is not None]
        if rows is not None:
            asked, source = questions.of_file(rows, prompts), str(rows)
        elif exports:
            asked = questions.of_model(workspace, exports[0], prompts)
            source = f"the held-out rows of {exports[0].artifact_id}"
        else:
            raise UsageError(
                "none of the models is an export here, so there are no prompts", remedy="Name them: --rows FILE"
            )
        folder = workspace.root / "comparisons"
        setting = Setting(folder=folder, toolchain=toolchain, max_tokens=max_tokens, timeout_s=_TIMEOUT_S)
        return compare([one.entrant for one in found], asked, source, setting, sink)
