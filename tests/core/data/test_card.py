"""A dataset's card beside its data: made by the real pass, published, checked, and found out where it is not true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest

from core.config import DataConfig
from core.contract import Stage
from core.data import rows_file
from core.data.card import Card, json_schema, shown_name
from core.data.card_check import check_card, check_manifest, read_card
from core.data.card_folder import write_folder
from core.data.record import PromptRow
from core.data.validate import validate
from core.errors import CardMismatch, SourceMissing
from core.nouns import Dataset
from core.report.card_markdown import write_card
from core.workspace import Workspace, artifacts, load

ROOT = Path(__file__).parents[3]
REAL = ROOT / "tests" / "data"


def made(workspace: Workspace, **config: Any) -> tuple[Path, Dataset]:
    wanted = {"sources": (str(REAL / "quebecois_*.jsonl"),), "licence": "mit", **config}
    dataset = validate(DataConfig(**wanted), workspace)
    return workspace.folder(Stage.DATA, dataset.artifact_id), dataset


@pytest.fixture
def published(workspace: Workspace, tmp_path: Path) -> Path:
    folder, _ = made(workspace)
    write_folder(folder / rows_file.FILE, tmp_path / "published", read_card(folder))
    return tmp_path / "published"


def wrong(folder: Path) -> list[str]:
    return [f"{finding.where}: {finding.evidence}" for finding in check_card(folder, read_card(folder))]


def edit(folder: Path, **changed: Any) -> None:
    """Change the card and write it again with its Markdown, as a forger would."""
    card = json.loads((folder / "card.json").read_bytes())
    write_card(folder, Card.model_validate({**card, **changed}))


def test_the_pass_leaves_a_true_card_in_the_dataset(workspace: Workspace) -> None:
    folder, dataset = made(workspace)
    card = read_card(folder)

    assert check_card(folder, card) == ()
    assert list(check_manifest(card, dataset)) == []
    assert card.statistics.rows == dataset.rows == 47
    assert (card.statistics.labels[0].field, card.statistics.labels[0].commonest["québécois"]) == ("tags", 37)
    assert load(workspace, Stage.DATA, dataset.artifact_id, Dataset) == dataset


def test_the_published_schema_is_the_model_and_a_real_card_keeps_to_it(workspace: Workspace) -> None:
    published = json.loads((ROOT / "configs/schemas/dataset-card.schema.json").read_bytes())
    assert published == json_schema()
    folder, _ = made(workspace)
    jsonschema.validate(json.loads((folder / "card.json").read_bytes()), published)


def test_the_card_changes_no_later_stage(workspace: Workspace) -> None:
    _, one = made(workspace)
    _, other = made(workspace, licence="cc-by-4.0", title="Another name")
    assert one.artifact_id != other.artifact_id
    assert one.content_digest == other.content_digest


def test_a_published_folder_has_each_side_in_a_file_of_its_own(published: Path) -> None:
    rows = {side: list(rows_file.read_rows(published / f"{side}.parquet")) for side in ("train", "held_out")}

    assert {side: len(found) for side, found in rows.items()} == {"train": 39, "held_out": 8}
    assert {PromptRow.model_validate(row).split for row in rows["held_out"]} == {"held_out"}
    assert wrong(published) == []
    assert "split: held_out\n    path: held_out.parquet" in (published / "README.md").read_text(encoding="utf-8")
    assert "Quality of rows" in (published / "card.html").read_text(encoding="utf-8")


def test_people_may_add_to_the_readme_but_not_change_what_it_says(published: Path) -> None:
    readme = published / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(text.replace("license: mit", "homepage: x\nlicense: mit") + "\n## Thanks\n", encoding="utf-8")
    assert wrong(published) == []

    readme.write_text(text.replace("license: mit", "license: cc0-1.0"), encoding="utf-8")
    assert wrong(published) == ["README.md: license: cc0-1.0, card.json says mit"]

    readme.write_text(text.replace("47 rows", "470 rows"), encoding="utf-8")
    assert wrong(published) == ["README.md: the text made from card.json is not in it"]

    readme.write_text("---\n[\n---\n" + text.partition("\n---\n")[2], encoding="utf-8")
    assert wrong(published)[0].startswith("README.md: pretty_name: None")

    readme.unlink()
    assert wrong(published) == ["README.md: there is no such file"]


def test_a_file_that_is_gone_changed_or_of_other_rows_is_found(published: Path) -> None:
    train, held_out = published / "train.parquet", published / "held_out.parquet"
    bytes_before = train.read_bytes()
    train.write_bytes(bytes_before[:-9] + bytes([bytes_before[-9] ^ 1]) + bytes_before[-8:])
    assert wrong(published)[0].startswith("train.parquet: sha256 ")

    shutil.copy(held_out, train)
    assert [text.partition(":")[0] for text in wrong(published)] == ["train.parquet"] * 3
    assert "8 rows, the card says 39" in wrong(published)[1]
    assert "rows of held_out in a file of train" in wrong(published)[2]

    train.write_bytes(b"no parquet at all")
    assert "after 0 rows" in wrong(published)[1]

    train.unlink()
    assert wrong(published) == ["train.parquet: there is no such file"]


def test_a_file_of_another_table_is_no_dataset(published: Path) -> None:
    table = pq.read_table(published / "train.parquet").drop_columns(["user"])
    pq.write_table(table, published / "train.parquet")
    assert any("after 0 rows" in text for text in wrong(published))


def test_rows_that_changed_sides_are_found_though_every_hash_fits(workspace: Workspace) -> None:
    folder, _ = made(workspace)
    card = json.loads((folder / "card.json").read_bytes())
    edit(folder, statistics={**card["statistics"], "splits": {"train": 40, "held_out": 7}})
    assert wrong(folder) == ["card.json: its files hold 8 held_out, 39 train, the card says 7 held_out, 40 train"]


def test_a_card_whose_sums_contradict_each_other_is_found(published: Path) -> None:
    card = json.loads((published / "card.json").read_bytes())
    edit(published, statistics={**card["statistics"], "rows": 48})
    assert wrong(published) == [
        "card.json: its files have 47 rows, its statistics 48",
        "card.json: its splits have 47 rows, its statistics 48",
    ]


def test_a_card_names_no_file_outside_its_folder(published: Path) -> None:
    card = json.loads((published / "card.json").read_bytes())
    edit(published, files=[{**card["files"][0], "path": "../secret"}, card["files"][1]])
    assert any("leaves the folder" in text for text in wrong(published))


def test_the_card_of_another_dataset_is_found_by_the_manifest(workspace: Workspace) -> None:
    folder, dataset = made(workspace)
    _, other = made(workspace, held_out_share=0.5)
    told = [finding.evidence for finding in check_manifest(read_card(folder), other)]

    assert told[0] == f"dataset {dataset.artifact_id}, the manifest says {other.artifact_id}"
    assert any(text.startswith("train rows 39") for text in told)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"title": NaN}', b"\xff"])
def test_what_is_no_card_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(CardMismatch, match=r"card\.json"):
        read_card(tmp_path)


def test_a_folder_without_a_card_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match=r"holds no card\.json"):
        read_card(tmp_path)


def test_an_empty_side_is_published_as_an_empty_file(workspace: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "two.jsonl"
    source.write_text('{"user": "What is it?"}\n{"user": "What is it not?"}\n', encoding="utf-8")
    validate(DataConfig(sources=(str(source),), min_rows=2), workspace)
    (dataset,) = artifacts(workspace, Stage.DATA)
    folder = workspace.folder(Stage.DATA, dataset.artifact_id)
    write_folder(folder / rows_file.FILE, tmp_path / "published", read_card(folder))
    assert wrong(tmp_path / "published") == []


def test_names_of_the_hub_and_of_builtins_are_kept_and_folders_are_not() -> None:
    assert shown_name("hf:owner/name@0123/data/train.parquet") == "hf:owner/name@0123/data/train.parquet"
    assert shown_name("builtin:python-docs of Python 3.11.7") == "builtin:python-docs of Python 3.11.7"
    assert shown_name("some/where/own.jsonl") == "own.jsonl"
