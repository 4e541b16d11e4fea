"""A job begun on one machine and gone on with on another, as a user does it: one profile, one bucket, two folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.cli.main import run
from tests.core.label.conftest import ScriptedTeacher, Step, server
from tests.core.remote.place import KEY, SECRET_KEY, Place
from tests.core.remote.proxy import Proxy

__all__ = ["server"]

ASKED = ("Where would a sailor look for", "Why do children keep asking about", "How long does it take to repair")
ABOUT = ("a wooden bridge", "the northern lights", "old clocks", "his grandmother's violin", "rain gauges", "lost maps")


@pytest.fixture
def profile(tmp_path: Path, server: ScriptedTeacher, place: Place, proxy: Proxy) -> Path:
    rows = [json.dumps({"prompt": f"{first} {second}?"}) for first in ASKED for second in ABOUT]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    sections = {
        "description": "labels only",
        "data": {"sources": [str(tmp_path / "rows.jsonl")], "duplicates": {"threshold": 1.0}},
        "label": {"teacher": "qwen3-8b", "backend": "openai", "base_url": server.base_url, "sync_s": 0.2, "concurrency": 2},
        "train": {"student": "smollm2-135m-instruct"},
        "remote": json.loads(place.config(proxy.port, attempts=1, patience_s=1, lock_expiry_s=1).model_dump_json()),
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


@pytest.fixture
def edgekiln(tmp_path: Path, profile: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(machine: str, *words: str) -> tuple[int, str, str]:
        argv = [*words, "--profile", str(profile), "--workspace", str(tmp_path / machine), "--json", "-v"]
        status = run([*argv, "--log-file", str(tmp_path / machine / "log.txt")])
        return (status, *capsys.readouterr())

    return call


def secrets_in(folder: Path) -> list[Path]:
    words = (SECRET_KEY.encode(), KEY.encode())
    return [path for path in folder.rglob("*") if path.is_file() and any(word in path.read_bytes() for word in words)]


def test_another_machine_goes_on_and_pays_nothing_twice(
    edgekiln, server: ScriptedTeacher, place: Place, tmp_path: Path
) -> None:
    status, out, err = edgekiln("first", "label")
    assert status == 0, err
    asked = len(server.sent)
    assert asked > 10
    status, again, err = edgekiln("second", "label")
    assert status == 0, err
    assert json.loads(again) == json.loads(out)
    assert len(server.sent) == asked
    assert "was fetched from s3://" in err
    status, told, _ = edgekiln("second", "status")
    facts = {row["fact"]: row["value"] for row in json.loads(told)["home"]["rows"]}
    assert facts["worked in by"] == "nobody"
    assert (facts["label artifacts"], facts["not there yet"]) == ("1", "nothing")
    assert int(facts["ledger segments"]) >= 1
    assert secrets_in(tmp_path) == []


def test_a_store_that_is_down_at_the_start_is_told_and_nothing_is_asked(
    edgekiln, proxy: Proxy, server: ScriptedTeacher, tmp_path: Path
) -> None:
    proxy.faults.refuse = True
    status, out, err = edgekiln("first", "label")
    assert (status, out) == (6, "")
    assert "[service-remote-unreachable]" in err
    assert server.sent == []
    assert secrets_in(tmp_path) == []


def test_a_wrong_key_is_told_at_the_start_without_repeating_it(
    edgekiln, proxy: Proxy, server: ScriptedTeacher, tmp_path: Path
) -> None:
    from tests.core.remote.proxy import s3_error

    said = s3_error("403 Forbidden", "SignatureDoesNotMatch", more=f"<StringToSign>{KEY}{SECRET_KEY}</StringToSign>")
    proxy.faults.says = [said] * 20
    status, _, err = edgekiln("first", "label")
    assert status == 6
    assert "[service-remote-refused]" in err
    assert KEY not in err
    assert SECRET_KEY not in err
    assert server.sent == []
    assert secrets_in(tmp_path) == []


@pytest.mark.full
def test_a_store_that_goes_down_while_asking_changes_the_end_in_nothing(
    edgekiln, proxy: Proxy, place: Place, server: ScriptedTeacher
) -> None:

    class Plug(dict):
        """A script that pulls the store's plug at the first request."""

        def items(self):
            proxy.faults.refuse = True
            proxy.drop()
            return super().items()

    server.script = Plug()
    server.otherwise = Step(wait_s=0.1)
    status, out, err = edgekiln("first", "label")
    assert status == 0, err
    assert json.loads(out)["unanswered"] == 0
    assert "the asking goes on" in err
    assert "not uploaded yet" in err
