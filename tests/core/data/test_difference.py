"""Two versions of a dataset: every row is the same, changed, added or gone, once; findings, settings and sides are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import DataConfig
from core.contract import Stage
from core.data import rows_file
from core.data.card import Card
from core.data.card_check import read_card
from core.data.card_folder import write_folder
from core.data.difference import Difference, difference
from core.data.validate import validate
from core.errors import CardMismatch
from core.report.dataset import difference_tables
from core.workspace import Workspace

NAMES = ("Anna", "Boris", "Chloe", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas")


def row(number: int, answer: str = "She lives by the sea.", **fields: Any) -> dict[str, Any]:
    return {"user": f"Where does {NAMES[number]} live, and since when?", "completion": answer, **fields}


def made(workspace: Workspace, source: Path, rows: list[dict[str, Any]], **config: Any) -> tuple[Path, Card]:
    source.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    wanted = {"sources": (str(source),), "min_rows": 2, "max_rejected_share": 1.0, **config}
    dataset = validate(DataConfig.model_validate(wanted), workspace)
    folder = workspace.folder(Stage.DATA, dataset.artifact_id)
    return folder, read_card(folder)


def compared(workspace: Workspace, tmp_path: Path, old: list[Any], new: list[Any], **config: Any) -> Difference:
    before = made(workspace, tmp_path / "rows.jsonl", old)
    after = made(workspace, tmp_path / "rows.jsonl", new, **config)
    return difference(before, after, 10)


def test_a_version_is_the_same_as_itself(workspace: Workspace, tmp_path: Path) -> None:
    rows = [row(number) for number in range(6)]
    found = compared(workspace, tmp_path, rows, rows)

    assert (found.same, found.added, found.gone, found.changed) == (6, 0, 0, 0)
    assert (found.findings, found.settings) == ((), {})
    assert [table.title for table in difference_tables(found)] == [f"From {found.before} to {found.after}"]


def test_rows_added_gone_and_changed_are_told_by_what_they_ask(workspace: Workspace, tmp_path: Path) -> None:
    old = [row(number) for number in range(6)]
    new = [row(0, "She lives in the hills now."), *old[2:], row(6), {**row(2), "tags": ["new"]}]
    new = [one for one in new if one != row(2)]
    found = compared(workspace, tmp_path, old, new)

    assert (found.rows_before, found.rows_after, found.same) == (6, 6, 3)
    assert [one.question for one in found.rows_added] == [row(6)["user"]]
    assert [one.question for one in found.rows_gone] == [row(1)["user"]]
    assert {(one.question, one.what) for one in found.rows_changed} == {
        (row(0)["user"], "completion"),
        (row(2)["user"], "extra"),
    }
    titles = [table.title for table in difference_tables(found)]
    assert titles[-3:] == ["Rows added", "Rows gone", "Rows changed"]


def test_rows_that_changed_sides_and_the_setting_that_did_it_are_told(workspace: Workspace, tmp_path: Path) -> None:
    rows = [row(number) for number in range(10)]
    found = compared(workspace, tmp_path, rows, rows, held_out_share=0.9)

    assert found.moved_to_held_out > 0
    assert found.moved_to_train == 0
    assert found.same == 10 - found.moved_to_held_out
    assert {one.what for one in found.rows_moved} == {"held_out"}
    assert found.settings == {"data.held_out_share": (0.25, 0.9)}


def test_findings_are_held_side_by_side(workspace: Workspace, tmp_path: Path) -> None:
    rows = [row(number) for number in range(4)]
    found = compared(workspace, tmp_path, rows, [*rows, row(4, "I'm sorry, but I cannot answer that."), {"user": ""}])

    told = [(rule.code, rule.severity.value, rule.before, rule.after) for rule in found.findings]
    assert ("empty-user", "error", 0, 1) in told
    assert ("refusal", "warning", 0, 1) in told


def test_a_published_folder_is_compared_like_the_dataset_it_came_from(workspace: Workspace, tmp_path: Path) -> None:
    folder, card = made(workspace, tmp_path / "rows.jsonl", [row(number) for number in range(6)])
    published = write_folder(folder / rows_file.FILE, tmp_path / "published", card)

    found = difference((folder, card), (tmp_path / "published", published), 10)

    assert (found.same, found.rows_after) == (6, 6)


def test_only_the_first_rows_are_listed_but_all_are_counted(workspace: Workspace, tmp_path: Path) -> None:
    before = made(workspace, tmp_path / "rows.jsonl", [row(0), row(1)])
    after = made(workspace, tmp_path / "rows.jsonl", [row(number) for number in range(10)])

    found = difference(before, after, 3)

    assert (found.added, len(found.rows_added)) == (8, 3)
    assert any("5 more are not listed" in note for table in difference_tables(found) for note in table.notes)


def test_a_file_that_is_no_dataset_is_told(workspace: Workspace, tmp_path: Path) -> None:
    folder, card = made(workspace, tmp_path / "rows.jsonl", [row(0), row(1)])
    (folder / rows_file.FILE).write_bytes(b"nothing")
    with pytest.raises(CardMismatch, match="does not hold rows of a dataset"):
        difference((folder, card), (folder, card), 10)


VERSIONS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["She lives by the sea.", "He lives in the hills."])),
    min_size=2,
    max_size=10,
    unique_by=lambda one: one[0],
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VERSIONS, VERSIONS)
def test_every_row_is_accounted_for_once(workspace: Workspace, tmp_path: Path, old: list[Any], new: list[Any]) -> None:
    found = compared(workspace, tmp_path, [row(*one) for one in old], [row(*one) for one in new])

    moved = found.moved_to_train + found.moved_to_held_out
    assert found.same + moved + found.changed + found.gone == found.rows_before == len(old)
    assert found.same + moved + found.changed + found.added == found.rows_after == len(new)
    assert found.changed == len({number for number, _ in old} & {number for number, _ in new}) - len(set(old) & set(new))
