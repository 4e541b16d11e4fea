"""The search space: bad ones are refused with key, value and remedy, and a draw means the settings it says."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core import config
from core.config import SearchConfig, TrainConfig
from core.errors import BadConfig
from core.search.section import SearchSpace
from core.search.space import check, distributions, settings, steps_of, trial_config
from core.search.winner import as_overrides, overrides_file

TRAIN = TrainConfig(student="tiny", per_device_train_batch_size=4)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("search.space.r=[]", "search.space.r=[]: is empty: give two values at least, or none to keep"),
        ("search.space.r=[16]", "search.space.r=[16]: a search needs two values at least"),
        ("search.space.r=[16,16]", "holds a value twice: name each once"),
        ("search.space.r=[0,16]", "search.space.r.0=0: Input should be greater than or equal to 1"),
        ("search.space.rank=[8,16]", "search.space.rank: unknown key, did you mean search.space"),
        ("search.space.learning_rate={low: 1e-3, high: 1e-4}", "low=0.001 >= high=0.0001 is no range: swap them"),
        ("search.space.learning_rate={low: 1e-3, high: 1e-3}", "low=0.001 >= high=0.001 is no range"),
        ("search.space.learning_rate.low=0", "search.space.learning_rate.low=0: Input should be greater than 0"),
        ("search.space.learning_rate.high=.inf", "search.space.learning_rate.high=inf: Input should be"),
        ("search.space.lora_alpha=[r, 3r]", "search.space.lora_alpha.1"),
        ("search.space.lora_dropout=[0, 1]", "search.space.lora_dropout.1=1: Input should be less than 1"),
        ("search.space.lr_scheduler_type=[linear, cosin]", "search.space.lr_scheduler_type.1='cosin'"),
        ("search.trials=0", "search.trials=0: Input should be greater than or equal to 1"),
        ("search.goals=[training_s]", "goals=['training_s']: name held_out_loss, and one other at most"),
        ("search.goals=[held_out_loss, held_out_loss]", "name held_out_loss, and one other at most"),
        ("search.range_test.steps=5", "steps=5 < 10 make no curve: raise it, or 0 leaves the test out"),
        ("search.range_test.low=0.5", "low=0.5 >= high=0.1 is no range"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_with_its_key_value_and_remedy(override, told):
    with pytest.raises(BadConfig) as refused:
        config.load("demo", [override])
    assert told in refused.value.problem
    assert refused.value.remedy


def test_two_goals_and_pruning_are_refused_together():
    with pytest.raises(ValidationError, match="prune=true and goals="):
        SearchConfig(goals=("held_out_loss", "training_s"), prune=True)
    assert not SearchConfig(goals=("held_out_loss", "training_s")).prunes
    assert SearchConfig().prunes


def test_a_space_where_everything_is_fixed_is_refused():
    nothing = dict.fromkeys(SearchSpace.model_fields)
    with pytest.raises(ValidationError, match="every parameter is none, nothing is searched"):
        SearchSpace(**nothing)


def test_a_batch_that_the_micro_batch_does_not_divide_is_refused():
    with pytest.raises(BadConfig, match=r"effective_batch=6 is no multiple of train\.per_device_train_batch_size=4"):
        check(SearchSpace(effective_batch=(8, 6)), TRAIN)
    check(SearchSpace(), TRAIN)
    check(SearchSpace(effective_batch=None), TRAIN.model_copy(update={"per_device_train_batch_size": 3}))


@given(
    rate=st.floats(min_value=5e-5, max_value=1e-3),
    r=st.sampled_from([8, 256]),
    alpha=st.sampled_from(["r", "2r", 32]),
    batch=st.sampled_from([8, 16, 32]),
)
def test_a_draw_means_the_settings_it_says(rate, r, alpha, batch):
    drawn = {"learning_rate": rate, "r": r, "lora_alpha": alpha, "effective_batch": batch, "lora_dropout": 0.1}
    made = trial_config(drawn, TRAIN, SearchConfig(), rows=100)
    assert (made.learning_rate, made.lora.r, made.lora.lora_dropout) == (rate, r, 0.1)
    assert made.lora.lora_alpha == {"r": r, "2r": 2 * r, 32: 32}[alpha]
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == batch
    assert made.lr_scheduler_type == TRAIN.lr_scheduler_type
    assert made.eval_steps is not None
    assert steps_of(made, 100) / 4 <= made.eval_steps <= steps_of(made, 100) / 4 + 1


def test_a_step_takes_the_rows_of_all_processes_of_a_training():
    several = TrainConfig(student="tiny", per_device_train_batch_size=4, parallel={"processes": 2})
    assert settings({"effective_batch": 32}, several) == {"gradient_accumulation_steps": 4}
    with pytest.raises(BadConfig, match=r"effective_batch=12 is no multiple of .*_batch_size=4 in 2 processes"):
        check(SearchSpace(effective_batch=(8, 12)), several)


def test_what_is_not_searched_stays_as_the_profile_says():
    space = SearchSpace(**{**dict.fromkeys(SearchSpace.model_fields), "lora_alpha": ("r", "2r")})
    assert list(distributions(space)) == ["lora_alpha"]
    made = trial_config({"lora_alpha": "2r"}, TRAIN, SearchConfig(space=space), rows=100)
    assert made.lora == TRAIN.lora.model_copy(update={"lora_alpha": 2 * TRAIN.lora.r})
    assert made.model_copy(update={"lora": TRAIN.lora, "eval_steps": None, "supervision": TRAIN.supervision}) == TRAIN
    assert (made.supervision.acts, made.supervision.orphan_s) == (False, 0.0)


def test_the_winners_file_is_taken_by_set_and_says_the_same_as_its_overrides(tmp_path):
    found = settings({"learning_rate": 3e-4, "r": 64, "lora_alpha": "2r", "effective_batch": 16}, TRAIN)
    path = tmp_path / "winner.yaml"
    path.write_text(overrides_file(found, ["Trial 3 of a search", "# a line"]), encoding="utf-8")
    taken = config.load("demo", [str(path), "train.lora.lora_dropout=0.2"])
    assert taken == config.load("demo", [*as_overrides(found), "train.lora.lora_dropout=0.2"])
    assert (taken.train.learning_rate, taken.train.lora.r, taken.train.lora.lora_alpha) == (3e-4, 64, 128)
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {"train": found}


def test_a_file_of_overrides_that_is_not_there_or_holds_an_unknown_key_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"override 'gone\.yaml' is no file"):
        config.load("demo", ["gone.yaml"])
    (tmp_path / "bad.yaml").write_text("train: {lora: {rank: 3}}", encoding="utf-8")
    with pytest.raises(BadConfig, match=r"train\.lora\.rank: unknown key"):
        config.load("demo", [str(tmp_path / "bad.yaml")])
