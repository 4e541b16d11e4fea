"""Real GGUF files held against each other on real prompts, and what cannot be compared."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from core.compare import answers, entrants
from core.compare.comparison import LOSS, Comparison, Entrant, Setting, compare
from core.compare.questions import Question, of_file
from core.errors import BrokenRecord, GateRefused, SourceEmpty, SourceMissing, UsageError
from core.events import Event, Progress, ignore
from core.report.comparison import comparison_page, differences_table, models_table
from core.report.page import page_html
from core.report.render import render
from core.toolchain import Toolchain
from core.workspace import Workspace

FACTS = {
    "What is the capital of France?": "Paris",
    "What colour is the sky on a clear day?": "Blue",
    "How many days are in a week?": "Seven",
    "What is the opposite of hot?": "Cold",
    "Which planet do we live on?": "Earth",
    "What do bees make?": "Honey",
    "What is frozen water called?": "Ice",
    "What is the largest ocean on Earth?": "The Pacific Ocean is the largest and deepest of the world's oceans.",
    "Why do leaves fall in autumn?": "Trees drop their leaves in autumn to save water and energy during the winter.",
    "What is bread made of?": "Bread is made of flour, water, salt and usually yeast, which makes it rise.",
}
ROW = '{"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}'


def rows_file(folder: Path, facts: dict[str, str] = FACTS) -> Path:
    path = folder / "rows.jsonl"
    turns = ([{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in facts.items())
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Question, ...]:
    return of_file(rows_file(tmp_path_factory.mktemp("rows")), 99)


@pytest.fixture(scope="module")
def coarse(toolchain: Any, default_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("coarse") / "coarse-Q2_K.gguf"
    program = str(toolchain.program("llama-quantize"))
    pure = ["--pure", "--token-embedding-type", "q4_0"]
    argv = [program, "--allow-requantize", *pure, str(default_gguf), str(made), "Q2_K"]
    subprocess.run(argv, check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def setting(toolchain: Any, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(folder=tmp_path_factory.mktemp("comparisons"), toolchain=toolchain, max_tokens=12, timeout_s=300)


@pytest.fixture(scope="module")
def heard() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def compared(default_gguf, coarse, questions, setting, heard) -> Comparison:
    same = Entrant("same", default_gguf)
    return compare(
        [Entrant("fine", default_gguf), same, Entrant("coarse", coarse)], questions, "facts", setting, heard.append
    )


@pytest.mark.model
def test_a_model_is_as_good_as_itself_and_one_of_two_bits_is_worse(compared: Comparison) -> None:
    itself, worse = ({one.metric: one for one in told} for told in compared.differences)
    assert {one.verdict for one in itself.values()} <= {"no clear difference", "too few prompts"}
    assert itself[LOSS].difference == 0
    assert worse[LOSS].verdict == "worse"
    assert worse[LOSS].difference > 0
    assert worse["exact_match"].prompts == 7
    assert worse["exact_match"].verdict == "too few prompts"
    assert compared.models[0].metrics == compared.models[1].metrics


@pytest.mark.model
def test_figures_come_from_the_answers_and_every_step_is_told(compared: Comparison, heard: list[Event]) -> None:
    fine = compared.models[0]
    right = [one.exact_match for one in fine.scores if one.exact_match is not None]
    assert fine.metrics["exact_match"] == sum(right) / len(right)
    assert fine.tokens_per_s is not None
    assert all(one.text and one.nats and one.trouble is None for one in fine.answers)
    size = sum(len(question.answer.content.encode()) for question in compared.questions)
    assert fine.metrics[LOSS] == pytest.approx(sum(one.nats or 0 for one in fine.answers) / size)
    tasks = {event.task.split()[0] for event in heard if isinstance(event, Progress)}
    assert tasks == {"answers", "loss"}


@pytest.mark.model
def test_answers_that_are_there_are_not_asked_for_again(compared, default_gguf, questions, setting, monkeypatch) -> None:
    monkeypatch.setattr(answers, "call", lambda *_, **__: pytest.fail("asked a second time"))
    again = compare([Entrant("fine", default_gguf)] * 2, questions, "facts", setting)
    assert again.models[0].answers == compared.models[0].answers


@pytest.mark.model
def test_a_file_that_does_not_run_is_named(default_gguf, questions, setting, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(default_gguf.read_bytes()[:-1000])
    with pytest.raises(GateRefused, match=r"/cut\.gguf: .*ends at byte \d+"):
        compare([Entrant("cut", cut)] * 2, questions[:1], "facts", setting)


@pytest.mark.model
def test_a_file_whose_weights_overflow_is_no_model_without_a_loss(default_gguf, questions, setting, tmp_path: Path) -> None:
    from gguf import GGUFReader

    huge = tmp_path / "huge.gguf"
    huge.write_bytes(default_gguf.read_bytes())
    norm = next(tensor for tensor in GGUFReader(huge, "r+").tensors if tensor.name == "output_norm.weight")
    norm.data[:] = 3e38
    norm.data.flush()
    with pytest.raises(GateRefused, match=r"/huge\.gguf: its loss on a prompt of \d+ tokens is nan: its weights overflow"):
        compare([Entrant("huge", huge)] * 2, questions[:1], "facts", setting)


@pytest.mark.model
def test_rows_that_share_an_id_keep_their_own_answers(default_gguf, questions, setting) -> None:
    twins = tuple(question.model_copy(update={"row_id": "same"}) for question in questions[:3])
    found = compare([Entrant("fine", default_gguf)] * 2, twins, "facts", setting).models[0]
    apart = compare([Entrant("fine", default_gguf)] * 2, questions[:3], "facts", setting).models[0]
    assert [one.text for one in found.answers] == [one.text for one in apart.answers]
    assert [one.nats for one in found.answers] == [one.nats for one in apart.answers]
    assert len({one.nats for one in found.answers}) == 3


@pytest.mark.model
def test_the_report_shows_figures_verdicts_and_every_answer(compared: Comparison) -> None:
    assert [row[0] for row in models_table(compared).rows] == ["fine", "same", "coarse"]
    assert "worse" in {row[-1] for row in differences_table(compared).rows}
    assert "of a bootstrap" in render(differences_table(compared), "text")
    page = page_html(comparison_page(compared))
    assert "coarse is worse in loss than fine." in page
    assert "same is not clearly different from fine." in page
    for question in FACTS:
        assert question.replace("'", "&#39;") in page
    assert compared.models[2].answers[0].text.split()[0] in page


def test_names_that_stand_for_nothing_say_what_may_be_named(workspace: Workspace, tmp_path: Path, toolchain) -> None:
    kept, empty = ExitStack(), tmp_path / "empty"
    empty.mkdir()
    several = tmp_path / "several"
    several.mkdir()
    for kind in ("Q8_0", "Q4_0"):
        (several / f"model-{kind}.gguf").write_bytes(b"GGUF")
    for name, said in {
        "nothing": "is no export",
        str(tmp_path / "gone.gguf"): "is no export",
        str(empty): "holds no GGUF file and no Hugging Face model",
        str(several): "holds 2 files for one model",
        f"{several}:Q6_K": "holds 0 files for Q6_K",
        "../../etc/passwd": "is no export",
        "": "is no export",
    }.items():
        with pytest.raises(UsageError, match=said):
            entrants.find(name, workspace, kept, toolchain, ignore)
    found = entrants.find(f"{several}:Q4_0", workspace, kept, toolchain, ignore)
    assert found.entrant.gguf == several / "model-Q4_0.gguf"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    shut = tmp_path / "shut.gguf"
    shut.symlink_to("/proc/self/mem")  # whose first bytes nobody may read, root neither
    setting = Setting(folder=tmp_path, toolchain=Toolchain.model_construct(), max_tokens=1, timeout_s=1)
    with pytest.raises(UsageError, match=r"/shut\.gguf cannot be read: Input/output error"):
        compare([Entrant("shut", shut)] * 2, (), "facts", setting)


def test_models_of_one_name_are_told_apart() -> None:
    told = [
        ("x.gguf", "a/x.gguf"),
        ("x.gguf", "b/x.gguf"),
        ("demo:Q8_0", "q8"),
        ("demo:Q8_0", "q8"),
        ("x.gguf", "a/x.gguf"),
    ]
    found = entrants.told_apart([Entrant(name, Path(path)) for name, path in told])
    assert [one.name for one in found] == ["a/x.gguf", "b/x.gguf", "demo:Q8_0", "demo:Q8_0 (2)", "a/x.gguf (2)"]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", SourceEmpty, "holds no rows"),
        ("{", BrokenRecord, r":1: it is no JSON object"),
        (f"{ROW}\n\n{ROW}\n{{\n", BrokenRecord, r":4: it is no JSON object"),
        ("[" * 100_000, BrokenRecord, r":1: it is no JSON object"),
        (ROW.replace("2", r"\ud800"), BrokenRecord, r":1: .*half of a surrogate pair stands alone"),
        (ROW[:-1] + ', "tool_schema": {"type": "nonsense"}}', BrokenRecord, ":1: its tool_schema cannot be used"),
        (ROW[:-1] + ', "tool_schema": {"maximum": NaN}}', BrokenRecord, ":1: "),
        (ROW.replace('"2"', '"2", "tool_calls": [{"function": "f"}]'), BrokenRecord, ":1: a tool call is not of the form"),
        (ROW[:-1] + r', "\u001b[31m": 1}', BrokenRecord, r":1: \\x1b\[31m: Extra inputs"),
        ("[1]\n", BrokenRecord, ":1: it is no JSON object: it is list"),
        ('{"messages": []}\n', BrokenRecord, ":1: its last of >= 2 messages"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}\n', BrokenRecord, ":1: "),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}\n',
            BrokenRecord,
            "assistant's",
        ),
        (b"\xff\xfe", BrokenRecord, ":1: 'utf-8' codec can't decode"),
    ],
)
def test_rows_that_cannot_be_asked_name_file_and_line(tmp_path: Path, text: str | bytes, kind: type, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(kind, match=said) as refused:
        of_file(path, 9)
    assert str(path) in refused.value.problem


def test_empty_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{ROW}\n\n  \r\n{ROW}".encode())
    assert [question.row_id for question in of_file(path, 9)] == ["1", "4"]


def test_a_device_without_lines_does_not_fill_the_memory() -> None:
    with pytest.raises(BrokenRecord, match=r"/dev/zero:1: the line has > \d+ bytes"):
        of_file(Path("/dev/zero"), 9)


def test_a_sample_of_a_file_stays_when_the_file_grows(tmp_path: Path) -> None:
    facts = {f"What is {number} and {number}?": f"{2 * number}" for number in range(300)}
    few = dict(list(facts.items())[:200])
    asked = [one.messages[0].content for one in of_file(rows_file(tmp_path, few), 20)]
    assert asked == [question for question in facts if question in asked]  # in the file's order
    assert asked != list(facts)[:20]
    grown = [one.messages[0].content for one in of_file(rows_file(tmp_path, facts), 20)]
    assert set(grown) & set(few) <= set(asked)
    assert len(set(grown) & set(asked)) >= 10
    turned = dict(reversed(facts.items()))
    assert {one.messages[0].content for one in of_file(rows_file(tmp_path, turned), 20)} == set(grown)
    assert len(of_file(rows_file(tmp_path, few), 999)) == 200


def test_rows_that_are_not_there_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.jsonl"):
        with pytest.raises(SourceMissing, match=path.name):
            of_file(path, 9)


def test_a_half_written_memory_of_answers_is_no_memory(tmp_path: Path) -> None:
    kept = tmp_path / "a.json"
    assert answers._known(kept) is None
    for data in (b"", b"{", b'{"given": []'):
        kept.write_bytes(data)
        assert answers._known(kept) is None
