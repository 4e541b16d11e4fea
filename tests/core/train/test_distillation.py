"""Distillation and the curriculum by teacher loss: formula, tokens that must be the same, and exact resume all the same.

The trainings run in forked children of one process (forks.py).
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.config import TrainConfig
from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import BadConfig, DataError
from core.files import read_json_lines
from core.label.logprobs_file import LogprobsWriter
from core.label.request import TokenLogprob
from core.train import teacher
from core.train.train import train
from tests.core import published_chain

_spec = importlib.util.spec_from_file_location("plan", Path(__file__).parent / "plan.py")
plan = importlib.util.module_from_spec(_spec)
sys.modules["plan"] = plan
_spec.loader.exec_module(plan)

SHORT = {"num_train_epochs": 1, "eval_steps": None, "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}}

WHOLE = {**SHORT, "per_device_train_batch_size": 20, "gradient_accumulation_steps": 1}


@pytest.fixture(scope="module")
def trained(tiny_student, tmp_path_factory) -> Any:
    guided = {"teacher": "same", "config": {**SHORT, "distillation": {"weight": 0.5, "temperature": 2.0}}}
    runs: list[tuple[str, dict[str, Any]]] = [
        ("guided", guided),
        ("killed", {**guided, "fault": {"at": "train-step", "number": 13, "signal": signal.SIGKILL}}),
        ("killed", guided),
        ("plain", {"config": SHORT}),
        ("other texts", {**guided, "teacher": "other texts"}),
        ("other tokens", {**guided, "teacher": "other tokens"}),
        ("sure first", {"teacher": "same", "unanswered": 3, "config": {**SHORT, "order": "by_teacher_loss"}}),
    ]
    return plan.carry_out(tiny_student, tmp_path_factory.mktemp("distillation"), runs)


@pytest.fixture(scope="module")
def computed(tiny_student, tmp_path_factory) -> Any:
    runs: list[tuple[str, dict[str, Any]]] = [
        ("divergences", {"action": "divergences"}),
        ("loss", {"action": "distilled", "config": {"quantisation": "none"}}),
        ("turns", {"turns": True, "teacher": "same", "config": {**WHOLE, "distillation": {"weight": 0.5}}}),
        ("turns packed", {"turns": True, "config": {**WHOLE, "packing": True}}),
    ]
    return plan.carry_out(tiny_student, tmp_path_factory.mktemp("computed"), runs)


def losses(trained: Any, name: str) -> list[float]:
    (ended,) = trained.ended[name]
    assert "result" in ended, ended
    path = trained.folder / name / "steps.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_with_all_tokens_it_is_the_divergence_over_the_vocabulary_and_with_fewer_less(computed):
    (found,) = computed.ended["divergences"]
    by_count = [found["of"][count]["kl"] for count in ("1", "2", "5", "15", "30")]
    assert by_count[-1] == pytest.approx(found["whole"], abs=1e-4)
    assert found["of"]["30"]["gradient_differs"] < 1e-4 < found["of"]["1"]["gradient_differs"]
    for fewer, more in pairwise(by_count):
        assert all(0 <= one <= other + 1e-5 for one, other in zip(fewer, more, strict=True))
    assert found["of_itself"] == pytest.approx(0, abs=1e-5)


def test_the_loss_is_the_stated_mix_and_plain_where_the_teacher_says_nothing(computed):
    (found,) = computed.ended["loss"]
    assert found["alone"] == pytest.approx(found["plain"], abs=1e-4)
    assert found["ce"] == pytest.approx(found["plain"], abs=1e-4)
    assert found["half"] == pytest.approx((found["ce"] + found["kl"]) / 2, abs=1e-4)
    assert abs(found["kl"] - found["ce"]) > 1e-2


def test_a_chats_earlier_turns_are_learned_by_cross_entropy_and_its_answer_by_the_mix(computed):
    (found,) = computed.ended["loss"]
    assert found["turns"] == pytest.approx(found["turns_expected"], abs=1e-4)
    assert abs(found["turns"] - found["kl"]) > 1e-2


def test_a_training_learns_as_many_tokens_as_the_masks_of_all_turns_have(computed):
    rows = read_json_lines(computed.folder / "turns" / "train.jsonl")
    ones = sum(sum(record["completion_mask"]) for record in rows)
    for name in ("turns", "turns packed"):
        (ended,) = computed.ended[name]
        assert ended["result"]["trained_tokens"] == ones
    (ended,) = computed.ended["turns"]
    told = [event["text"] for event in ended["heard"] if event["kind"] == "note"]
    assert f"{ones - 40} of {ones - 40} tokens of the teacher's answers are learned from with its words" in told


@pytest.mark.full
def test_a_distilled_training_ends_the_same_over_kill_9(trained):
    assert trained.ended["killed"][0]["signal"] == signal.SIGKILL
    assert trained.ended["killed"][1]["resumed"] == 8
    kept = ("adapter/adapter_model.safetensors", "steps.jsonl")
    for path in kept:
        assert (trained.folder / "killed" / path).read_bytes() == (trained.folder / "guided" / path).read_bytes()
    assert losses(trained, "guided") != losses(trained, "plain")


def test_a_student_comes_to_share_its_teachers_doubt(computed):
    (found,) = computed.ended["divergences"]
    assert found["doubt_differs"] < 0.01


@pytest.mark.full
def test_a_token_of_another_text_is_refused_with_both_texts(trained):
    (ended,) = trained.ended["other texts"]
    assert ended["error"] == "DataError"
    assert "for the teacher and" in ended["problem"]
    assert "their tokenizers differ" in ended["problem"]


@pytest.mark.full
def test_answers_in_other_tokens_are_refused_with_the_first(trained):
    (ended,) = trained.ended["other tokens"]
    assert ended["error"] == "DataError"
    assert "tokens of the teacher's answers are the student's tokens, < 90%: token 1 of row train-1 is" in ended["problem"]


@pytest.mark.full
def test_the_rows_the_teacher_was_surest_of_come_first_and_those_it_never_answered_last(trained):
    (ended,) = trained.ended["sure first"]
    told = [event["text"] for event in ended["heard"] if event["kind"] == "note"]
    assert "4 of 40 rows come last: the teacher's log-probabilities of their answers are not known" in told
    assert losses(trained, "sure first") != losses(trained, "plain")


def row(row_id: str, ids: tuple[int, ...], prompt: int) -> TokenisedRow:
    return TokenisedRow(row_id=row_id, input_ids=ids, completion_mask=(0,) * prompt + (1,) * (len(ids) - prompt))


def said(*tokens: tuple[int | None, str], chance: float = -0.5) -> list[TokenLogprob]:
    top = ((None, "zz", -1.5), (None, "b", -1.0))
    return [TokenLogprob(token=token, text=text, logprob=chance, top=top) for token, text in tokens]


def written(path: Path, **answers: list[TokenLogprob]) -> Path:
    with LogprobsWriter(path / "logprobs.parquet") as writer:
        for row_id, tokens in answers.items():
            writer.add(row_id, tokens)
    return path / "logprobs.parquet"


def decode(token: int) -> str:
    return "abcdefgh"[token]


def test_the_teachers_words_stand_beside_the_answer_and_the_end_of_turn_has_none(tmp_path):
    path = written(tmp_path, one=said((2, "c"), (3, "d")), elsewhere=said((0, "a")))
    guided = teacher.guidance([row("one", (7, 7, 2, 3, 6), 2), row("two", (7, 1), 1)], path, 8, decode)
    assert (guided.matched, guided.tokens) == (2, 2)
    assert set(guided.rows) == {"one"}
    assert guided.rows["one"].start == 2
    assert guided.rows["one"].tokens == [[1], [1]]  # "zz" is no token of the student's, its mass is the rest's


def test_the_teachers_words_stand_beside_the_last_turn_and_nowhere_where_it_was_cut(tmp_path):
    path = written(tmp_path, one=said((2, "c"), (3, "d")), cut=said((2, "c")))
    several = TokenisedRow(
        row_id="one", input_ids=(7, 2, 3, 7, 2, 3), completion_mask=(0, 1, 1, 0, 1, 1), last_turn=4, turn_of=None
    )
    cut = TokenisedRow(row_id="cut", input_ids=(7, 2), completion_mask=(0, 1), last_turn=4)
    earlier = row("one#turn1", (7, 2), 1).model_copy(update={"turn_of": "one"})
    guided = teacher.guidance([earlier, several, cut], path, 8, decode)
    assert set(guided.rows) == {"one"}
    assert (guided.matched, guided.tokens, guided.rows["one"].start) == (2, 2, 4)


def test_a_teacher_that_tells_no_ids_is_read_by_its_texts(tmp_path):
    path = written(tmp_path, one=said((None, "c"), (None, "d")))
    guided = teacher.guidance([row("one", (7, 2, 3), 1)], path, 8, decode)
    assert (guided.matched, guided.tokens) == (2, 2)


def test_after_the_first_other_token_an_answer_has_no_words(tmp_path):
    sure = {f"r{number}": said((2, "c"), (3, "d"), (4, "e")) for number in range(9)}
    path = written(tmp_path, **sure, odd=said((2, "c"), (5, "f"), (4, "e")))
    rows = [row(name, (7, 2, 3, 4), 1) for name in (*sure, "odd")]
    guided = teacher.guidance(rows, path, 8, decode)
    assert (guided.matched, guided.tokens) == (28, 30)
    assert len(guided.rows["odd"].tokens) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (said((9, "x")), "the teacher's token 9 'x' is not in the student's vocabulary of 8"),
        (said((2, "x")), "token 2 is 'x' for the teacher and 'c' for the student: their tokenizers differ"),
        (said((3, "d")), "0 of 1 tokens of the teacher's answers are the student's tokens, < 90%"),
    ],
)
def test_tokenizers_that_differ_are_refused_with_what_differs(tmp_path, answer, told):
    with pytest.raises(DataError) as refused:
        teacher.guidance([row("one", (7, 2, 6), 1)], written(tmp_path, one=answer), 8, decode)
    assert told in refused.value.problem


@pytest.mark.parametrize("text", ["", " c", "�"])
def test_texts_that_decoders_write_in_two_ways_are_the_same(tmp_path, text):
    path = written(tmp_path, one=said((2, text)))
    assert teacher.guidance([row("one", (7, 2), 1)], path, 8, decode).matched == 1


def test_a_curriculum_begins_with_what_the_teacher_was_surest_of(tmp_path):
    path = written(tmp_path, a=said((1, "b"), chance=-3.0), b=said((1, "b"), chance=-0.1), c=said((1, "b"), chance=-1.0))
    rows = [row(name, (7, 1), 1) for name in ("x", "a", "b", "y", "c")]
    ordered, unknown = teacher.by_teacher_loss(rows, path)
    assert [one.row_id for one in ordered] == ["b", "c", "a", "x", "y"]
    assert unknown == 2
    turns = [row(f"{name}#turn1", (7, 1), 1).model_copy(update={"turn_of": name}) for name in ("a", "c")]
    together, _ = teacher.by_teacher_loss([turns[0], rows[1], turns[1], rows[4]], path)
    assert [one.row_id for one in together] == ["c#turn1", "c", "a#turn1", "a"]
    with pytest.raises(DataError, match=r"logprobs\.parquet holds no answer of the 1 training rows"):
        teacher.by_teacher_loss([row("z", (7, 1), 1)], path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"distillation": {}}, "train.distillation is set and"),
        ({"order": "by_teacher_loss"}, "train.order is by_teacher_loss"),
    ],
)
def test_labels_without_log_probabilities_are_refused_before_anything_is_loaded(workspace, settings, told):
    labeled = published_chain.labeled(workspace, published_chain.dataset(workspace))
    with pytest.raises(BadConfig) as refused:
        train(labeled, TrainConfig(student="tiny", **settings), workspace)
    assert told in refused.value.problem
    assert "keeps no log-probabilities (label.top_logprobs=0)" in refused.value.problem
    assert not list((workspace.root / "staging").glob(f"{Stage.TRAIN.value}-*"))
