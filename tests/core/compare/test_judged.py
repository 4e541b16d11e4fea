"""A judge behind a real HTTP server chooses between the answers of two models: what it is asked, what it costs, how it fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core import config
from core.compare.answers import Given
from core.compare.comparison import Compared, Comparison, Entrant, Setting, compare
from core.compare.judged import Jury, judged, jury
from core.compare.questions import Question, of_rows
from core.compare.scoring import Score
from core.data.record import LabeledRow, Message
from core.errors import BadConfig, BudgetReached, TeacherFailed, ToolMissing, UsageError
from core.events import Event, ignore
from core.label.ledger import open_ledger, read_ledger
from core.label.status import status
from core.report.comparison import comparison_page, comparison_tables
from core.report.page import page_html
from core.report.render import render
from core.workspace import Workspace
from tests.core.label.conftest import ScriptedTeacher, Sent, Step, server  # noqa: F401 - a fixture, found by its name here

PROFILES = Path(config.find_profile("demo")).parent


class Judge(ScriptedTeacher):
    """Prefers the answer with RIGHT in it, the first of two like ones, and counts what it is asked."""

    def next_step(self, request: Sent) -> Step:
        self.sent.append(request)
        _, first, second = request.last.rpartition("Question:")[2].replace("Answer 2:", "Answer 1:").split("Answer 1:")
        step = self.script.get("", [self.otherwise])[0]
        best = 2 if "RIGHT" in second and "RIGHT" not in first else 1
        return step if step.text or step.status != 200 else Step(text=json.dumps({"best": best}))


@pytest.fixture
def judge() -> Iterator[Judge]:
    teacher = Judge()
    yield teacher
    teacher.close()


def question(number: int) -> Question:
    turns = (Message(role="user", content=f"Question {number:03}?"), Message(role="assistant", content="The hoped for."))
    return next(of_rows([LabeledRow(row_id=f"r{number:03}", split="held_out", messages=turns)]))


def answered(name: str, texts: list[str]) -> Compared:
    given = tuple(Given(row_id=f"r{place:03}", text=text, finish_reason="stop") for place, text in enumerate(texts))
    plain: dict[str, Any] = {"path": f"{name}.gguf", "sha256": "0" * 64, "bytes": 1, "metrics": {}, "tokens_per_s": None}
    return Compared(name=name, answers=given, scores=tuple(Score() for _ in given), **plain)


def comparison(*models: list[str]) -> Comparison:
    return Comparison(
        made_at=datetime.now(UTC),
        asked_from="the test",
        questions=tuple(map(question, range(len(models[0])))),
        models=tuple(answered(f"m{place}", texts) for place, texts in enumerate(models)),
        differences=((),) * (len(models) - 1),
    )


def seated(judge: ScriptedTeacher, **more: Any) -> Jury:
    told = {"label.base_url": judge.base_url, "label.attempts": 1, "label.concurrency": 2, **more}
    return jury("qwen3-8b", config.load("demo", told), PROFILES, ignore)


WRONG = [f"wrong {place}" for place in range(10)]
BETTER = [f"RIGHT {place}" for place in range(9)] + [WRONG[9]]


def test_both_orders_are_asked_and_the_better_model_wins_with_an_interval(workspace: Workspace, judge: Judge) -> None:
    found, trouble = judged(comparison(WRONG, BETTER), seated(judge), workspace, ignore)
    assert trouble is None
    assert found.judging is not None
    (told,) = found.judging.against
    assert (told.won, told.tied, told.lost, told.unjudged) == (9, 1, 0, 0)
    assert (told.agreement, told.shown_first) == (1.0, 0.5)
    assert len(judge.sent) == 2 * 9  # the same answer twice needs no judge
    ((one,),) = found.differences
    assert (one.metric, one.prompts, one.verdict) == ("judge", 10, "better")
    assert 0 < one.low <= one.difference <= one.high <= 1
    asked = judge.sent[0].body["messages"]
    assert "Question 00" in asked[1]["content"]
    assert asked[0]["content"].startswith("Choose the answer that is right")
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_a_judge_that_takes_what_stands_first_ties_them_and_is_found_out(workspace: Workspace, judge: Judge) -> None:
    judge.script = {"": [Step(text='{"best": 1}')]}
    found, _ = judged(comparison(WRONG, BETTER), seated(judge), workspace, ignore)
    assert found.judging is not None
    assert found.judging.against[0].tied == 10
    assert (found.judging.against[0].agreement, found.judging.against[0].shown_first) == (0.0, 1.0)
    assert found.differences[0][0].verdict == "no clear difference"


def test_a_verdict_that_was_paid_for_is_not_asked_for_again(workspace: Workspace, judge: Judge) -> None:
    prices = {"label.prices": {"prompt_per_million": 1.0, "completion_per_million": 2.0}}
    first, _ = judged(comparison(WRONG, BETTER), seated(judge, **prices), workspace, ignore)
    third = [f"RIGHT too {place}" for place in range(10)]
    again, _ = judged(comparison(WRONG, BETTER, third), seated(judge, **prices), workspace, ignore)
    assert len(judge.sent) == 18 + 20
    assert first.judging is not None
    assert again.judging is not None
    assert first.judging.spent.requests == 18
    assert first.judging.cost == pytest.approx(18 * (7 * 1.0 + 3 * 2.0) / 1e6)
    assert (again.judging.reused, again.judging.spent.requests) == (18, 20)
    assert again.judging.against[0] == first.judging.against[0]
    assert again.judging.against[1].won == 10


def test_a_budget_stops_the_judge_and_what_it_said_counts(workspace: Workspace, judge: Judge) -> None:
    little = {"label.budget.max_requests": 6, "label.concurrency": 1}
    found, trouble = judged(comparison(WRONG, BETTER), seated(judge, **little), workspace, ignore)
    assert isinstance(trouble, BudgetReached)
    assert "label.budget.max_requests=12" in trouble.remedy
    assert found.judging is not None
    assert (found.judging.against[0].won, found.judging.against[0].unjudged) == (3, 6)
    assert found.differences[0][0].verdict == "too few prompts"
    assert "Not all was judged: 6 >= 6, label.budget.max_requests" in render(comparison_tables(found)[2], "json")
    again, trouble = judged(
        comparison(WRONG, BETTER), seated(judge, **{"label.budget.max_requests": 18}), workspace, ignore
    )
    assert trouble is None
    assert len(judge.sent) == 18
    assert again.judging is not None
    assert again.judging.against[0].won == 9


@pytest.mark.parametrize("said", ["I like both.", '{"best": 3}', '{"best": "one"}', "[" * 9000, '{"best": 1e999}'])
def test_a_judge_that_answers_garbage_is_told_and_the_comparison_stays(
    workspace: Workspace, judge: Judge, said: str
) -> None:
    judge.script = {"": [Step(text=said)]}
    found, trouble = judged(comparison(WRONG[:2], BETTER[:2]), seated(judge), workspace, ignore)
    assert isinstance(trouble, TeacherFailed)
    assert trouble.problem.startswith("the judge qwen3-8b gave no verdict on any of 4 pairs of answers, the last: ")
    assert found.judging is not None
    assert found.judging.against[0].unjudged == 2
    assert found.judging.trouble == trouble.problem
    assert found.differences == ((),)


def test_a_judge_that_cannot_be_reached_leaves_the_comparison(workspace: Workspace, judge: Judge, monkeypatch) -> None:
    monkeypatch.setattr("core.label.asking._BACKOFF_S", 0.01)
    judge.close()
    found, trouble = judged(comparison(WRONG, BETTER), seated(judge), workspace, ignore)
    assert isinstance(trouble, TeacherFailed)
    assert "got no answer" in trouble.problem
    assert found.judging is not None
    assert found.judging.against[0].unjudged == 9
    assert [model.name for model in found.models] == ["m0", "m1"]


def test_a_refused_key_is_named_by_its_variable_and_never_by_value(workspace, judge: Judge, monkeypatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret-value")
    judge.script = {"": [Step(status=401, text="sk-very-secret-value")]}
    found, trouble = judged(
        comparison(WRONG, BETTER), seated(judge, **{"label.api_key_env": "JUDGE_KEY"}), workspace, ignore
    )
    assert isinstance(trouble, TeacherFailed)
    assert "JUDGE_KEY" in trouble.remedy
    assert "very-secret" not in f"{trouble} {found.model_dump_json()}"


def test_a_ledger_that_is_none_leaves_the_comparison(workspace: Workspace, judge: Judge, events: list[Event]) -> None:
    workspace.ledger("label").parent.mkdir(parents=True, exist_ok=True)
    workspace.ledger("label").write_bytes(b"no database, " * 100)
    found, trouble = judged(comparison(WRONG, BETTER), seated(judge), workspace, events.append)
    assert trouble is not None
    assert str(workspace.ledger("label")) in trouble.problem
    assert found.judging is None
    assert judge.sent == []


def test_a_model_that_gave_no_answer_loses_to_one_that_did(workspace: Workspace, judge: Judge) -> None:
    found, _ = judged(comparison(["", "said", ""], ["said", "", ""]), seated(judge), workspace, ignore)
    assert found.judging is not None
    assert found.judging.against[0].outcomes == ("won", "lost", "tied")
    assert judge.sent == []


def test_personal_data_is_replaced_before_a_judge_sees_it(workspace: Workspace, judge: Judge) -> None:
    told = ["Write to ada@example.com.", "Nobody."]
    judged(comparison(told, ["RIGHT ada@example.com", "Bob"]), seated(judge, **{"label.redact": True}), workspace, ignore)
    assert judge.sent
    assert "ada@example.com" not in json.dumps([request.body for request in judge.sent])
    assert "<EMAIL_1>" in judge.sent[0].last


def test_the_profile_s_own_judge_keeps_its_rubric_and_its_endpoint(judge: Judge) -> None:
    own = {"teacher": "qwen3-8b", "base_url": judge.base_url, "rubric": "Choose the rhyme."}
    told = {"label.samples": {"count": 2, "choice": "judge", "judge": own}, "label.temperature": 0.5}
    found = jury("qwen3-8b", config.load("demo", told), PROFILES, ignore)
    assert found.bench.judge.rubric == "Choose the rhyme."
    assert found.bench.config.base_url == judge.base_url
    assert found.bench.config.prices is None


def test_judges_that_cannot_be_asked_are_refused_before_anything_is_done(monkeypatch) -> None:
    demo = config.load("demo")
    with pytest.raises(BadConfig, match="'nobody' is not known"):
        jury("nobody", demo, PROFILES, ignore)
    with pytest.raises(BadConfig):
        jury("../../etc/passwd", demo, PROFILES, ignore)
    with pytest.raises(UsageError, match="--judge qwen3-8b is asked behind an endpoint, and none is named") as refused:
        jury("qwen3-8b", demo, PROFILES, ignore)
    assert "--set label.base_url=" in refused.value.remedy
    monkeypatch.delenv("NOT_SET", raising=False)
    keyless = config.load("demo", {"label.base_url": "http://127.0.0.1:9/v1", "label.api_key_env": "NOT_SET"})
    with pytest.raises(ToolMissing, match="NOT_SET is not set"):
        jury("qwen3-8b", keyless, PROFILES, ignore)


def test_the_report_tells_who_judged_how_far_it_can_be_trusted_and_what_it_took(workspace: Workspace, judge: Judge) -> None:
    found, _ = judged(comparison(WRONG, [*BETTER[:8], "<script>x</script>", "same"]), seated(judge), workspace, ignore)
    table = render(comparison_tables(found)[2], "text", width=200)
    assert "Against m0, judged by qwen3-8b" in table
    assert "both orders agree" in table
    assert "It took 20 requests, 200 tokens, an unknown cost: label.prices is not set" in " ".join(table.split())
    page = page_html(comparison_page(found))
    assert "m1 is better in judge&#39;s choice than m0." in page
    assert page.count("won against the first") == 8
    assert "<script>x" not in page


def test_what_a_model_s_figures_do_not_cover_is_told() -> None:
    made = comparison(["said", "said"], ["said", "said"])
    silent = made.models[1].answers[0].model_copy(update={"text": "", "trouble": "the prompt has 9000 tokens"})
    other = made.models[1].model_copy(update={"answers": (silent, made.models[1].answers[1])})
    told = render(comparison_tables(made.model_copy(update={"models": (made.models[0], other)}))[0], "json")
    assert "m1 gave no answer to 1 prompt, the first: the prompt has 9000 tokens" in told
    assert "m1 has no loss on 2 prompts" in told
    assert "m1 has no figure in common with m0." in page_html(comparison_page(made))


def test_a_judging_is_no_labelling_for_its_status(workspace: Workspace, judge: Judge) -> None:
    judged(comparison(WRONG, BETTER), seated(judge), workspace, ignore)
    with open_ledger(workspace.ledger("label")) as ledger:
        (session,) = ledger.sessions()
        assert (session.teacher, session.ended, session.questions, session.done) == ("qwen3-8b", "done", 18, 18)
    with read_ledger(workspace.ledger("label")) as ledger:
        assert status(ledger) is None


@pytest.mark.full
@pytest.mark.model
def test_the_model_in_this_process_judges_real_answers(
    workspace: Workspace, default_gguf: Path, toolchain: Any, tmp_path: Path
) -> None:
    entrants = [Entrant("whole", default_gguf), Entrant("same", default_gguf)]
    setting = Setting(folder=tmp_path, toolchain=toolchain, max_tokens=8, timeout_s=300)
    asked = tuple(map(question, range(3)))
    made = compare(entrants, asked, "the test", setting)
    other = made.models[1]
    shorter = tuple(given.model_copy(update={"text": given.text[:9]}) for given in other.answers)
    made = made.model_copy(update={"models": (made.models[0], other.model_copy(update={"answers": shorter}))})
    chosen = jury("smollm2-135m-instruct", config.load("demo"), PROFILES, ignore)
    found, trouble = judged(made, chosen, workspace, ignore)
    assert trouble is None
    assert found.judging is not None
    (told,) = found.judging.against
    assert told.won + told.tied + told.lost == 3
    assert found.judging.spent.answered == 6
    assert found.judging.identity.startswith("sha256:")
