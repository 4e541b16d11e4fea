"""Near duplicates: the detection curve against its theory, planted copies, order, chains, and linear time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rensa import RMinHash

from core.data.clusters import Clusters
from core.data.near_duplicates import (
    BANDS,
    THRESHOLD,
    Deduplicator,
    Fingerprints,
    chance_of_detection,
    fingerprint,
)
from core.data.shingles import SHINGLE_CHARS, normalise
from core.files import read_json_lines
from tests.benchmarks.corpus import clean_row

GOLDEN_TEXTS = ["c7ba02facdefb044", "b88e21e6e1fea5c7"]
GOLDEN_SIGNATURES = ["87c534d1defeb581", "17850d768ccba80a"]
REAL = Path(__file__).parents[2] / "data"
LETTERS = [chr(code) for code in range(0x4E00, 0x9000)]


def clusters_of(
    texts: Sequence[str], folder: Path, answers: Sequence[int] | None = None, bands: int = BANDS, batch: int = 100
) -> Clusters:
    with Deduplicator(folder, bands) as rows:
        for start in range(0, len(texts), batch):
            some = texts[start : start + batch]
            hashes = [int.from_bytes(sha256(text.encode()).digest()[:8], "big") for text in some]
            rows.add(fingerprint(some, bands), (answers or [0] * len(texts))[start : start + batch], hashes)
        return rows.clusters()


def groups(texts: Sequence[str], clusters: Clusters) -> set[frozenset[str]]:
    return {frozenset(texts[row] for row in cluster.rows) for cluster in clusters.found()}


def jaccard(one: str, other: str) -> float:
    left, right = (
        {text[start : start + SHINGLE_CHARS] for start in range(len(text) - SHINGLE_CHARS + 1)} for text in (one, other)
    )
    return len(left & right) / len(left | right)


def pairs(wanted: float, count: int, chars: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of texts of random characters whose shingles have about this Jaccard similarity, by a changed end."""
    rng = Random(seed)
    common = round(2 * (chars - SHINGLE_CHARS + 1) * wanted / (1 + wanted)) + SHINGLE_CHARS - 1
    found = []
    for _ in range(count):
        head = "".join(rng.choices(LETTERS, k=common))
        tails = ["".join(rng.choices(LETTERS, k=chars - common)) for _ in range(2)]
        found.append((head + tails[0], head + tails[1]))
    return found


@pytest.mark.parametrize("wanted", [0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0])
@pytest.mark.parametrize("bands", [16, 32])
def test_the_measured_detection_curve_is_the_documented_one(wanted: float, bands: int, tmp_path: Path) -> None:
    planted = pairs(wanted, 400, 300, seed=round(wanted * 100))
    real = [jaccard(*pair) for pair in planted]
    texts = [text for pair in planted for text in pair]

    heads = clusters_of(texts, tmp_path, bands=bands).representative

    found = (heads[::2] == heads[1::2]).mean()
    expected = chance_of_detection(float(np.mean(real)), bands)
    assert abs(np.mean(real) - wanted) < 0.005
    # three standard errors of 400 pairs, and what rensa's slots vary less than binomially, at the curve's steepest
    assert abs(found - expected) <= 3 * (expected * (1 - expected) / 400) ** 0.5 + 0.05
    assert found == 1 or wanted < 1


def test_the_curve_in_the_docstring_is_the_computed_one() -> None:
    shown = [round(chance_of_detection(similarity), 2) for similarity in (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1)]

    assert shown == [0.0, 0.0, 0.04, 0.49, 0.97, 1.0, 1.0, 1.0]


def test_signatures_are_those_of_every_machine() -> None:
    found = fingerprint(["Quelle heure est-il?", "What time is it?"], bands=1)

    assert RMinHash.ALGORITHM_VERSION == 2
    assert [f"{value:016x}" for value in found.text_hashes.tolist()] == GOLDEN_TEXTS
    assert [row.tobytes().hex() for row in found.signatures] == GOLDEN_SIGNATURES


def test_equal_texts_are_one_cluster_with_the_longest_answered_row_in_front(tmp_path: Path) -> None:
    texts = ["Quelle heure est-il?", "quelle  heure EST-IL?", "Un autre sujet, tout à fait.", "Quelle heure est‑il?"]

    clusters = clusters_of(texts, tmp_path, answers=[3, 9, 4, 0])

    (found,) = clusters.found()
    assert (found.representative, sorted(found.rows), found.lowest_similarity) == (1, [0, 1, 3], 1.0)
    assert found.equal == 3
    assert clusters.duplicates().tolist() == [True, False, False, True]


def chats(count: int) -> list[str]:
    rows = [clean_row(3, number) for number in range(2 * count)]
    chosen = [row["messages"] for row in rows if "tools" not in row][:count]
    return [f"{turns[1]['content']}\n{turns[2]['content']}" for turns in chosen]


def misspelt(text: str, edits: int, rng: Random) -> str:
    letters = list(text)
    for place in rng.sample(range(len(letters)), edits):
        letters[place] = "x"
    return "".join(letters)


def test_misspelt_chats_are_found_and_other_chats_are_not(tmp_path: Path) -> None:
    rng = Random(1)
    originals = chats(300)
    texts = originals + [misspelt(text, 8, rng) for text in originals[:100]]

    clusters = clusters_of(texts, tmp_path)

    assert {tuple(sorted(found.rows)) for found in clusters.found()} == {(n, 300 + n) for n in range(100)}
    real = [jaccard(normalise(texts[n]), normalise(texts[300 + n])) for n in range(100)]
    assert abs(np.mean([found.lowest_similarity for found in clusters.found()]) - np.mean(real)) < 0.01


def test_the_real_records_resemble_each_other_nowhere(tmp_path: Path) -> None:
    texts = [row["user"] for path in sorted(REAL.glob("quebecois_*.jsonl")) for row in read_json_lines(path)]

    assert len(texts) == 47
    assert not list(clusters_of(texts, tmp_path).found())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False), batch=st.integers(1, 60))
def test_the_order_of_rows_and_batches_changes_no_decision(rng: Random, batch: int, tmp_path: Path) -> None:
    families = [misspelt(text, edits, Random(edits)) for text in chats(6) for edits in (0, 6, 14, 25, 40)]
    shuffled = list(families)
    rng.shuffle(shuffled)

    one, other = (clusters_of(texts, tmp_path, batch=batch) for texts in (families, shuffled))

    assert groups(families, one) == groups(shuffled, other)
    named = [
        {texts[n]: texts[head] for n, head in enumerate(found.representative)}
        for texts, found in ((families, one), (shuffled, other))
    ]
    assert named[0] == named[1]


def test_a_chain_is_one_cluster_that_tells_its_lowest_similarity(tmp_path: Path) -> None:
    text = "".join(Random(2).choices(LETTERS, k=600))
    links = [text[40 * step : 40 * step + 400] for step in range(6)]

    clusters = clusters_of(links, tmp_path, answers=[9, 0, 0, 0, 0, 0])

    (found,) = clusters.found()
    assert found.rows == (0, 1, 2, 3, 4, 5)
    assert found.lowest_similarity < THRESHOLD - 0.2
    assert not clusters.duplicates().all()
    assert clusters.duplicates()[1]


@pytest.mark.parametrize("texts", [[], ["a"], ["", " ", "a", "b"], ["a" * 400_000, "a" * 300_000, "b"]])
def test_texts_of_any_length_come_out_once(texts: list[str], tmp_path: Path) -> None:
    clusters = clusters_of(texts, tmp_path)

    assert len(clusters.representative) == len(texts)
    assert (clusters.representative[clusters.representative] == clusters.representative).all()


def test_fingerprints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with Deduplicator(tmp_path) as rows:
        with pytest.raises(ValueError, match="not 256"):
            rows.add(fingerprint(["a"], bands=4), [0], [1])
        with pytest.raises(ValueError, match="1 text hashes"):
            rows.add(fingerprint(["a"]), [0, 1], [1])
    assert not list(tmp_path.iterdir())


def seconds_to_cluster(signatures: np.ndarray, texts: np.ndarray, folder: Path) -> float:
    count = len(texts)
    best = 1e9
    for _ in range(2):
        with Deduplicator(folder) as rows:
            rows.add(Fingerprints(texts, signatures), np.zeros(count, dtype=np.int64), np.arange(count))
            began = time.process_time()
            rows.clusters()
            best = min(best, time.process_time() - began)
    return best


def equal_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, 256), dtype=np.uint8), np.zeros(count, dtype=np.uint64)


def nearly_equal_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """One text, each row edited elsewhere: every bucket holds nearly all rows."""
    signatures = np.zeros((count, 256), dtype=np.uint8)
    signatures[np.arange(count), np.arange(count) % 256] = 1 + np.arange(count) % 255
    return signatures, np.random.default_rng(0).permutation(count).astype(np.uint64)


def lookalikes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows share one band and nothing else: the bucket is full and nothing in it is alike."""
    signatures = np.random.default_rng(1).integers(0, 256, size=(count, 256), dtype=np.uint8)
    signatures[:, :8] = 7
    return signatures, np.arange(count, dtype=np.uint64)


@pytest.mark.parametrize("rows", [equal_rows, nearly_equal_rows, lookalikes])
def test_a_crowded_bucket_takes_time_in_proportion_to_its_rows(rows, tmp_path: Path) -> None:
    few, many = 10_000, 80_000  # linear would be 8, quadratic 64 times as long

    seconds_to_cluster(*rows(few), tmp_path)
    assert seconds_to_cluster(*rows(many), tmp_path) < 24 * seconds_to_cluster(*rows(few), tmp_path)


@pytest.mark.full
def test_two_million_identical_rows_are_one_cluster_in_seconds(tmp_path: Path) -> None:
    batch = ["Quelle heure est-il?"] * 1000
    began = time.perf_counter()
    with Deduplicator(tmp_path) as rows:
        for number in range(2000):
            rows.add(fingerprint(batch), [0] * 1000, range(number * 1000, number * 1000 + 1000))
        (found,) = rows.clusters().found()

    assert len(found.rows) == 2_000_000
    assert time.perf_counter() - began < 120
