"""Curves drawn with characters: inside their bounds, no spike lost, readable without braille and without colour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.report.text_plot import Mark, plot

FALLING = [Mark(step, value, value) for step, value in enumerate((4.0, 3.0, 2.0, 1.0), 1)]


def test_a_falling_curve_falls_from_its_highest_label_to_its_lowest():
    assert plot(FALLING, width=15, height=4, ascii_only=True) == [
        "        4 |**",
        "          | **",
        "          |  **",
        "        1 |   *",
        "           1  4",
    ]


def test_braille_draws_four_dots_over_and_two_beside_each_other():
    high, low, bounds = plot(FALLING, width=15, height=2)
    assert high.startswith("        4 \u2502")
    assert low.startswith("        1 \u2502")
    assert bounds.split() == ["1", "4"]
    assert {character for line in (high, low) for character in line[11:]} <= {chr(code) for code in range(0x2800, 0x2900)}


def test_a_single_spike_among_thousands_of_steps_is_seen():
    marks = [Mark(step, 1.0, 9.0 if step == 4321 else 1.0) for step in range(10_000)]
    lines = plot(marks, width=60, height=5, ascii_only=True)
    assert all("*" in line for line in lines[:-1])


def test_a_logarithmic_axis_gives_each_tenfold_the_same_height():
    marks = [Mark(step, value, value) for step, value in enumerate((0.0, 1.0, 10.0, 100.0))]
    lines = plot(marks, width=30, height=3, logarithmic=True, ascii_only=True)
    assert [line.rstrip()[-1] for line in lines[:3]] == ["*", "*", "*"]
    assert lines[0].split()[0] == "100"


@pytest.mark.parametrize(("marks", "width"), [([], 80), (FALLING, 12), ([Mark(1, -1, -1)], 80)])
def test_where_there_is_nothing_to_see_or_no_room_nothing_is_drawn(marks, width):
    assert plot(marks, width=width, height=5, logarithmic=bool(marks) and marks[0].low < 0) == []


numbers = st.floats(min_value=-1e30, max_value=1e30)


@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=60), st.integers(16, 90), st.integers(2, 9), st.booleans()
)
def test_it_never_leaves_its_bounds(pairs, width, height, ascii_only):
    marks = [Mark(step, min(pair), max(pair)) for step, pair in enumerate(pairs)]
    lines = plot(marks, width=width, height=height, ascii_only=ascii_only)
    assert len(lines) == height + 1
    assert all(len(line) <= width for line in lines)
