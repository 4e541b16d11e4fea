"""Passages that one text has from another: found exactly, in bounded memory, whatever the order."""

from __future__ import annotations

import time
from random import Random
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data import overlap
from core.data.overlap import PASSAGE_WORDS, PassageIndex, passage_at, passages_of
from core.data.shingles import Runs, normalise, words_of

VOCABULARY = ("le", "chat", "dort", "sous", "l'arbre,", "2", "Été", "-", "\n")
TEXTS = st.lists(st.lists(st.sampled_from(VOCABULARY), max_size=14).map(" ".join), max_size=8)
PASSAGE = "one two three four five six seven eight nine ten eleven twelve"


def index_of(texts: list[str], words: int = PASSAGE_WORDS, **limits: int) -> PassageIndex:
    index = PassageIndex(**limits)
    for text in texts:
        index.add(passages_of([text], words))
    return index


def runs(text: str, words: int) -> list[tuple[str, ...]]:
    found = words_of(normalise(text))
    whole = [tuple(found)] if found else []
    return [tuple(found[n : n + words]) for n in range(len(found) - words + 1)] if len(found) >= words else whole


@settings(deadline=None)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_exactly_the_shared_passages_are_found(kept: list[str], asked: list[str], words: int) -> None:
    known = {run for text in kept for run in runs(text, words)}

    found = index_of(kept, words).find(passages_of(asked, words))

    shared = [[run in known for run in runs(text, words)] for text in asked]
    assert found.passages.tolist() == [len(marks) for marks in shared]
    assert found.hits.tolist() == [sum(marks) for marks in shared]
    assert found.first.tolist() == [marks.index(True) if any(marks) else -1 for marks in shared]


def test_a_passage_is_found_through_case_spaces_and_punctuation() -> None:
    index = index_of([f"Before it stands: {PASSAGE}, and more."])
    text = f"Here -- {PASSAGE.upper().replace(' ', ',  ')}!"

    found = index.find(passages_of([text, PASSAGE.replace("six", "sechs")]))

    assert found.hits.tolist() == [1, 0]
    assert passage_at(text, int(found.first[0])) == PASSAGE


def test_a_short_text_must_be_the_same_as_a_whole() -> None:
    index = index_of(["What time is it?", f"{PASSAGE} thirteen"])

    found = index.find(passages_of(["what time is it", "What time is it now?", "", "one two three"]))

    assert found.hits.tolist() == [1, 0, 0, 0]
    assert found.passages.tolist() == [1, 1, 0, 1]


def test_an_empty_index_finds_nothing() -> None:
    assert index_of([]).find(passages_of([PASSAGE, ""])).hits.tolist() == [0, 0]


def test_a_full_index_keeps_a_known_share_and_still_finds_long_passages() -> None:
    rng = Random(5)
    texts = [" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=80)) for _ in range(400)]
    index = index_of(texts, max_passages=4000)
    reverse = index_of(texts[::-1], max_passages=4000)

    found = index.find(passages_of(texts))

    assert len(index) <= 4000
    assert index.kept_share == reverse.kept_share == 1 / 8
    assert found.hits.tolist() == reverse.find(passages_of(texts)).hits.tolist()
    assert found.hits.sum() == len(index)
    assert (found.hits > 0).mean() > 0.99
    assert index_of(texts).kept_share == 1


def test_an_index_that_grows_is_merged_as_it_goes() -> None:
    index = PassageIndex()
    for start in range(3):
        hashes = np.arange(600_000, dtype=np.uint64) * 3 + np.uint64(start)
        index.add(Runs(hashes, np.array([0, len(hashes)], dtype=np.uint64)))
    asked = Runs(np.array([5, 1_799_999, 1_800_000], dtype=np.uint64), np.array([0, 1, 3], dtype=np.uint64))

    assert len(index) == 1_800_000
    assert index.find(asked).hits.tolist() == [1, 1]


def test_passages_are_the_same_in_any_batch() -> None:
    texts = [PASSAGE * (n % 4) for n in range(9)]
    alone = [passages_of([text]) for text in texts]
    together = passages_of(texts)

    assert together.hashes.tolist() == np.concatenate([part.hashes for part in alone]).tolist()
    assert np.diff(together.offsets).tolist() == [len(part.hashes) for part in alone]
    assert passages_of([]).offsets.tolist() == [0]


def test_eight_times_the_text_takes_about_eight_times_the_time() -> None:
    index = index_of([PASSAGE])

    def seconds(count: int) -> float:
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            for bait in ("a ", "one two three four five six seven eight nine ten eleven ", ".", "é"):
                index.find(passages_of([bait * count] * 20))
            best = min(best, time.process_time() - began)
        return best

    seconds(10)
    assert seconds(4000) < 24 * seconds(500)  # linear would be 8, quadratic 64


@given(
    batches=st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=8),
    at_once=st.integers(1, 7),
    most=st.integers(1, 50),
)
def test_the_index_holds_what_a_set_would(batches: list[list[int]], at_once: int, most: int) -> None:
    spread = np.uint64((1 << 64) // 41)
    with mock.patch.multiple(overlap, _AT_ONCE=at_once, _PENDING=4):
        index = PassageIndex(most)
        for batch in batches:
            index.add(Runs(np.array(batch, dtype=np.uint64) * spread, np.array([0, len(batch)], dtype=np.uint64)))
        wanted = {int(np.uint64(one) * spread) for batch in batches for one in batch}
        known = {one for one in wanted if one < index.kept_share * (1 << 64)}
        assert index.hashes.tolist() == sorted(known)
        assert len(known) <= most
        asked = np.array(sorted(wanted), dtype=np.uint64)
        assert index.holds(asked).tolist() == [one in known for one in sorted(wanted)]
