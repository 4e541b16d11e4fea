"""The base of a profile's sections, and the mark of fields that shape no bytes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from core.contract import Contract


class _OperationalMark:
    """Marks a field that shapes no bytes: changing it redoes no work."""


Operational = _OperationalMark()


class Section(Contract):
    """A stage's part of the profile; its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    def shaping(self) -> dict[str, Any]:
        """Return the fields that shape the artifact, without the operational ones, as JSON values."""
        return _shaping(self)


def _shaping(model: BaseModel) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        if any(isinstance(mark, _OperationalMark) for mark in field.metadata):
            continue
        value = getattr(model, name)
        kept[name] = (
            _shaping(value) if isinstance(value, BaseModel) else model.model_dump(mode="json", include={name})[name]
        )
    return kept
