"""`edgekiln env`: its exit statuses, its forms, and where it writes them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from core.env.check import parts
from core.env.document import json_schema
from core.env.machine.capability import CAPABILITY
from flows.cli.main import run

OTHERS = sorted({check.code for part in parts() for check in part.checks} - {check.code for check in CAPABILITY.checks})
LENIENT = {
    "min_free_disk_gb": 0,
    "min_ram_gb": 0.1,
    "measure_s": 0.02,
    "skip": json.dumps([*OTHERS, "programs", "interpreter", "cpu-features", "governor", "spot", "docker", "disk-speed"]),
}


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call `edgekiln env` with checks of this machine only and return its status and what it printed."""
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))

    def call(*words: str, **changes: object) -> tuple[int, str, str]:
        quick = {
            **LENIENT,
            **({} if "min_memory_gbs" in changes else {"skip": f"{LENIENT['skip'][:-1]}, memory-bandwidth]"}),
        }
        sets = [part for key, value in {**quick, **changes}.items() for part in ("--set", f"env.{key}={value}")]
        status = run(["env", "--workspace", str(tmp_path / "ws"), *sets, *words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_a_healthy_machine_is_status_0_and_told_in_a_table(env) -> None:
    status, out, err = env("--strict")

    assert status == 0, err
    for wanted in ("This machine", "processor", "GB free", "labeler", "This machine can do the job."):
        assert wanted in out


def test_a_blocked_machine_is_status_4_with_the_report_and_the_first_remedy(env) -> None:
    status, out, err = env("--json", min_ram_gb=1e6)

    told = json.loads(out)
    assert status == 4
    assert told["verdict"] == "blocked"
    assert told["findings"][0]["code"] == "ram"
    problem, remedy = err.strip().splitlines()[-2:]
    assert problem.startswith("[env-blocked] ram ")
    assert told["findings"][0]["remedy"] in remedy


def test_warnings_are_status_0_and_under_strict_5(env) -> None:
    assert env(min_memory_gbs=1e6)[0] == 0

    status, out, err = env("--strict", min_memory_gbs=1e6)

    assert status == 5
    assert "memory-bandwidth" in out
    assert "[gate-refused] 1 warnings > 0 under --strict" in err


def test_the_roles_asked_for_are_judged_and_others_are_not(env) -> None:
    status, out, _ = env("--json", "--role", "board", "--role", "server", min_ram_gb=1e6)

    assert status == 0
    assert json.loads(out)["roles"] == {"board": "healthy", "server": "healthy"}


def test_the_cache_is_used_unless_told_not_to(env) -> None:
    first, second, third = (json.loads(env("--json", *words)[1])["report"] for words in ((), (), ("--no-cache",)))

    assert first == second != third


def test_every_form_can_be_written_to_a_file(env, tmp_path: Path) -> None:
    for kind in ("--html", "--csv", "--json"):  # the first one looks, the others take its report
        status, out, _ = env(kind, "-o", str(tmp_path / kind), min_memory_gbs=1e6)
        assert (status, out) == (0, "")

    assert (tmp_path / "--html").read_text("utf-8").startswith("<!DOCTYPE html>")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "--csv").read_text("utf-8"))))
    assert "memory-bandwidth" in [row["check"] for row in rows]
    assert json.loads((tmp_path / "--json").read_bytes())["schema_version"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--role", "cook"), "Name one of labeler, trainer"),
        (("--csv", "--html"), "Name one"),
        (("-o", "/proc/file"), "Name a file you may write"),
        (("-o", "/proc/none/file"), "the folder /proc/none is not there"),
    ],
)
def test_a_wrong_word_is_status_2(env, words: tuple[str, ...], told: str) -> None:
    status, _, err = env(*words)

    assert status == 2
    assert told in err


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.full
def test_the_benchmark_is_kept_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--workspace", str(tmp_path / "ws")]

    assert run(["env", "bench", "--seconds", "0", *where]) == 2
    capsys.readouterr()
    assert run(["env", "bench", "--seconds", "0.02", *where]) == 0
    table = capsys.readouterr().out

    assert "memory triad" in table
    assert "their median" in table
