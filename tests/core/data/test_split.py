"""The split: decided by content alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.split import border_place, group_places, score, side

# a row is the question it asks and the cluster of near duplicates it is in
ROWS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), min_size=1, max_size=25)


def sides(rows: list[tuple[int, int]], share: float = 0.5) -> list[str]:
    """Return the side of each row; a cluster is named by its first row, as by any of its rows."""
    clusters = [cluster for _, cluster in rows]
    places = np.array([score(f"question {question}", None) for question, _ in rows])
    named = np.array([clusters.index(cluster) for cluster in clusters], dtype=np.int64)
    return [side(place, share) for place in group_places(places, named)]


@settings(deadline=None)
@given(st.text(), st.none() | st.text())
def test_a_score_lies_in_the_unit_interval(user: str, context: str | None) -> None:
    assert 0 <= score(user, context) < 1


def test_about_the_asked_share_is_held_out() -> None:
    sides = [side(score(f"question {n}", None), 0.25) for n in range(4000)]

    assert 900 < sides.count("held_out") < 1100


def test_case_and_white_space_do_not_part_a_question_from_itself() -> None:
    assert score("Quelle  heure est-il?", None) == score(" quelle heure\nEST-IL?", None)
    assert score("a", "b") != score("b", "a")


@settings(deadline=None)
@given(ROWS)
def test_a_group_never_straddles_the_split(rows: list[tuple[int, int]]) -> None:
    found = list(zip(rows, sides(rows), strict=True))

    for tie in (0, 1):
        for key in {row[tie] for row in rows}:
            assert len({chosen for row, chosen in found if row[tie] == key}) == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30, unique=True), st.floats(0.05, 0.95))
def test_rows_without_near_duplicates_keep_the_side_of_their_own(questions: list[int], share: float) -> None:
    alone = [side(score(f"question {question}", None), share) for question in questions]

    assert sides([(question, place) for place, question in enumerate(questions)], share) == alone


@settings(deadline=None)
@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_change_their_sides(rows: list[tuple[int, int]], rng) -> None:
    shuffled = list(rows)
    rng.shuffle(shuffled)

    assert sorted(zip(rows, sides(rows), strict=True)) == sorted(zip(shuffled, sides(shuffled), strict=True))


@settings(deadline=None)
@given(ROWS, ROWS)
def test_a_growing_file_moves_rows_from_held_out_to_train_only(
    rows: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    moved = {move for move in zip(sides(rows), sides(rows + more), strict=False) if move[0] != move[1]}

    assert moved <= {("held_out", "train")}


@settings(deadline=None)
@given(ROWS, st.sets(st.integers(0, 8), min_size=2, max_size=2), st.integers(0, 20))
def test_a_row_that_joins_two_clusters_moves_only_their_rows(
    rows: list[tuple[int, int]], bridged: set[int], question: int
) -> None:
    before = sides(rows)
    one = min(bridged)
    merged = [(asked, one if cluster in bridged else cluster) for asked, cluster in rows]

    after = sides([*merged, (question, one)])

    touched = _tied([*merged, (question, one)])
    for place, (old, new) in enumerate(zip(before, after, strict=False)):
        assert old == new or (place in touched and (old, new) == ("held_out", "train"))


def _tied(rows: list[tuple[int, int]]) -> set[int]:
    """Return the rows that hang together with the last one by cluster or question."""
    found = {len(rows) - 1}
    while True:
        reached = {n for n, row in enumerate(rows) if any(row[0] == rows[m][0] or row[1] == rows[m][1] for m in found)}
        if reached == found:
            return found
        found = reached


def test_a_group_of_two_is_held_out_with_the_square_of_the_share() -> None:
    rows = [(n, n // 2) for n in range(8000)]

    assert 420 < sides(rows, 0.25).count("held_out") < 580


def test_the_group_nearest_to_the_border_goes_to_the_empty_side() -> None:
    places = group_places(np.array([0.9, 0.5, 0.3, 0.4]), np.array([0, 1, 2, 2]))

    assert border_place(places, "held_out") == 0.4
    assert border_place(places, "train") == 0.9
    assert (places == 0.4).tolist() == [False, False, True, True]
    assert border_place(places[2:], "train") is None
    assert border_place(places[:0], "train") is None
