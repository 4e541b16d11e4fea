"""The data stage: identity by bytes, every record out once, the gate, and real files."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import DataConfig
from core.contract import Severity, Stage
from core.data.record import PromptRow, Reject, read_prompts
from core.data.validate import validate
from core.errors import BrokenRecord, DataError, NoRowsLeft, NotUtf8
from core.events import Event, Found, Note, Progress, StageReused
from core.files import read_json_lines, sha256_of
from core.nouns import Dataset
from core.workspace import Workspace, artifacts, open_workspace, verify

REAL = Path(__file__).parents[2] / "data"
LENIENT = {"min_rows": 2, "max_rejected_share": 1.0}


def put(path: Path, lines: Sequence[str | dict[str, Any]]) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_bytes("".join(f"{text}\n" for text in texts).encode())
    return str(path)


def questions(count: int) -> list[dict[str, Any]]:
    return [{"user": f"Question {n}?"} for n in range(count)]


def rows_of(workspace: Workspace, dataset: Dataset) -> list[PromptRow]:
    return list(read_prompts(workspace.folder(Stage.DATA, dataset.artifact_id)))


def rejects_of(workspace: Workspace, dataset: Dataset) -> list[Reject]:
    path = workspace.folder(Stage.DATA, dataset.artifact_id) / "rejects.jsonl"
    return [Reject.model_validate(record) for record in read_json_lines(path)]


def published(sources: Sequence[str], workspace: Workspace, **config: Any) -> Dataset:
    """Validate and return what was published, whether the gate let it pass or not."""
    try:
        return validate(DataConfig(sources=tuple(sources), **{**LENIENT, **config}), workspace)
    except (NoRowsLeft, BrokenRecord):
        (dataset,) = [found for found in artifacts(workspace, Stage.DATA) if isinstance(found, Dataset)]
        return dataset


def test_the_real_records_pass_without_a_finding(workspace: Workspace, events: list[Event]) -> None:
    config = DataConfig(sources=(str(REAL / "quebecois_*.jsonl"),))

    dataset = validate(config, workspace, events.append)

    assert (dataset.rows, dataset.rejected, dataset.findings) == (47, 0, ())
    assert [(source.shape, source.records) for source in dataset.sources] == [("record", 30), ("record", 17)]
    assert dataset.train_rows + dataset.held_out_rows == 47
    assert dataset.held_out_rows >= 4
    rows = rows_of(workspace, dataset)
    weather = next(row for row in rows if row.tool_name == "GetWeather")
    assert weather.requires_json
    assert weather.tool_schema
    assert weather.extra["tags"] == ["météo", "tool", "québécois"]
    assert any(isinstance(event, Progress) and event.done == event.total for event in events)
    verify(workspace, dataset)


def test_the_builtin_source_lies_beside_its_rows_with_its_hash(workspace: Workspace) -> None:
    dataset = validate(DataConfig(sources=("builtin:python-docs",)), workspace)

    (source,) = dataset.sources
    assert (dataset.rows, dataset.rejected) == (96, 0)
    assert 16 <= dataset.held_out_rows <= 32
    assert source.name == f"builtin:python-docs of Python {platform.python_version()}"
    file = workspace.folder(Stage.DATA, dataset.artifact_id) / "builtin-python-docs.jsonl"
    assert sha256_of(file) == source.sha256 == dataset.inputs[0]
    assert all(row.context and row.system for row in rows_of(workspace, dataset))


def test_broken_json_on_line_7_is_set_aside_and_the_good_rows_survive(workspace: Workspace, tmp_path: Path) -> None:
    lines: list[str | dict[str, Any]] = [*questions(6), '{"user": "coupé', *questions(20)[6:]]
    source = put(tmp_path / "rows.jsonl", lines)

    dataset = validate(DataConfig(sources=(source,)), workspace)

    (reject,) = rejects_of(workspace, dataset)
    (finding,) = dataset.findings
    assert dataset.rows == 20
    assert (reject.where, reject.code) == (f"{source}:7", "json-broken")
    assert (finding.where, finding.code, finding.severity) == (f"{source}:7", "data-json-broken", Severity.ERROR)
    assert "coupé" in finding.evidence


def test_too_many_rejects_publish_and_then_name_the_worst(
    workspace: Workspace, tmp_path: Path, events: list[Event]
) -> None:
    source = put(tmp_path / "rows.jsonl", [*questions(10), {"user": ""}, {"user": " "}, "{", "[]"])
    config = DataConfig(sources=(source,))

    with pytest.raises(BrokenRecord) as caught:
        validate(config, workspace, events.append)

    assert "28.6% of rows rejected > data.max_rejected_share 20.0%" in caught.value.problem
    assert f"{source}:11 the question is empty (2 rows were set aside)" in caught.value.problem
    assert caught.value.exit_status == 3
    assert len(str(caught.value).splitlines()) == 2
    (dataset,) = artifacts(workspace, Stage.DATA)
    assert not dataset.verdict.passed
    assert sum(isinstance(event, Found) for event in events) == 3

    table = [event.text for event in events if isinstance(event, Note)]
    assert table[1].split()[:2] == ["rows", "rule"]
    assert table[2].split()[:3] == ["2", "data-empty-user", f"{source}:11"]
    assert len(table) == 5

    with pytest.raises(BrokenRecord):  # a reused dataset is judged by the same gate
        validate(config, workspace)
    told = len(events)
    again = validate(config.model_copy(update={"max_rejected_share": 0.5}), workspace, events.append)
    assert again.artifact_id == dataset.artifact_id
    assert sum(isinstance(event, Found) for event in events[told:]) == 3  # and tells what was set aside once more


def test_too_few_rows_stop_the_run(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NoRowsLeft, match=r"7 good rows < data\.min_rows 8"):
        validate(DataConfig(sources=(put(tmp_path / "rows.jsonl", questions(7)),)), workspace)


def test_one_row_is_not_called_rows(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NoRowsLeft, match=r"1 good row < data\.min_rows 8"):
        validate(DataConfig(sources=(put(tmp_path / "rows.jsonl", questions(1)),)), workspace)


def test_a_file_of_nothing_but_rubbish_is_told_with_its_reason(workspace: Workspace, tmp_path: Path) -> None:
    source = put(tmp_path / "table.txt", ["prompt,answer", "a,b"])

    with pytest.raises(NoRowsLeft, match=r"0 good rows < data\.min_rows 8: .*table\.txt:1 no JSON: Expecting value"):
        validate(DataConfig(sources=(source,)), workspace)


def test_a_line_that_is_not_utf8_is_set_aside_by_its_byte(workspace: Workspace, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in questions(9)]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*lines[:4], b'{"user": "\xe9"}', *lines[4:]]))

    dataset = validate(DataConfig(sources=(str(tmp_path / "rows.jsonl"),)), workspace)

    (reject,) = rejects_of(workspace, dataset)
    assert (dataset.rows, reject.code, reject.where) == (9, "not-utf8", f"{tmp_path / 'rows.jsonl'}:5")
    assert reject.reason == "not UTF-8 at byte 11 of the line, byte 107 of the file (0xe9)"


def test_utf16_leaves_no_artifact(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"user": "a"}', encoding="utf-16")

    with pytest.raises(NotUtf8, match="the file is UTF-16"):
        validate(DataConfig(sources=(str(tmp_path / "rows.jsonl"),)), workspace)
    assert artifacts(workspace, Stage.DATA) == []


def test_a_duplicate_names_the_line_it_repeats(workspace: Workspace, tmp_path: Path) -> None:
    lines = [*questions(10), {"user": "Question 3?", "tags": ["other"]}, {"user": "Question 3?", "system_hint": "other"}]
    source = put(tmp_path / "rows.jsonl", lines)

    dataset = validate(DataConfig(sources=(source,)), workspace)

    (reject,) = rejects_of(workspace, dataset)
    assert (dataset.rows, reject.where, reject.code) == (11, f"{source}:11", "duplicate")
    assert reject.reason == f"asks exactly what {source}:4 asks"


def test_a_dataset_edited_at_the_same_path_is_another_artifact(workspace: Workspace, tmp_path: Path) -> None:
    source = put(tmp_path / "rows.jsonl", questions(20))
    first = published([source], workspace)
    put(tmp_path / "rows.jsonl", [*questions(19), {"user": "Autre chose?"}])

    assert published([source], workspace).artifact_id != first.artifact_id


def test_the_same_bytes_at_another_path_are_reused(workspace: Workspace, tmp_path: Path, events: list[Event]) -> None:
    first = published([put(tmp_path / "a.jsonl", questions(20))], workspace)
    config = DataConfig(sources=(put(tmp_path / "b.jsonl", questions(20)),), builtin_rows=50, min_rows=9)

    again = validate(config, workspace, events.append)

    assert again.artifact_id == first.artifact_id
    assert [type(event) for event in events] == [StageReused]


def test_a_reject_more_leaves_the_content_as_it_was(workspace: Workspace, tmp_path: Path) -> None:
    first = published([put(tmp_path / "a.jsonl", questions(20))], workspace)
    second = published([put(tmp_path / "a.jsonl", [*questions(20), "{"])], workspace)

    assert first.artifact_id != second.artifact_id
    assert first.content_digest == second.content_digest


def test_rows_keep_their_side_when_the_file_grows(workspace: Workspace, tmp_path: Path) -> None:
    small = rows_of(workspace, published([put(tmp_path / "a.jsonl", questions(60))], workspace))
    large = rows_of(workspace, published([put(tmp_path / "a.jsonl", questions(600))], workspace))

    sides = {row.row_id: row.split for row in large}
    assert all(sides[row.row_id] == row.split for row in small)


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_small_set_has_both_sides(workspace: Workspace, tmp_path: Path, share: float) -> None:
    source = put(tmp_path / "a.jsonl", questions(5))

    dataset = published([source], workspace, held_out_share=share)

    assert sorted((dataset.train_rows, dataset.held_out_rows)) == [1, 4]
    splits = [row.split for row in rows_of(workspace, dataset)]
    assert (splits.count("train"), splits.count("held_out")) == (dataset.train_rows, dataset.held_out_rows)


def test_one_question_falls_on_one_side_whatever_the_hint(workspace: Workspace, tmp_path: Path) -> None:
    lines = [{"user": f"Question {n}?", "system_hint": hint} for n in range(40) for hint in ("a", "b", "c")]

    rows = rows_of(workspace, published([put(tmp_path / "a.jsonl", lines)], workspace))

    assert len({(row.user, row.split) for row in rows}) == 40


def test_shapes_may_be_mixed_and_unknown_fields_are_kept(workspace: Workspace, tmp_path: Path) -> None:
    lines = [
        {"prompt": "p", "id": 1},
        {"messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "yes"}]},
        *questions(8),
    ]

    dataset = validate(DataConfig(sources=(put(tmp_path / "a.jsonl", lines),)), workspace)

    assert dataset.sources[0].shape == "chat+prompt+record"
    first, second = rows_of(workspace, dataset)[:2]
    assert first.extra == {"id": 1}
    assert second.completion == "yes"


LINES = st.one_of(
    st.builds(lambda text: json.dumps({"user": text}), st.text(max_size=8)),
    st.builds(lambda text: json.dumps({"user": text}), st.sampled_from(["a", "b", "c"])),
    st.builds(lambda text: json.dumps({"messages": [{"role": "user", "content": text}]}), st.text(max_size=4)),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n"), max_size=12),
    st.sampled_from(['{"user": "a", "user": "b"}', '{"user": NaN}', "[]", "{", "", "  ", '{"user": "\\ud800"}']),
)


def write_lines(path: Path, lines: list[str]) -> str:
    path.write_bytes("\n".join(lines).encode())
    return str(path)


@settings(deadline=None, max_examples=30)
@given(st.lists(LINES, max_size=12), st.lists(LINES, max_size=6))
def test_every_line_comes_out_once_in_any_order_of_files_and_again_the_same(one: list[str], two: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [
            write_lines(folder / "one.jsonl", [*one, '{"user": "x"}']),
            write_lines(folder / "two.jsonl", ["{", *two]),
        ]
        first, second = open_workspace(folder / "first"), open_workspace(folder / "second")

        dataset, turned = published(sources, first), published(sources[::-1], second)

        lines = {
            f"{source}:{number}"
            for source in sources
            for number, line in enumerate(Path(source).read_bytes().split(b"\n"), start=1)
            if line.strip()
        }
        rejects, rows = rejects_of(first, dataset), rows_of(first, dataset)
        assert len(rows) + len(rejects) == len(lines) == sum(source.records for source in dataset.sources)
        assert len({reject.where for reject in rejects}) == len(rejects)
        assert {reject.where for reject in rejects} <= lines
        assert len({row.row_id for row in rows}) == len(rows)
        assert (turned.artifact_id, turned.content_digest) == (dataset.artifact_id, dataset.content_digest)
        assert rejects_of(second, turned) == rejects

        kept = [{"user": row.user} for row in rows]
        third = open_workspace(folder / "third")
        again = published([put(folder / "kept.jsonl", kept)], third)
        assert (again.rejected, again.rows) == (0, len(rows))
        assert [(row.row_id, row.split) for row in rows_of(third, again)] == [(row.row_id, row.split) for row in rows]


def words(seed: int, count: int) -> str:
    return " ".join(f"w{seed}x{number}" for number in range(count))


def warnings_of(workspace: Workspace, dataset: Dataset) -> list[Reject]:
    path = workspace.folder(Stage.DATA, dataset.artifact_id) / "warnings.jsonl"
    return [Reject.model_validate(record) for record in read_json_lines(path)]


def test_rows_that_differ_in_case_and_white_space_alone_are_duplicates(workspace: Workspace, tmp_path: Path) -> None:
    lines = [*questions(9), {"user": "  QUESTION\t3? "}, {"user": "Question 3?", "completion": "Yes, it is."}]

    dataset = published([put(tmp_path / "a.jsonl", lines)], workspace)

    (reject,) = rejects_of(workspace, dataset)
    assert (reject.code, reject.where) == ("duplicate", f"{tmp_path / 'a.jsonl'}:10")


def test_rows_that_resemble_each_other_are_kept_on_one_side_and_told(workspace: Workspace, tmp_path: Path) -> None:
    text = words(0, 60)
    lines = [*({"user": f"{text} {number}"} for number in range(12)), *({"user": words(n, 40)} for n in range(1, 30))]
    source = put(tmp_path / "a.jsonl", lines)

    dataset = published([source], workspace)

    rows = rows_of(workspace, dataset)
    assert len(rows) == 41
    assert len({row.split for row in rows[:12]}) == 1
    alike = [warning for warning in warnings_of(workspace, dataset) if warning.code == "near-duplicate"]
    assert len(alike) == 11
    assert all(warning.severity is Severity.WARNING for warning in alike)
    (cluster,) = read_json_lines(workspace.folder(Stage.DATA, dataset.artifact_id) / "clusters.jsonl")
    assert cluster["rows"] == 12
    assert cluster["representative"] not in {warning.where for warning in alike}
    (finding,) = [finding for finding in dataset.findings if finding.code == "data-near-duplicate"]
    assert finding.evidence.startswith("11 rows were kept with a warning")


def test_a_passage_of_a_held_out_row_in_a_training_row_is_told(workspace: Workspace, tmp_path: Path) -> None:
    shared = words(99, 14)
    lines = [{"user": f"{words(number, 40)} {shared} {words(number + 500, 40)}"} for number in range(24)]
    source = put(tmp_path / "a.jsonl", lines)

    dataset = published([source], workspace, duplicates={"min_shared": 0.02})

    told = [warning for warning in warnings_of(workspace, dataset) if warning.code == "split-overlap"]
    assert len(told) == dataset.train_rows
    assert all(warning.excerpt in shared for warning in told)
    held_out = [n for n, row in enumerate(rows_of(workspace, dataset), start=1) if row.split == "held_out"]
    part = f"4% of the passages of held-out {source}:{held_out[0]} stand in it"
    assert told[0].reason == f"{part} >= data.duplicates.min_shared 2%"


def test_rows_that_hold_passages_of_evaluation_files_are_told(workspace: Workspace, tmp_path: Path) -> None:
    exam = put(tmp_path / "exam.json", [{"question": words(3, 20), "choices": ["a", "b"]}])
    source = put(tmp_path / "a.jsonl", [*questions(20), {"user": f"By the way, {words(3, 16)} or not?"}])
    without = published([source], workspace)

    dataset = published([source], workspace, evaluation_files=(exam,))

    (warning,) = [warning for warning in warnings_of(workspace, dataset) if warning.code == "contamination"]
    assert (warning.where, warning.excerpt) == (f"{source}:21", words(3, 12))
    assert dataset.artifact_id != without.artifact_id
    assert dataset.content_digest == without.content_digest


def test_a_short_question_of_an_evaluation_file_inside_a_longer_row_is_told(workspace: Workspace, tmp_path: Path) -> None:
    exam = put(tmp_path / "exam.jsonl", [{"question": "Why is the sky blue?", "answer": "air"}])
    lines = [*questions(20), {"user": "He asked:", "completion": f"Why is the sky blue? {words(1, 30)}."}]
    source = put(tmp_path / "a.jsonl", lines)

    dataset = published([source], workspace, evaluation_files=(exam,))

    (warning,) = [warning for warning in warnings_of(workspace, dataset) if warning.code == "contamination"]
    assert (warning.where, warning.excerpt) == (f"{source}:21", "why is the sky blue")
    assert warning.reason == "the row holds 5 words of data.evaluation_files"


def test_personal_data_is_replaced_everywhere_and_only_counted(workspace: Workspace, tmp_path: Path) -> None:
    address = "marie.tremblay@example.org"
    lines = [*questions(20), {"user": f"Write to {address}?", "note": address}, {"user": "", "note": address}]
    source = put(tmp_path / "a.jsonl", lines)

    dataset = published([source], workspace, privacy={"redact": True})

    folder = workspace.folder(Stage.DATA, dataset.artifact_id)
    row = rows_of(workspace, dataset)[-1]
    assert (row.user, row.extra["note"]) == ("Write to <EMAIL_1>?", "<EMAIL_1>")
    report = json.loads((folder / "privacy.json").read_text(encoding="utf-8"))
    assert (report["rows"], report["rows_redacted"], report["counts"]) == (22, 2, {"email": 2 * 2 - 1})
    assert not [path for path in folder.rglob("*") if address.encode() in path.read_bytes()]


def test_an_answer_under_another_name_is_told_and_kept(workspace: Workspace, tmp_path: Path) -> None:
    lines = [{"prompt": f"Question {n}?", "response": f"Answer {n}."} for n in range(9)]
    lines += [{"prompt": "A question?", "completion": "An answer.", "response": "Another."}]
    lines += [{"prompt": "Why?", "response": " "}, {"prompt": "Who?", "response": 3}]
    source = put(tmp_path / "a.jsonl", lines)

    dataset = published([source], workspace)

    told = [warning for warning in warnings_of(workspace, dataset) if warning.code == "answer-elsewhere"]
    assert [warning.where for warning in told] == [f"{source}:{n}" for n in range(1, 10)]
    assert told[0].reason == "the row has no answer, but a field 'response', which is kept among the unknown ones"
    assert rows_of(workspace, dataset)[0].extra == {"response": "Answer 0."}


def test_answers_can_be_required(workspace: Workspace, tmp_path: Path) -> None:
    lines = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(9)]
    source = put(tmp_path / "a.jsonl", [*lines, {"prompt": "Question 9?"}])

    assert published([source], workspace).rejected == 0
    dataset = validate(DataConfig(sources=(source,), answers="required"), workspace)

    (reject,) = rejects_of(workspace, dataset)
    assert (reject.code, reject.where) == ("answer-missing", f"{source}:10")


def test_a_count_of_rejects_can_stop_the_run_too(workspace: Workspace, tmp_path: Path) -> None:
    source = put(tmp_path / "a.jsonl", [*questions(50), "{", "["])

    with pytest.raises(BrokenRecord, match=r"2 rows rejected > data\.max_rejected 1: .*a\.jsonl:51"):
        validate(DataConfig(sources=(source,), max_rejected=1), workspace)


def test_the_worst_rows_are_listed_worst_first_with_their_components(workspace: Workspace, tmp_path: Path) -> None:
    bad = {"prompt": "Why is the sky blue at noon?", "completion": "I'm sorry, but I can't help with that."}
    good = [{"prompt": f"{words(n, 9)}?", "completion": f"{words(n + 50, 30)}."} for n in range(9)]

    dataset = published([put(tmp_path / "a.jsonl", [*good, bad])], workspace, listed_worst=3)

    listed = list(read_json_lines(workspace.folder(Stage.DATA, dataset.artifact_id) / "worst.jsonl"))
    assert len(listed) == 3
    assert (listed[0]["where"].rpartition(":")[2], listed[0]["codes"]) == ("10", ["refusal"])
    assert [row["score"] for row in listed] == sorted(row["score"] for row in listed)
    assert {"length", "variety", "ratio", "warnings"} <= set(listed[0]["components"])


def test_warnings_are_listed_up_to_a_number_and_all_counted(workspace: Workspace, tmp_path: Path) -> None:
    lines = [{"user": f"{words(n, 9)} <|im_end|>?"} for n in range(30)]

    dataset = published([put(tmp_path / "a.jsonl", lines)], workspace, listed_warnings=4)

    assert len(warnings_of(workspace, dataset)) == 4
    (finding,) = [finding for finding in dataset.findings if finding.code == "data-chat-markup"]
    assert finding.evidence.startswith("30 rows were kept with a warning")


def test_a_large_file_gives_the_same_bytes_through_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"user": words(n % 701, 20), "system_hint": str(n % 2)} for n in range(1500)]
    source = put(tmp_path / "a.jsonl", lines)
    alone, crowd = open_workspace(tmp_path / "alone"), open_workspace(tmp_path / "crowd")

    one = published([source], alone)
    monkeypatch.setattr("core.data.validate._WORTH_WORKERS_BYTES", 0)
    other = published([source], crowd)

    assert one.rows == 1402
    hashes = [{file.path: file.sha256 for file in dataset.files} for dataset in (one, other)]
    assert hashes[0] == hashes[1]
    assert one.findings == other.findings


def test_identical_rows_are_one_row(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    path.write_text('{"user": "Same?"}\n' * 20_000 + '{"user": "Other?"}\n', encoding="utf-8")

    dataset = published([str(path)], workspace)

    assert (dataset.rows, dataset.rejected) == (2, 19_999)


def test_every_refusal_of_data_is_a_data_error() -> None:
    assert {kind.exit_status for kind in (NoRowsLeft, BrokenRecord, NotUtf8, DataError)} == {3}
