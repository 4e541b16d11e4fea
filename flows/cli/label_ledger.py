"""`edgekiln label status|failed|retry|export`: what the ledger knows, without asking anybody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from flows.cli.session import Common, answer, drawn, shelf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.label.entries import State
    from core.label.status import LabelStatus
    from core.report.table import Table

_DEFAULT_COMMON = Common()
_SHOWN = 20
_MOST_SHOWN = 100_000


def status(*, common: Common = _DEFAULT_COMMON) -> None:
    """Show how the newest labelling stands: done, waiting, failed, tokens, cost, rate, and when it will be done."""
    from core.label.ledger import read_ledger
    from core.label.status import status as read_status
    from core.runs import is_held

    workspace = shelf(common)
    with read_ledger(workspace.ledger("label")) as ledger:
        found, counts = read_status(ledger), ledger.counts()
    if found is None:
        return answer(common, None, _without_session(counts))
    running = found.session.ended is None and is_held(workspace)
    document = found.model_dump(mode="json") | {"running": running}
    return answer(common, document, drawn(_table(found, running=running)))


def _without_session(counts: Mapping[State, int]) -> str:
    if not any(counts.values()):
        return "no labelling has asked a teacher yet"
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"no labelling kept an account of itself in this ledger; its requests: {told}"


def _table(found: LabelStatus, *, running: bool) -> Table:
    from core.contract import utc
    from core.report.table import Column, Table

    session, spent, rate = found.session, found.spent, found.rate
    rows = [
        ("state", "running" if running else _ended(found)),
        ("teacher", session.teacher),
        ("began", utc(session.started_at)),
        ("questions", session.questions),
        ("done", session.reused + session.done),
        ("of these, before this session", session.reused),
        ("waiting", found.waiting),
        ("requests sent", spent.requests),
        ("requests failed", spent.failed),
        ("prompt tokens", spent.prompt_tokens),
        ("completion tokens", spent.completion_tokens),
        (
            "cost",
            f"{spent.cost:.4f} for {spent.priced} answers"
            if spent.priced
            else "unknown: no label.prices, or no token counts from the endpoint",
        ),
        ("answers a second of late", f"{rate.mean:.2f} ({rate.lowest:.2f} to {rate.highest:.2f})" if rate else None),
        ("time to the end", _range(found) if found.waiting and running else None),
    ]
    columns = (Column(key="fact", title="fact"), Column(key="value", title="value"))
    told = tuple(row for row in rows if row[1] is not None)
    return Table(title=f"Labelling {session.artifact_id}", columns=columns, rows=told)


def _ended(found: LabelStatus) -> str:
    """Return how a session that does not run came to its end."""
    ended = found.session.ended
    if ended == "done":
        given_up = "given up, as more rows stay without an answer than label.max_failed_share allows"
        return given_up if found.waiting else "done"
    how = {None: "killed", "budget": "stopped at its budget", "KeyboardInterrupt": "stopped by Ctrl-C"}
    return f"{how.get(ended, f'ended by {ended}')}; edgekiln label goes on with it"


def _range(found: LabelStatus) -> str:
    if found.eta_unknown is not None:
        return f"unknown: {found.eta_unknown}"
    soonest, latest = (f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s" for seconds in _ends(found))
    return soonest if soonest == latest else f"{soonest} to {latest}"


def _ends(found: LabelStatus) -> tuple[float, float]:
    return found.eta_soonest_s or 0.0, found.eta_latest_s or 0.0


def failed(
    *,
    show: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=_MOST_SHOWN))] = _SHOWN,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """List the requests that came to nothing and the rows of the newest labelling that got no answer.

    Parameters
    ----------
    show
        How many of each at most
    """
    from itertools import islice

    from core.label.aside import newest_aside
    from core.label.ledger import read_ledger
    from core.report.table import Column, Table

    workspace = shelf(common)
    with read_ledger(workspace.ledger("label")) as ledger:
        requests = ledger.failed(show)
    rows = list(islice(newest_aside(workspace), show))
    columns = (Column(key="code", title="code"), Column(key="why", title="why"), Column(key="asked", title="asked"))
    tables = (
        Table(
            title="Requests without an answer; edgekiln label --force label sends them again",
            columns=columns,
            rows=tuple((entry["code"], entry["error"], entry["asked"][:80]) for entry in requests),
        ),
        Table(
            title="Rows set aside; edgekiln label retry --code CODE asks them anew",
            columns=columns,
            rows=tuple((row.code, row.reason, row.excerpt[:80]) for row in rows),
        ),
    )
    document = {"requests": requests, "rows": [row.model_dump(mode="json") for row in rows]}
    shown = [drawn(table) for table in tables if table.rows]
    answer(common, document, "".join(shown) or "every request has its answer, and no row is set aside")


def retry(*, code: str, common: Common = _DEFAULT_COMMON) -> None:
    """Discard the unusable answers of the newest labelling, so that edgekiln label --force label asks for them again.

    What they were and what they cost stays in the ledger. An endpoint may say
    something else then; a teacher on this machine says the same: change label.seed or label.temperature instead.

    Parameters
    ----------
    code
        Whose answers: teacher-json, teacher-length, teacher-empty, teacher-filter or a rule's code; see label failed
    """
    from core.label.aside import discard_aside
    from core.workspace import locked

    workspace = shelf(common)
    with locked(workspace, "edgekiln label retry"):
        found = discard_aside(workspace, code)
    answer(
        common,
        {"discarded": found, "code": code},
        f"{found} answers discarded; edgekiln label --force label asks for them again",
    )


def export(output: Path, *, common: Common = _DEFAULT_COMMON) -> None:
    """Write every request of the ledger with its answer to a file, by its ending .jsonl or .parquet.

    Parameters
    ----------
    output
        File to write
    """
    from core.errors import UsageError
    from core.label.ledger import read_ledger
    from core.label.ledger_export import ENDINGS, export_ledger

    if output.suffix not in ENDINGS:
        raise UsageError(
            f"{output}: {output.suffix or 'no ending'} is neither of {', '.join(ENDINGS)}", remedy="Name it so."
        )
    if not output.parent.is_dir():
        raise UsageError(f"{output}: the folder {output.parent} is not there", remedy="Make it, or name another file.")
    if output.is_dir():
        raise UsageError(f"{output} is a folder", remedy="Name a file.")
    with read_ledger(shelf(common).ledger("label")) as ledger:
        count = export_ledger(ledger, output)
    answer(common, {"requests": count, "file": str(output)}, f"{count} requests written to {output}")
