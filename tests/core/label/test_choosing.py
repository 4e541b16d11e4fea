"""Of several samples the one most like the others is chosen, JSON as values, texts by their characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.label.choosing import choose, similarity

TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=6)


def test_the_medoid_is_chosen_and_the_first_of_equals() -> None:
    texts = ["It is four.", "Seventeen elephants.", "It is four!", "It is four."]
    chosen = choose(texts, "agreement", as_json=False)
    assert chosen.place == 0
    assert chosen.consistency == pytest.approx((1 + 0 + similarity(texts[0], texts[2], as_json=False)) / 3)
    assert choose(texts[1:], "first", as_json=False).place == 0


def test_json_that_is_equal_as_a_value_is_equal() -> None:
    assert similarity('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', as_json=True) == 1.0
    assert similarity('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', as_json=False) < 1.0


def test_one_answer_stands_alone_and_none_is_an_error() -> None:
    assert choose(["Yes."], "agreement", as_json=False).consistency is None
    with pytest.raises(ValueError, match="no answer"):
        choose([], "first", as_json=False)


@given(TEXTS)
def test_likeness_is_symmetric_and_a_share(texts: list[str]) -> None:
    for one in texts:
        assert similarity(one, one, as_json=False) == 1.0
        for other in texts:
            found = similarity(one, other, as_json=False)
            assert 0.0 <= found <= 1.0
            assert found == similarity(other, one, as_json=False)


@given(TEXTS)
def test_every_choice_is_one_of_the_answers(texts: list[str]) -> None:
    for how in ("first", "agreement"):
        chosen = choose(texts, how, as_json=False)
        assert 0 <= chosen.place < len(texts)
        assert (chosen.consistency is None) == (len(texts) == 1)
