"""What was published where, in the database: a projection of the workspace's file, whatever the file holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.benchdb import queries, writer
from core.benchdb.publications import rows_of
from core.publish.record import Publication, PublishedFile, record
from core.workspace import Workspace
from tests.core.benchdb.test_writer import dump
from tests.core.published_chain import chain

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
FILES = (PublishedFile(path="tiny-Q8_0.gguf", sha256="a" * 64, bytes=7), PublishedFile(path="S", sha256="b" * 64, bytes=0))
SENT = Publication(
    at=NOW, artifact_id="0" * 12, seal="c" * 64, edgekiln="1", to="hf://ada/tutor", revision="d" * 40, files=FILES
)


def rows(workspace: Workspace, query: str) -> list[tuple]:
    with queries.reading(workspace) as connection:
        return connection.execute(query).fetchall()


def test_place_commit_files_and_time_are_stored_once_with_whatever_is_written_next(workspace: Workspace) -> None:
    _, run = chain(workspace)
    record(workspace, SENT)
    for _ in range(2):
        writer.write(workspace, run, 5)
        writer.write_kept(workspace, 5)
    told = "SELECT artifact_id, place, revision, manifest_sha256, epoch(published_at), removed FROM publications"
    assert rows(workspace, told) == [("0" * 12, "hf://ada/tutor", "d" * 40, None, NOW.timestamp(), "[]")]
    assert rows(workspace, "SELECT path, sha256, bytes FROM publication_files ORDER BY path") == [
        ("S", "b" * 64, 0),
        ("tiny-Q8_0.gguf", "a" * 64, 7),
    ]


def test_a_rebuilt_database_holds_the_publications_and_a_broken_line_stops_nothing(workspace: Workspace) -> None:
    record(workspace, SENT)
    writer.write_kept(workspace, 5)
    grown = dump(workspace.database)
    assert len(grown["publications"]) == 1
    with workspace.publications.open("a") as stream:
        stream.write('{"at": "yesterday"}\nnot JSON\n')
    writer.rebuild(workspace, 5)
    assert dump(workspace.database) == grown


@pytest.mark.parametrize("change", ["place = NULL", "published_at = NULL", "manifest_sha256 = 'both'"])
def test_the_schema_itself_refuses_a_publication_without_place_or_time_or_with_two_marks(
    workspace: Workspace, change: str
) -> None:
    record(workspace, SENT)
    writer.write_kept(workspace, 5)
    with duckdb.connect(str(workspace.database)) as connection, pytest.raises(duckdb.ConstraintException):
        connection.execute(f"UPDATE publications SET {change}")


@given(st.text(), st.lists(st.text(), max_size=3), st.none() | st.just("e" * 64))
def test_two_publications_have_one_key_exactly_when_they_say_the_same(
    to: str, removed: list[str], manifest: str | None
) -> None:
    one = SENT.model_copy(update={"to": to, "removed": tuple(removed), "revision": None, "manifest_sha256": manifest})
    again = Publication.model_validate_json(one.model_dump_json())
    (row,), (same,), (other,) = (rows_of(each)["publications"] for each in (one, again, SENT))
    assert row == same
    assert row["publication_id"] != other["publication_id"]
    assert json.loads(row["removed"]) == removed
