"""What people decided about rows: kept in the workspace by row id, so it survives the next run, and applied while rows are judged.

A row id is the hash of what shapes the chat, so a decision holds wherever the row comes from and as long as it says the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from core.contract import Contract
from core.data.flaws import REMEDIES
from core.data.shapes import Draft
from core.errors import BrokenRecord
from core.files import digest_of, write_atomic

TextField = Literal["system", "context", "user", "completion"]

TEXT_FIELDS: tuple[TextField, ...] = get_args(TextField)

DROPPED = "dropped"  # the code of a row that a person took out

_MOST_EDITS = 20  # of one row, one after the other; a ring of edits ends here
_KEEPABLE = frozenset({"too-long", "answer-too-long", "answer-not-json", "answer-misfits-schema", "tool-call-misfits"})


class Decision(Contract):
    """What is to become of a row; `texts` are its new texts when it was edited, None for one that was emptied."""

    row_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    decision: Literal["keep", "drop", "edited"]
    texts: dict[TextField, str | None] = {}


Decisions = Mapping[str, Decision]


def read_decisions(path: Path) -> dict[str, Decision]:
    """Return the decisions by row id, none without a file; BrokenRecord names a line that is no decision."""
    found: dict[str, Decision] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            decision = Decision.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"
            raise BrokenRecord(
                f"{path}:{number} is no decision: {why}", remedy="Take the line out; the rest stays."
            ) from error
        found[decision.row_id] = decision
    return found


def write_decisions(path: Path, decisions: Decisions) -> None:
    """Write the decisions in the order of their rows' ids."""
    lines = (decisions[row_id].model_dump_json() for row_id in sorted(decisions))
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def digest(decisions: Decisions) -> tuple[str, ...]:
    """Return the hash of the decisions as an input of the data stage; none where there are none."""
    told = [json.loads(decisions[row_id].model_dump_json()) for row_id in sorted(decisions)]
    return (digest_of(told),) if told else ()


def keepable(code: str) -> bool:
    """Say whether a row with this error can be kept: later stages can work with it, or the rule is not edgekiln's own."""
    return code in _KEEPABLE or code not in REMEDIES


def decided(
    draft: Draft, decisions: Decisions, id_of: Callable[[Draft], str], clean: Callable[[Draft], Draft]
) -> tuple[Draft, Literal["keep", "drop"] | None]:
    """Return the draft as it was edited, however often, and whether it is to be kept or dropped as it then is.

    What was edited goes through `clean`, the privacy pass.
    """
    for _ in range(_MOST_EDITS if decisions else 0):
        decision = decisions.get(id_of(draft))
        if decision is None:
            break
        if decision.decision != "edited":
            return draft, decision.decision
        draft = clean(replace(draft, **edited(decision)))
    return draft, None


def edited(decision: Decision) -> dict[str, Any]:
    """Return the changed texts; a question is a text also when it is empty."""
    return {field: (text or "") if field == "user" else text for field, text in decision.texts.items()}
