"""The study on disk under real processes: killed, stopped, several at once; its budgets, and how trials end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import SearchConfig, TrainConfig
from core.errors import FileTampered, ProcessFailed
from core.search.record import Measured
from core.search.storage import JournalLock, Presence
from core.search.study import Trials

REPOSITORY = Path(__file__).parents[3]
PROGRAM = Path(__file__).parent / "take_trials.py"
TRAIN = TrainConfig(student="tiny", per_device_train_batch_size=2)


def started(folder: Path, name: str, search: dict, **asked: object) -> subprocess.Popen[bytes]:
    case = {"folder": str(folder / "study"), "search": search, "train": TRAIN.model_dump(mode="json"), **asked}
    (folder / f"{name}.json").write_text(json.dumps(case), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, str(PROGRAM), str(folder / f"{name}.json")], env=environment)


def opened(folder: Path, **search: object) -> Trials:
    return Trials(folder / "study", SearchConfig.model_validate(search), TRAIN)


def measured(loss: float = 1.0, training_s: float = 1.0) -> Measured:
    return Measured(held_out_loss=loss, base_held_out_loss=2.0, training_s=training_s, trainable_parameters=10, steps=4)


def test_a_trial_whose_process_was_killed_is_tried_again_with_its_values(tmp_path):
    assert started(tmp_path, "one", {"trials": 4}, signal_in=3, signal="SIGKILL").wait(60) == -9
    assert started(tmp_path, "two", {"trials": 4}).wait(60) == 0
    records = opened(tmp_path, trials=4).records()
    assert [record.outcome for record in records] == ["finished", "finished", "lost", "finished", "finished"]
    lost, again = records[2], records[3]
    assert (again.retry_of, again.drawn) == (lost.number, lost.drawn)
    assert lost.reason == "its process died"


def test_a_search_that_was_killed_draws_what_an_undisturbed_one_draws(tmp_path):
    for name, stop in (("whole", {}), ("killed", {"signal_in": 4, "signal": "SIGKILL"})):
        (tmp_path / name).mkdir()
        started(tmp_path / name, "first", {"trials": 8, "startup_trials": 2}, **stop).wait(60)
        started(tmp_path / name, "second", {"trials": 8, "startup_trials": 2}).wait(60)
    whole, killed = (
        [record.drawn for record in opened(tmp_path / name, trials=8).records() if record.outcome == "finished"]
        for name in ("whole", "killed")
    )
    assert len({str(drawn) for drawn in whole}) == len(whole) == 8
    assert killed[:4] == whole[:4]  # the lost trial has a number too, so later ones are drawn by other seeds


def test_several_processes_end_as_many_trials_as_were_asked_for_and_no_number_twice(tmp_path):
    processes = [started(tmp_path, str(n), {"trials": 9}, trial_s=0.05) for n in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    records = opened(tmp_path, trials=9).records()
    assert [record.number for record in records] == list(range(9))
    assert {record.outcome for record in records} == {"finished"}


def test_the_others_take_over_the_trial_of_a_process_that_dies_beside_them(tmp_path):
    victim = started(tmp_path, "victim", {"trials": 6}, signal_in=1, signal="SIGKILL")
    assert victim.wait(60) == -9
    others = [started(tmp_path, str(n), {"trials": 6}, trial_s=0.05) for n in range(2)]
    assert [process.wait(60) for process in others] == [0, 0]
    records = opened(tmp_path, trials=6).records()
    assert [record.outcome for record in records].count("finished") == 6
    assert [record.retry_of for record in records if record.retry_of is not None] == [0]


def test_the_last_trials_are_waited_for_while_whoever_has_them_lives(tmp_path):
    with opened(tmp_path, trials=2) as first, opened(tmp_path, trials=2) as second:
        one, other = first.take(), second.take()
        assert first.take() is second.take() is None
        first.finish(one, measured())
        assert first.are_taken()
        assert not first.are_complete()
        second.finish(other, measured())
        assert first.are_complete()
    with opened(tmp_path, trials=3) as first:
        killed = opened(tmp_path, trials=3)  # never opened as a context: it lives for nobody
        killed.take()
        assert not first.are_taken()


def test_a_trial_of_a_process_that_stands_still_is_not_taken_from_it(tmp_path):
    stopped = started(tmp_path, "stopped", {"trials": 3}, signal_in=1, signal="SIGSTOP")
    try:
        wait_for(tmp_path / "study" / "reached")
        assert started(tmp_path, "other", {"trials": 3}).wait(60) == 0
        assert [record.number for record in opened(tmp_path, trials=3).records()] == [1, 2]
    finally:
        stopped.kill()
        stopped.wait()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_trial_that_ends_its_process_three_times_has_failed(tmp_path):
    for number in range(3):
        assert started(tmp_path, str(number), {"trials": 2}, signal_in=1, signal="SIGKILL").wait(60) == -9
    with opened(tmp_path, trials=2) as trials:
        taken = trials.take()
        assert taken is not None
        assert taken.params != trials.records()[0].drawn
    records = trials.records()
    assert [record.outcome for record in records] == ["lost", "lost", "failed"]
    assert records[-1].reason == "its process died 3 times"


@pytest.mark.parametrize("damage", [b"\x00" * 9, b'{"op_code": 5, "wor', b"[1]", b"\xff"])
def test_a_damaged_journal_is_refused_with_its_line_and_what_is_before_it_can_be_kept(tmp_path, damage):
    with opened(tmp_path, trials=2) as trials:
        while (trial := trials.take()) is not None:
            trials.finish(trial, measured())
    journal = tmp_path / "study" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    ends = next(number for number, line in enumerate(lines) if b'"outcome"' in line)
    spoilt = len(lines) - 3
    assert ends < spoilt
    journal.write_bytes(b"".join([*lines[:spoilt], damage + b"\n", *lines[spoilt + 1 :]]))
    with pytest.raises(FileTampered, match=rf"journal\.jsonl:{spoilt + 1} of {len(lines)} holds no record of a search"):
        opened(tmp_path, trials=2)
    journal.write_bytes(b"".join(lines[:spoilt]))
    assert [record.number for record in opened(tmp_path, trials=2).records()][:1] == [0]


def test_more_trials_go_on_from_those_that_ended(tmp_path):
    for count in (2, 3):
        with opened(tmp_path, trials=count) as trials:
            while (trial := trials.take()) is not None:
                trials.finish(trial, measured())
    assert len(trials.records()) == 3


def test_a_diverged_trial_is_a_result_with_its_reason_and_draws_nothing_beside_it(tmp_path):
    rates = []
    with opened(tmp_path, trials=24, startup_trials=6, space={"learning_rate": {"low": 1e-5, "high": 1e-1}}) as trials:
        while (trial := trials.take()) is not None:
            rate = trial.params["learning_rate"]
            rates.append(rate)
            if rate > 1e-3:
                trials.end(trial, "diverged", "the loss of step 3 is nan")
            else:
                trials.finish(trial, measured(loss=1.0))
    records = trials.records()
    assert {record.outcome for record in records} == {"finished", "diverged"}
    assert all(record.reason == "the loss of step 3 is nan" for record in records if record.outcome == "diverged")
    assert sum(rate > 1e-3 for rate in rates[-12:]) < sum(rate > 1e-3 for rate in rates[:12])
    assert all(record.measured for record in records if record.is_best)


def test_a_trial_whose_early_loss_is_worse_than_the_median_should_end(tmp_path):
    with opened(tmp_path, trials=9, startup_trials=2) as trials:
        for loss in (1.0, 1.1):
            trial = trials.take()
            assert not trials.report(trial, 1, loss)
            trials.finish(trial, measured(loss))
        worse, better = trials.take(), trials.take()
        assert trials.report(worse, 1, 1.2)
        assert not trials.report(better, 1, 0.9)
        assert trials.end(worse, "pruned", "worse").early_losses == (1.2,)


@pytest.mark.parametrize("asked", [{"prune": False}, {"goals": ["held_out_loss", "training_s"]}])
def test_nothing_is_ended_early_where_that_is_switched_off_or_two_goals_compare(tmp_path, asked):
    with opened(tmp_path, trials=9, startup_trials=1, **asked) as trials:
        trial = trials.take()
        trials.report(trial, 1, 1.0)
        trials.finish(trial, measured(1.0))
        assert not trials.report(trials.take(), 1, 99.0)


def test_trials_that_no_other_is_better_than_in_both_goals_are_the_best(tmp_path):
    with opened(tmp_path, trials=3, goals=["held_out_loss", "training_s"]) as trials:
        for loss, seconds in ((1.0, 9.0), (2.0, 3.0), (2.0, 10.0)):
            trials.finish(trials.take(), measured(loss, seconds))
    assert [record.is_best for record in trials.records()] == [True, True, False]


def test_trials_that_fail_in_a_row_stop_the_search_and_a_restart_tries_again(tmp_path):
    with opened(tmp_path, trials=9, max_failed=2) as trials:
        trials.end(trials.take(), "failed", "worker ended with signal SIGSEGV")
        trials.finish(trials.take(), measured())
        trials.end(trials.take(), "failed", "worker ended with signal SIGSEGV")
        with pytest.raises(ProcessFailed, match=r"2 trials in a row failed, search\.max_failed=2: worker ended with"):
            trials.end(trials.take(), "failed", "worker ended with signal SIGSEGV")
    with opened(tmp_path, trials=9, max_failed=2) as trials:
        assert trials.take() is not None


def test_no_trial_begins_after_the_seconds_are_spent(tmp_path):
    with opened(tmp_path, trials=9, budget_s=0.2) as trials:
        trial = trials.take()
        time.sleep(0.25)
        assert trials.left_s() < 0
        trials.finish(trial, measured())
        assert trials.take() is None
    with opened(tmp_path, trials=9, budget_s=30.0) as trials:
        assert trials.take() is not None


def test_the_time_since_a_process_died_is_not_spent(tmp_path):
    search = {"trials": 2, "budget_s": 1.0}
    assert started(tmp_path, "one", search, signal_in=1, signal="SIGKILL").wait(60) == -9
    time.sleep(1.1)
    assert opened(tmp_path, **search).left_s() > 0.5
    assert started(tmp_path, "two", search).wait(60) == 0
    assert [record.outcome for record in opened(tmp_path, **search).records()] == ["lost", "finished", "finished"]


def test_a_trial_whose_process_died_while_it_drew_is_drawn_again(tmp_path):
    trials = opened(tmp_path, trials=1)
    with trials:
        trials._study.ask()
    with opened(tmp_path, trials=1) as trials:
        again = trials.take()
        assert set(again.params) == set(SearchConfig().space.searched)


def test_settings_that_were_trained_already_have_a_twin(tmp_path):
    fixed = {"learning_rate": None, "r": [8, 16], "lora_alpha": None, "lora_dropout": None, "effective_batch": None}
    with opened(tmp_path, trials=9, space={**fixed, "lr_scheduler_type": None}) as trials:
        seen = []
        while (trial := trials.take()) is not None:
            twin = trials.twin_of(trial)
            seen.append((trial.params["r"], twin is not None))
            trials.finish(trial, twin[1] if twin else measured())
    assert sum(not twin for _, twin in seen) == len({r for r, _ in seen})


def test_the_first_trial_begins_with_the_suggested_rate(tmp_path):
    for _ in range(2):
        with opened(tmp_path, trials=2) as trials:
            trials.begin_with({"learning_rate": 2.5e-4})
            trials.finish(trials.take(), measured())
    first, second = trials.records()
    assert first.drawn["learning_rate"] == 2.5e-4 != second.drawn["learning_rate"]
    assert set(first.drawn) == set(SearchConfig().space.searched)


@given(
    whole=st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=5),
    torn=st.binary(max_size=90_000),
)
@settings(max_examples=60, deadline=None)
def test_whoever_takes_the_journal_cuts_off_the_line_a_killed_writer_left(tmp_path_factory, whole, torn):
    journal = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    kept = b"".join(line + b"\n" for line in whole)
    journal.write_bytes(kept + torn.replace(b"\n", b""))
    lock = JournalLock(journal)
    lock.acquire()
    lock.release()
    assert journal.read_bytes() == kept


def test_a_study_whose_last_line_is_torn_goes_on(tmp_path):
    with opened(tmp_path, trials=2) as trials:
        trials.finish(trials.take(), measured())
    with (tmp_path / "study" / "journal.jsonl").open("ab") as stream:
        stream.write(b'{"op_code":4,"worker_id":"x')
    with opened(tmp_path, trials=2) as trials:
        trials.finish(trials.take(), measured())
    assert [record.outcome for record in opened(tmp_path, trials=2).records()] == ["finished", "finished"]


def test_a_process_counts_as_alive_for_as_long_as_it_is_there(tmp_path):
    with Presence(tmp_path) as one, Presence(tmp_path) as other:
        assert one.lives(other.name)
        assert one.lives(one.name)
    assert not one.lives(other.name)
    assert not one.lives("never there")
    assert one.last_seen("never there") is None
