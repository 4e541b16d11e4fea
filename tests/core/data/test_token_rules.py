"""What the student's template and its longest chat leave of a row: counted as training counts it, judged by rules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.config import DataConfig, load
from core.contract import Severity, Stage
from core.data.record import LabeledRow, Message, Reject, read_prompts
from core.data.student import student_of
from core.data.token_rules import Chat, ChatTokens, Student, token_flaws
from core.data.tokens import tokenise
from core.data.validate import validate
from core.data.worker import TokenCounter
from core.files import read_json_lines
from core.nouns import Dataset
from core.workspace import Workspace

TURNS = [{"role": "user", "content": "What is a kiln?"}, {"role": "assistant", "content": "An oven for clay."}]
LENIENT = {"min_rows": 2, "max_rejected_share": 1.0}


def chat(*turns: dict[str, Any], answered: bool = True) -> Chat:
    return Chat(list(turns), None, answered)


def test_tokens_are_counted_as_training_counts_them(tiny_student: Path, tmp_path: Path) -> None:
    questions = ["What is a kiln?", "Ça cuit l'argile 🏺?", "x" * 300]
    rows = [
        LabeledRow(
            row_id=str(number),
            split="train",
            messages=(Message(role="user", content=text), Message(role="assistant", content=f"It is {text}")),
        )
        for number, text in enumerate(questions)
    ]

    trained = tokenise(rows, tiny_student, 4096, tmp_path)
    counted = TokenCounter(tiny_student).count([chat(*(m.for_template() for m in row.messages)) for row in rows])

    for row, tokens in zip(trained, counted, strict=True):
        assert tokens.prompt == row.completion_mask.index(1)
        assert len(row.input_ids) <= tokens.total <= len(row.input_ids) + 2  # what follows the end of the turn
        assert tokens.ends
        assert not tokens.bos_twice


def changed(tiny_student: Path, folder: Path, template: str) -> Path:
    shutil.copytree(tiny_student, folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ raise_exception('roles must alternate') }}", "template-refuses"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "no-end-of-turn"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "template-refuses"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_told_of_every_row(
    tiny_student: Path, tmp_path: Path, template: str, code: str
) -> None:
    counter = TokenCounter(changed(tiny_student, tmp_path / "student", template))
    asked = chat(*TURNS)

    (flaw,) = token_flaws(counter.count([asked])[0], asked, 4096)

    assert (flaw.code, flaw.severity) == (code, Severity.ERROR)
    assert flaw.remedy


def test_each_rule_names_its_figures() -> None:
    asked = chat(*TURNS)
    told = {
        "no-trainable-token": token_flaws(ChatTokens(total=90, prompt=64), asked, 64),
        "bos-twice": token_flaws(ChatTokens(total=9, prompt=4, bos_twice=True), asked, 64),
        "answer-cut": token_flaws(ChatTokens(total=65, prompt=63), asked, 64),
        "no-end-of-turn": token_flaws(ChatTokens(total=9, prompt=4, ends=False), asked, 64),
    }

    assert {code: [flaw.code for flaw in flaws] for code, flaws in told.items()} == {code: [code] for code in told}
    assert "64 tokens >= train.max_length 64" in told["no-trainable-token"][0].reason
    assert told["answer-cut"][0].severity is Severity.WARNING
    assert token_flaws(ChatTokens(total=64, prompt=63), asked, 64) == ()
    unanswered = chat(TURNS[0], answered=False)
    assert token_flaws(ChatTokens(total=9, prompt=9, ends=False), unanswered, 64) == ()


def published(workspace: Workspace, path: Path, student: Student | None) -> tuple[Dataset, list[Reject]]:
    dataset = validate(DataConfig(sources=(str(path),), **LENIENT), workspace, student=student)
    folder = workspace.folder(Stage.DATA, dataset.artifact_id)
    return dataset, [Reject.model_validate(record) for record in read_json_lines(folder / "rejects.jsonl")]


def test_rows_without_room_for_an_answer_are_set_aside(workspace: Workspace, tmp_path: Path, tiny_student: Path) -> None:
    long = " ".join(f"word{number}" for number in range(200))
    lines = [
        {"messages": TURNS},
        {"prompt": "What is clay?"},
        {"messages": [{"role": "user", "content": long}, TURNS[1]]},
        {"prompt": long, "context": "none"},
        {"messages": [TURNS[0], {"role": "assistant", "content": long}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    without, nothing = published(workspace, path, None)
    dataset, rejects = published(
        workspace, path, Student(folder=str(tiny_student), max_length=128, context_distillation=False)
    )

    assert (without.rows, nothing) == (5, [])
    assert without.artifact_id != dataset.artifact_id
    assert [(reject.where, reject.code) for reject in rejects] == [
        (f"{path}:3", "no-trainable-token"),
        (f"{path}:4", "no-trainable-token"),
    ]
    assert [row.user[:9] for row in read_prompts(workspace.folder(Stage.DATA, dataset.artifact_id))] == [
        "What is a",
        "What is c",
        "What is a",
    ]
    assert "data-answer-cut" in {finding.code for finding in dataset.findings}


def test_a_tokenizer_that_is_not_at_hand_is_told(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n', encoding="utf-8")

    dataset, _ = published(workspace, path, Student(folder="", max_length=128, context_distillation=False))

    (finding,) = [finding for finding in dataset.findings if finding.code == "data-tokens-not-counted"]
    assert finding.severity is Severity.INFO


def test_the_profile_says_whether_tokens_are_counted(tmp_path: Path, tiny_student: Path) -> None:
    card = tmp_path / "models" / "mine.yaml"
    card.parent.mkdir()
    card.write_text(
        f"{{name: mine, roles: [student], source: {{kind: local, path: {tiny_student}}}, parameters: 1, hidden_size: 64, "
        "licence: MIT, chat_template: chatml, memory_mib: 1}",
        encoding="utf-8",
    )
    here = load("demo", ["train.student=mine", "data.token_rules=true", "train.max_length=64"])

    found = student_of(here, tmp_path)

    assert found == Student(folder=str(tiny_student), max_length=64, context_distillation=True)
    assert student_of(load("demo"), None) is None
    far = student_of(load("desktop", ["data.token_rules=true"]), None)
    assert far is not None
    assert far.max_length == 1024
