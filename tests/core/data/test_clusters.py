"""Sets joined in vectors, and the one row that stands for each."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.clusters import Clusters, Forest, representatives

COUNT = 30
PAIRS = st.lists(st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), max_size=20), max_size=5)


def array(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def joined(count: int, batches: list[list[tuple[int, int]]]) -> list[int]:
    forest = Forest(count)
    for batch in batches:
        forest.join(array([left for left, _ in batch]), array([right for _, right in batch]))
    return [int(root) for root in forest.roots()]


@settings(deadline=None)
@given(PAIRS)
def test_joined_sets_are_the_connected_components(batches: list[list[tuple[int, int]]]) -> None:
    sets = [{number} for number in range(COUNT)]
    for left, right in (pair for batch in batches for pair in batch):
        if sets[left] is not sets[right]:
            sets[left] |= sets[right]
            for number in sets[left]:
                sets[number] = sets[left]

    assert joined(COUNT, batches) == [min(found) for found in sets]


def test_a_chain_given_in_the_worst_order_is_joined_in_linear_time() -> None:
    def seconds(count: int) -> float:
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            forest = Forest(count)
            numbers = np.arange(count - 1, dtype=np.int64)[::-1].copy()
            forest.join(numbers + 1, numbers)
            assert not forest.roots().any()
            best = min(best, time.process_time() - began)
        return best

    seconds(1000)
    assert seconds(800_000) < 24 * seconds(100_000)  # linear would be 8, quadratic 64


def test_the_longest_answered_row_stands_for_its_set_then_the_lowest_hash() -> None:
    roots = array([0, 0, 0, 3, 4, 4, 6, 6])
    answers = np.array([5, 9, 9, 1, 0, 0, 7, 7], dtype=np.uint32)
    hashes = np.array([1, 8, 2, 3, 6, 5, 4, 4], dtype=np.uint64)

    assert representatives(roots, answers, hashes).tolist() == [2, 2, 2, 3, 5, 5, 6, 6]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12), st.randoms())
def test_the_order_of_rows_does_not_change_who_stands_for_them(rows: list[tuple[int, int]], rng) -> None:
    def chosen(order: list[int]) -> set[tuple[int, int]]:
        groups = [rows[n][0] for n in order]
        roots = array([groups.index(group) for group in groups])
        answers = np.array([rows[n][1] for n in order], dtype=np.uint32)
        found = representatives(roots, answers, np.array(order, dtype=np.uint64))
        return {(n, order[int(head)]) for n, head in zip(order, found, strict=True)}

    shuffled = list(range(len(rows)))
    rng.shuffle(shuffled)

    assert chosen(shuffled) == chosen(list(range(len(rows))))


def test_a_row_at_the_end_of_a_chain_is_in_the_cluster_but_no_duplicate() -> None:
    clusters = Clusters(
        representative=array([1, 1, 1, 3, 4, 4]),
        similarity=np.array([0.9, 1, 0.5, 1, 1, 1], dtype=np.float32),
        equal=np.array([False, True, False, True, True, True]),
        threshold=0.75,
    )
    found = list(clusters.found())

    assert clusters.duplicates().tolist() == [True, False, False, False, False, True]
    assert [cluster.rows for cluster in found] == [(1, 0, 2), (4, 5)]
    assert [cluster.lowest_similarity for cluster in found] == [0.5, 1.0]
    assert [cluster.equal for cluster in found] == [1, 2]
