"""The student's shape: every shipped card's parameters follow from it exactly, and strange configurations give none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import catalogue
from core.shape import shape_of

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_a_cards_parameters_follow_exactly_from_its_shape(name):
    card = catalogue.model(name)
    assert card.shape is not None
    assert card.shape.parameters() == card.parameters
    assert card.shape.hidden_size == card.hidden_size


def test_a_configuration_gives_the_shape_of_its_card():
    assert shape_of(LLAMA) == catalogue.model("tinyllama-1.1b-chat").shape


def test_heads_and_their_width_are_told_by_what_is_there():
    shape = shape_of({**LLAMA, "num_key_value_heads": None})
    assert shape is not None
    assert (shape.num_key_value_heads, shape.head_dim) == (32, 64)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mixtral"},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"head_dim": -1},
    ],
    ids=str,
)
def test_another_family_or_a_broken_size_gives_no_shape(change):
    assert shape_of({**LLAMA, **change}) is None


@given(st.dictionaries(st.sampled_from([*LLAMA, "head_dim"]), st.none() | st.integers() | st.text(max_size=3)))
def test_any_configuration_gives_a_shape_or_none(config):
    shape = shape_of({"model_type": "qwen3", **config})
    assert shape is None or shape.parameters() > 0
