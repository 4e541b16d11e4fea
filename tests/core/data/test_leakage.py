"""Held-out rows given away by training rows: a good part must be shared, a template gives nothing away."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from core.data.leakage import Leaks, find_leaks
from core.data.limits import DuplicateLimits
from core.data.overlap import passage_at, passages_of
from core.data.passages import PassageFile

LIMITS = DuplicateLimits()


def words(seed: int, count: int) -> str:
    return " ".join(f"w{seed}x{number}" for number in range(count))


def leaks_of(
    folder: Path, texts: list[str], held_out: list[bool], limits: DuplicateLimits = LIMITS
) -> tuple[Leaks, list[int]]:
    with closing(PassageFile(folder / "passages.bin")) as file:
        file.add(passages_of(texts, limits.passage_words), np.ones(len(texts), dtype=np.bool_))
        leaks, looked_for = find_leaks(file, np.array(held_out, dtype=np.bool_), limits)
    assert looked_for == 1
    return leaks, leaks.of.tolist()


def test_a_row_that_holds_a_good_part_of_a_held_out_row_names_it(tmp_path: Path) -> None:
    shared = words(0, 30)
    texts = [f"{shared} {words(1, 20)}", words(2, 60), f"{words(3, 500)} {shared}", f"{words(4, 10)} {shared}"]

    leaks, of = leaks_of(tmp_path, texts, [True, False, False, False])

    assert of == [-1, -1, 0, 0]
    assert passage_at(texts[2], int(leaks.places[2])) == words(0, 12)
    assert leaks.shares[2] == pytest.approx(19 / 39)
    assert not leaks.own[2]  # a small part of that row, half of the held-out one
    assert leaks.shares[3] == pytest.approx(19 / 29)
    assert leaks.own[3]


def test_one_phrase_in_common_gives_nothing_away(tmp_path: Path) -> None:
    phrase = words(0, 12)
    texts = [f"{words(1, 40)} {phrase} {words(2, 40)}", f"{words(3, 40)} {phrase} {words(4, 40)}"]

    assert leaks_of(tmp_path, texts, [True, False])[1] == [-1, -1]
    assert leaks_of(tmp_path, texts, [True, False], DuplicateLimits(min_shared=0.0))[1] == [-1, 0]


def test_a_short_held_out_row_quoted_in_a_long_one_is_found(tmp_path: Path) -> None:
    texts = [words(0, 13), f"{words(1, 900)} {words(0, 13)}"]

    leaks, of = leaks_of(tmp_path, texts, [True, False])

    assert of == [-1, 0]
    assert leaks.shares[1] == 1


def test_a_template_that_many_rows_hold_is_no_leak_and_what_stands_beside_it_is(tmp_path: Path) -> None:
    form = words(0, 40)
    texts = [f"{form} {words(number, 6)}" for number in range(1, 31)]
    held_out = [number % 4 == 0 for number in range(30)]
    texts += [f"{form} {words(50, 30)}", f"{form} {words(50, 30)} {words(51, 5)}"]

    _, of = leaks_of(tmp_path, texts, [*held_out, True, False])

    assert of[:31] == [-1] * 31
    assert of[31] == 30
    few = DuplicateLimits(template_rows=40)
    assert min(row for row, side in zip(leaks_of(tmp_path, texts, [*held_out, True, False], few)[1], held_out, strict=False)
               if not side) == 0  # fmt: skip


def test_the_held_out_row_most_is_shared_with_is_named(tmp_path: Path) -> None:
    texts = [f"{words(1, 40)} {words(8, 20)}", f"{words(2, 40)} {words(9, 20)}", f"{words(8, 18)} {words(9, 20)}"]

    _, of = leaks_of(tmp_path, texts, [True, True, False])

    assert of == [-1, -1, 1]


def test_chance_phrases_of_many_held_out_rows_do_not_add_up(tmp_path: Path) -> None:
    phrases = [words(number, 12) for number in range(9)]
    held_out = [f"{phrase} {words(100 + number, 120)}" for number, phrase in enumerate(phrases)]
    texts = [*held_out, " ".join(f"{phrase} {words(200 + number, 3)}" for number, phrase in enumerate(phrases))]

    _, of = leaks_of(tmp_path, texts, [True] * 9 + [False])

    assert of == [-1] * 10


def test_without_rows_or_without_a_side_there_is_no_leak(tmp_path: Path) -> None:
    assert leaks_of(tmp_path, [], [])[1] == []
    assert leaks_of(tmp_path, [words(1, 30)] * 2, [True, True])[1] == [-1, -1]
