"""What a table's cells mean: JSON in the columns that hold structure, nothing where a cell is empty."""

from __future__ import annotations

from typing import Any

from core.data.flaws import Flaw
from core.data.parsing import parse_value

_STRUCTURED = frozenset({"messages", "conversations", "tools", "tool_schema", "history"})
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def unfold(record: dict[str, Any]) -> dict[str, Any] | Flaw:
    """Return a table's row with the columns of structure read from their JSON text; anything else stays as it is."""
    for name, value in record.items():
        if not isinstance(value, str):
            continue
        if name == "requires_json":
            record[name] = _TRUTH.get(value.strip().casefold(), value)
        elif name in _STRUCTURED and value.lstrip()[:1] in {"{", "["}:
            parsed = parse_value(value)
            if isinstance(parsed, Flaw):
                return Flaw(parsed.code, name, value, parsed.reason)
            record[name] = parsed
    return record
