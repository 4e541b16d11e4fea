"""`edgekiln db`: look after the database."""

from __future__ import annotations

from cyclopts import App

from flows.cli.session import Common, answer, begin, tree

app = App(name="db")
_DEFAULT_COMMON = Common()
_LOCK_TIMEOUT_S = 60.0


@app.command
def rebuild(*, common: Common = _DEFAULT_COMMON) -> None:
    """Make the database again from the artifacts and swap it in."""
    from core.benchdb.writer import rebuild as make_again

    begin(common)
    workspace = tree(common)
    held = make_again(workspace, _LOCK_TIMEOUT_S)
    answer(
        common,
        {"runs": held, "database": str(workspace.database)},
        f"{workspace.database} holds {held} benchmark run{'' if held == 1 else 's'}",
    )
