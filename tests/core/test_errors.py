"""Every failure class: coded, documented, picklable, two lines."""

from __future__ import annotations

import pickle

import pytest

from core import errors
from core.errors import EdgekilnError, every_error

STATUSES = {0, 1, 2, 3, 4, 5, 6, 7, 75, 130, 143}


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_class_has_a_code_of_its_own_a_known_status_and_a_docstring(kind: type[EdgekilnError]) -> None:
    assert "code" in vars(kind)
    assert kind.exit_status in STATUSES
    assert (kind.__doc__ or "").strip()
    assert kind.__name__ in (errors.__doc__ or "")


def test_no_two_classes_share_a_code() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[EdgekilnError]) -> None:
    error = pickle.loads(pickle.dumps(kind("3 rows < 8, data.min_rows", remedy="Add rows.")))
    assert type(error) is kind
    assert str(error) == f"[{kind.code}] 3 rows < 8, data.min_rows\nFix: Add rows."
