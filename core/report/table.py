"""The table: what every command that answers gives. How it looks is decided in render.py."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from core.contract import Contract

FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Cell = StrictStr | StrictBool | StrictInt | FiniteFloat | None
"""None is "nobody knows" and is shown as that; a number that is not finite is no answer."""


class Column(Contract):
    """A column; `digits` are shown after the point, None shows six significant ones (JSON and CSV keep all).

    `short` shows a large count with three digits, such as 803 M. An `optional` column is left out of a text that is too
    narrow for all.
    """

    key: str
    title: str
    unit: str = ""
    digits: int | None = Field(default=None, ge=0, le=12)
    align: Literal["left", "right"] = "left"
    short: bool = False
    optional: bool = False

    @property
    def head(self) -> str:
        """Return title and unit."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


class Table(Contract):
    """Rows of cells under columns, with notes below."""

    title: str
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_rectangular(self) -> Self:
        keys = {column.key for column in self.columns}
        if len(keys) != len(self.columns) or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("column keys must differ, and every row needs a cell for each")
        return self

    def column(self, key: str) -> tuple[Cell, ...]:
        """Return a column's cells; KeyError for an unknown key."""
        keys = [column.key for column in self.columns]
        if key not in keys:
            raise KeyError(key)
        return tuple(row[keys.index(key)] for row in self.rows)
