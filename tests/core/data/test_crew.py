"""Batches judged here and in processes come to the same; a worker that dies is told, and none stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from core.config import DataConfig
from core.data.crew import Crew, open_crew
from core.data.judging import Judged, Settings
from core.data.source import Line
from core.errors import ProcessFailed

CONFIG = DataConfig(sources=("a",))
SETTINGS = Settings(
    shape="auto",
    answers="optional",
    held_out_share=0.25,
    rules=CONFIG.rules,
    quality=CONFIG.quality,
    coverage=CONFIG.coverage,
    privacy=CONFIG.privacy,
    passage_words=12,
    listed_worst=5,
)
BATCHES = [
    [
        Line(f"a:{number}", {"prompt": f"What is {number} times {number}, and why?"}, number)
        for number in range(start, start + 7)
    ]
    for start in range(0, 49, 7)
]


def judged(crew: Crew) -> list[Judged]:
    found: list[Judged] = []
    for number, lines in enumerate(BATCHES):
        crew.give(number, lines)
        if number - len(found) + 1 >= crew.capacity:
            found.append(crew.take(len(found)))
    while len(found) < len(BATCHES):
        found.append(crew.take(len(found)))
    for number, batch in enumerate(found):
        crew.settle(number, [True] * len(batch.kept))
    return found


def test_workers_judge_as_this_process_does_and_are_gone_afterwards(tmp_path: Path) -> None:
    with open_crew(SETTINGS, 0, tmp_path) as crew:
        alone = judged(crew)
        (totals,) = crew.totals()
    with open_crew(SETTINGS, 2, tmp_path) as crew:
        together = judged(crew)
        parts = crew.totals()

    for one, other in zip(alone, together, strict=True):
        assert one.rows.equals(other.rows)
        assert one.keys.tolist() == other.keys.tolist()
        assert np.array_equal(one.fingerprints.signatures, other.fingerprints.signatures)
        assert one.passages.hashes.tolist() == other.passages.hashes.tolist()
    assert len(parts) == 2
    assert (parts[0].statistics + parts[1].statistics).result() == totals.statistics.result()
    assert not [child for child in psutil.Process().children() if "judge_worker" in " ".join(child.cmdline())]


def judge_after_the_worker_was_killed(folder: Path) -> None:
    with open_crew(SETTINGS, 1, folder) as crew:
        for child in psutil.Process().children():
            child.kill()
            child.wait()
        crew.give(0, BATCHES[0])
        crew.take(0)


def test_a_worker_that_dies_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="a worker of the data stage died") as caught:
        judge_after_the_worker_was_killed(tmp_path)
    assert "judge-0.log" in caught.value.remedy


def test_a_worker_loads_no_pandas_and_hides_none() -> None:
    program = (
        "import sys; from core.data import judge_worker; import pyarrow as pa; judge_worker._forgo_pandas();"
        "pa.array(['a', 'b']); assert 'pandas' not in sys.modules; import pandas"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
