"""What the supervisor changed: the settings to train with, whatever micro-batch is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.config import TrainConfig
from core.train.course import Course

rows = st.integers(1, 64)


def test_an_undisturbed_course_changes_no_setting():
    config = TrainConfig(student="tiny", per_device_train_batch_size=6, gradient_accumulation_steps=5, learning_rate=3e-4)
    assert Course().applied(config) == config


@given(rows, st.integers(1, 8))
def test_every_smaller_micro_batch_keeps_the_rows_of_a_step_until_one_row_is_left(micro_batch, accumulation):
    config = TrainConfig(student="tiny", per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation)
    course, sizes = Course(), [micro_batch]
    while (smaller := course.smaller(config)) is not None:
        course = course.model_copy(update={"micro_batch": smaller})
        applied = course.applied(config)
        assert applied.per_device_train_batch_size == smaller <= sizes[-1] // 2
        assert smaller * applied.gradient_accumulation_steps == micro_batch * accumulation
        sizes.append(smaller)
    assert sizes[-1] == 1


def test_a_lower_learning_rate_is_of_the_configured_one():
    config = TrainConfig(student="tiny", learning_rate=4e-4)
    assert Course(learning_rate_factor=0.25).applied(config).learning_rate == 1e-4
