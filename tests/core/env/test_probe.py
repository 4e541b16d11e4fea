"""The probe runner, with real children that segfault, hang, print garbage, exit, raise and leave grandchildren."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.env.probe import Probe, Reading, run_probes
from core.events import Event, Progress
from core.process import capture

TARGETS = """
import ctypes, os, signal, subprocess, sys, time
from core.contract import Contract

class Answer(Contract):
    number: int
    text: str = ""

def well(argument):
    return Answer(number=argument["number"] + 1, text="h\\u00e9")

def chatty(argument):
    os.write(1, b"\\xff\\xfe\\x00garbage {not json\\n" * 50)
    print("noise", file=sys.stderr)
    return Answer(number=1)

def segfault(argument):
    ctypes.string_at(0)

def killed(argument):
    os.kill(os.getpid(), signal.SIGKILL)

def abort(argument):
    os.abort()

def hang(argument):
    time.sleep(60)

def hang_and_ignore(argument):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)

def leave_one_behind(argument):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(argument["path"], "w") as stream:
        stream.write(str(child.pid))
    time.sleep(60)

def exits(argument):
    sys.exit(3)

def exits_silently(argument):
    os._exit(0)

def says_goodbye(argument):
    sys.exit("no such luck")

def raises(argument):
    raise RuntimeError("the driver said\\nno, twice")

def returns_a_list(argument):
    return [1, 2]

def scribbles(argument):
    with open(sys.argv[3], "w") as stream:
        stream.write("<html>this is no result</html>")
    os._exit(0)

def overflows(argument):
    with open(sys.argv[3], "wb") as stream:
        stream.truncate((16 << 20) + 1)
    os._exit(0)

def answers_then_crashes(argument):
    import atexit
    atexit.register(os.abort)
    return Answer(number=7)
"""


@pytest.fixture(autouse=True)
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "probe_targets.py").write_text(TARGETS, encoding="utf-8")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def probe(function: str, timeout_s: float = 20.0, **argument: object) -> Probe:
    return Probe(name=function, target=f"probe_targets:{function}", argument=argument, timeout_s=timeout_s)


def alone(given: Probe, scratch: Path) -> Reading:
    return run_probes([given], scratch)[given.name]


def test_every_way_to_fail_is_a_reading_and_the_good_ones_are_unharmed(tmp_path: Path) -> None:
    hurt = {
        "segfault": "signal SIGSEGV",
        "killed": "signal SIGKILL",
        "abort": "signal SIGABRT",
        "exits": "status 3",
        "exits_silently": "it ended without a result",
        "says_goodbye": "no such luck",
        "raises": "RuntimeError: the driver said no, twice",
        "returns_a_list": "TypeError: probe_targets:returns_a_list returned list, not a Contract",
        "scribbles": "its result is garbage: b'<html>this is no result</html>'",
        "overflows": "bytes",
        "answers_then_crashes": "signal SIGABRT",
        "no_such_function": "AttributeError",
    }

    readings = run_probes([probe("well", number=41), *map(probe, hurt), probe("chatty")], tmp_path)

    assert readings["well"].value == {"number": 42, "text": "hé"}
    assert readings["well"].error is None
    assert readings["chatty"].value == {"number": 1, "text": ""}
    for name, evidence in hurt.items():
        assert readings[name].value is None
        assert evidence in (readings[name].error or ""), name
        assert "\n" not in (readings[name].error or "")
    assert list(readings) == ["well", *hurt, "chatty"]


def test_a_hanging_probe_is_stopped_at_its_timeout_with_all_it_started(tmp_path: Path) -> None:
    started = time.perf_counter()

    readings = run_probes([probe("hang", 2.0), probe("leave_one_behind", 3.0, path=str(tmp_path / "pid"))], tmp_path)

    assert time.perf_counter() - started < 10
    assert "ran > 2 s and was stopped" in (readings["hang"].error or "")
    assert readings["hang"].seconds >= 2.0
    behind = int((tmp_path / "pid").read_text(encoding="utf-8"))
    assert not Path(f"/proc/{behind}").exists() or "State:\tZ" in Path(f"/proc/{behind}/status").read_text("utf-8")


def test_a_probe_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    reading = alone(probe("hang_and_ignore", 1.5), tmp_path)

    assert "ran > 1.5 s" in (reading.error or "")
    assert reading.seconds < 12


def test_probes_run_side_by_side(tmp_path: Path) -> None:
    sleepers = [probe("hang", 3.0).model_copy(update={"name": f"hang-{n}"}) for n in range(4)]
    started = time.perf_counter()

    readings = run_probes(sleepers, tmp_path)

    assert time.perf_counter() - started < 8
    assert all(reading.error for reading in readings.values())


def test_a_module_that_is_not_there_is_told(tmp_path: Path) -> None:
    given = Probe(name="gone", target="never_published.probe:read", timeout_s=20)

    assert "ModuleNotFoundError" in (alone(given, tmp_path).error or "")


def test_an_old_result_is_never_taken_for_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "exits_silently.json").write_text('{"value": {"number": 1}, "error": null}', encoding="utf-8")

    assert alone(probe("exits_silently"), tmp_path).value is None


def test_a_scratch_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "well.log").mkdir()

    assert "could not be run" in (alone(probe("well", number=1), tmp_path).error or "")


def test_each_reading_is_counted_as_progress(tmp_path: Path, events: list[Event]) -> None:
    run_probes([probe("well", number=1), probe("raises")], tmp_path, events.append)

    assert [event.done for event in events if isinstance(event, Progress)] == [1, 2]


def test_no_probe_gives_no_reading(tmp_path: Path) -> None:
    assert run_probes([], tmp_path) == {}


def test_two_probes_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="share a name"):
        run_probes([probe("well"), probe("well")], tmp_path)


@pytest.mark.parametrize("target", ["os.system", "a:b:c", "a b:c", "", ":read", "../x:y"])
def test_a_target_that_is_no_module_and_function_is_refused(target: str) -> None:
    with pytest.raises(ValidationError):
        Probe(name="x", target=target, timeout_s=1)


def test_the_runner_does_not_wait_for_a_child_when_its_own_process_ends(tmp_path: Path) -> None:
    code = (
        "import threading, time; from pathlib import Path; from core.env import probe;"
        f"given = probe.Probe(name='hang', target='probe_targets:hang', timeout_s=30.0);"
        f"threading.Thread(target=probe.run_probes, args=([given], Path({str(tmp_path)!r})), daemon=True).start();"
        "time.sleep(2); print('done')"
    )
    started = time.perf_counter()

    assert capture([sys.executable, "-c", code], timeout_s=60).strip() == "done"
    assert time.perf_counter() - started < 20
