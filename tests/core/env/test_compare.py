"""Two documents side by side: what moved, what to do, and that a stranger's file does no harm."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Finding, Severity
from core.env.compare import MAX_DOCUMENT_BYTES, Move, compare, read_document
from core.env.document import EnvDocument
from core.env.host import read_host
from core.env.roles import Role, RoleVerdict
from core.errors import BadConfig
from core.nouns import Fact


def finding(code: str, severity: Severity = Severity.WARNING) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        where="here",
        evidence=f"{code} was read",
        cause="a cause",
        remedy=f"mend {code}",
        remedy_argv=("mend", code),
    )


def document(**changes: Any) -> EnvDocument:
    plain = EnvDocument(
        edgekiln="0.1.0",
        report="0" * 12,
        created_at=datetime.now(UTC),
        verdict=RoleVerdict.HEALTHY,
        exit_status=0,
        roles={Role.TRAINER: RoleVerdict.HEALTHY},
        host=read_host(),
        findings=(),
        facts=(Fact(name="RAM", value="8 GB", source="/proc/meminfo"),),
        probes=(),
        tools={"python": "3.11.7", "alpha": "1.0"},
    )
    return plain.model_copy(update=changes)


def moves(a: EnvDocument, b: EnvDocument) -> list[tuple[Move, str, str]]:
    return [(one.move, one.what, one.name) for one in compare(a, b).differences]


def test_the_same_machine_differs_in_nothing() -> None:
    found = compare(document(), document())
    assert (found.differences, found.todo) == ((), ())


def test_findings_improve_regress_come_and_go() -> None:
    a = document(findings=(finding("disk"), finding("ram", Severity.ERROR), finding("clock"), finding("same")))
    b = document(findings=(finding("disk", Severity.ERROR), finding("ram"), finding("driver"), finding("same")))
    assert moves(a, b) == [
        (Move.REGRESSED, "finding", "disk here"),
        (Move.NEW, "finding", "driver here"),
        (Move.IMPROVED, "finding", "ram here"),
        (Move.GONE, "finding", "clock here"),
    ]
    assert [todo.argv for todo in compare(a, b).todo] == [("mend", "disk"), ("mend", "driver")]


def test_roles_improve_regress_come_and_go() -> None:
    a = document(
        roles={Role.TRAINER: RoleVerdict.HEALTHY, Role.BOARD: RoleVerdict.BLOCKED, Role.SERVER: RoleVerdict.HEALTHY}
    )
    b = document(
        roles={Role.TRAINER: RoleVerdict.BLOCKED, Role.BOARD: RoleVerdict.WARNINGS, Role.LABELER: RoleVerdict.HEALTHY}
    )
    assert moves(a, b) == [
        (Move.REGRESSED, "role", "trainer"),
        (Move.NEW, "role", "labeler"),
        (Move.IMPROVED, "role", "board"),
        (Move.GONE, "role", "server"),
    ]


def test_what_makes_the_packages_of_b_those_of_a_is_one_command_each() -> None:
    a = document(tools={"python": "3.11.7", "alpha": "1.0", "beta": "2.0+cpu", "gamma": "1"})
    b = document(tools={"python": "3.12.1", "alpha": "1.1", "delta": "1", "gamma": "1"})
    found = compare(a, b)
    assert found.todo[0].remedy == "Make the virtual environment with Python 3.11.7."
    assert [todo.argv for todo in found.todo[1:]] == [
        ("python", "-m", "pip", "install", "alpha==1.0", "beta==2.0+cpu"),
        ("python", "-m", "pip", "uninstall", "--yes", "delta"),
    ]


def test_a_fact_that_changed_is_told_with_both_values() -> None:
    (one,) = compare(document(), document(facts=(Fact(name="RAM", value="4 GB", source="x"),))).differences
    assert (one.move, one.a, one.b) == (Move.CHANGED, "8 GB", "4 GB")


def test_a_strangers_package_name_never_becomes_an_option() -> None:
    evil = {"--index-url=https://elsewhere.example": "1.0", "alpha; rm -rf ~": "1.0", "beta": "1.0 --pre", "-r": "1"}
    assert compare(document(tools=evil), document(tools={})).todo == ()
    assert compare(document(tools={}), document(tools=evil)).todo == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no document"),
        (b"not json", "no document"),
        (b"[" * 100_000, "no document"),
        (b"[]", "no document"),
        (b"{}", "schema_version: Field required"),
        (b'{"schema_version": 2}', "schema_version 2 != 1"),
        (b'{"schema_version": 1}', "edgekiln: Field required"),
        (b'{"schema_version": 1, "findings": 5}', "no document"),
        (b'\xff\xfe{"schema_version": 1}', "no document"),
    ],
)
def test_a_file_that_is_no_document_is_a_configuration_error(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BadConfig) as caught:
        read_document(path)
    assert says in caught.value.problem
    assert len(caught.value.problem) < 600


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_a_configuration_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    with pytest.raises(BadConfig):
        read_document(path)


def test_a_missing_and_an_endless_file_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="is no regular file"):
        read_document(tmp_path)
    with pytest.raises(BadConfig, match="is not there"):
        read_document(tmp_path / "none")
    with (tmp_path / "endless").open("wb") as stream:
        stream.truncate(MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(BadConfig, match="bytes"):
        read_document(tmp_path / "endless")


def test_a_document_that_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(document().model_dump_json(), encoding="utf-8")
    assert json.loads(path.read_bytes())["schema_version"] == 1
    assert read_document(path).tools == {"python": "3.11.7", "alpha": "1.0"}
