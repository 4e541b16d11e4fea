"""Text made safe to show: nothing in it drives a terminal, and what can be read stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.printable import printable


@given(st.text())
def test_as_many_characters_come_out_and_none_of_them_acts(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e", "\ud800", "\r"}


def test_what_can_be_read_stays_with_its_line_breaks() -> None:
    assert printable("Où\nça ?") == "Où\nça ?"
