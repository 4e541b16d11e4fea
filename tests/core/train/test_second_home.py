"""Checkpoints sent to a real S3 server beside a training, and fetched by a machine that has none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.contract import Stage
from core.errors import Evicted, ProcessFailed, RemoteUnreachable
from core.events import CheckpointSaved, CheckpointSent, Evaluated, Event, Leaving, Note
from core.remote.home import at_home
from core.train import checkpoints, retention, stored
from core.train.carrier import Carrier
from core.train.fetching import fetch_newest
from core.train.limits import EvictionLimits
from core.train.second_home import carried
from core.workspace import MANIFEST, Workspace, open_workspace
from tests.core.remote.place import Place
from tests.core.remote.proxy import Proxy
from tests.core.train import sample_checkpoints as sample
from tests.core.train.metadata_servers import AzureCloud, served

LIMITS = EvictionLimits(margin_s=0.2)
QUICK = {"attempts": 1, "connect_timeout_s": 0.5, "timeout_s": 2.0, "patience_s": 1.0}
KEY = "train-0123456789ab"


class Training:
    """The files of a training as its worker writes them, and the events it tells."""

    def __init__(self, root: Path) -> None:
        self.staged = root / KEY
        self.made = self.staged / "checkpoints"
        (self.staged / "content").mkdir(parents=True)

    def save(self, step: int, tell: Callable[[Event], None], seed: int = 0, rollbacks: int = 0) -> None:
        written = sample.written(self.made / "writing" / f"step-{step}")
        (written / "optimizer.safetensors").write_bytes(bytes([seed]) * 200_000)
        checkpoints.keep(written, self.made, sample.taken(step, rollbacks=rollbacks))
        tell(CheckpointSaved(step=step))
        retention.thin(self.made, self.made / "writing")

    def evaluate(self, step: int, loss: float, tell: Callable[[Event], None]) -> None:
        retention.write_scores(self.made, {**retention.scores(self.made), step: loss})
        tell(Evaluated(step=step, held_out_loss=loss))

    def steps(self) -> list[int]:
        return [checkpoints.step_of(path) for path in checkpoints.all_in(self.made)]


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "here")


@pytest.fixture
def told() -> list[Event]:
    return []


@contextmanager
def raised(kind: type[BaseException]) -> Iterator[None]:
    """A block that must end by an error of a kind."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} came out")


def home_of(place: Place, tmp_path: Path, told: list[Event]) -> AbstractContextManager[Workspace]:
    return at_home(place.config(patience_s=0.0), open_workspace(tmp_path / "workspace"), "test", told.append)


def until(found: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def sent(told: list[Event]) -> list[int]:
    return [event.step for event in told if isinstance(event, CheckpointSent)]


def warned(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, Note) and event.level == "warning"]


def in_store(place: Place) -> list[str]:
    return [one.folder for one in stored.newest_first(place.store(), KEY) if one.finished_at]


def fetched(place: Place, tmp_path: Path, told: list[Event], name: str = "there") -> Training:
    """Return what a machine with nothing gets."""
    other = Training(tmp_path / name)
    fetch_newest(place.store(), other.staged, tmp_path / "quarantine", told.append)
    return other


def test_every_checkpoint_is_sent_and_the_store_keeps_the_newest_and_the_best(
    place: Place, training: Training, told: list[Event], tmp_path: Path
) -> None:
    with Carrier(place.store(), training.staged, LIMITS, told.append) as carrier:
        for number, step in enumerate(range(10, 60, 10)):
            training.save(step, carrier)
            training.evaluate(step, [3.0, 1.0, 2.0, 2.5, 2.6][number], carrier)
            until(lambda step=step: step in sent(told))
        until(lambda: len(in_store(place)) == 3)
    assert sent(told) == [10, 20, 30, 40, 50]
    assert in_store(place) == ["step-00000050", "step-00000040", "step-00000020"]
    assert warned(told) == []
    assert not (training.staged / "uploads").exists()
    held = {name.removeprefix("kiln/").split("/")[2] for name in place.names() if name.startswith("kiln/beside/")}
    assert held == {one.name for one in stored.newest_first(place.store(), KEY)}
    other = fetched(place, tmp_path, told)
    assert other.steps() == [20, 50]
    assert retention.best_of(other.made) == other.made / "step-00000020"


@pytest.mark.full
def test_a_slow_store_gets_the_newest_and_the_best_and_slows_nothing(
    place: Place, proxy: Proxy, training: Training, told: list[Event]
) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.up_bytes_s = 150_000
    with Carrier(store, training.staged, LIMITS, told.append) as carrier:
        began = time.perf_counter()
        for step in range(10, 110, 10):
            training.save(step, lambda _event: None)
        alone_s = time.perf_counter() - began
        began = time.perf_counter()
        for step in range(110, 210, 10):
            training.save(step, carrier)
            if step == 120:
                training.evaluate(step, 1.0, carrier)
        beside_s = time.perf_counter() - began
        until(lambda: {120, 200} <= set(sent(told)), 40)
    assert beside_s < 3 * alone_s + 2.0  # the ten of them take 16 s to send
    assert len(sent(told)) <= 5
    assert training.steps() == [120, 190, 200]


@pytest.mark.full
def test_a_store_slower_than_the_training_still_gets_checkpoints(
    place: Place, proxy: Proxy, training: Training, told: list[Event]
) -> None:
    (training.staged / "content" / "metrics.jsonl").write_bytes(b"{}\n" * 50_000)
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.up_bytes_s = 200_000
    with Carrier(store, training.staged, LIMITS, told.append) as carrier:
        for step in range(10, 410, 10):
            training.save(step, carrier)
            time.sleep(0.2)
        assert 2 <= len(sent(told)) < 40


@pytest.mark.full
def test_a_store_that_is_down_is_told_once_and_gets_the_newest_when_it_is_back(
    place: Place, proxy: Proxy, training: Training, told: list[Event]
) -> None:
    store = place.store(proxy.port, **QUICK)
    store.traits()
    proxy.drop()
    proxy.faults.refuse = True
    with Carrier(store, training.staged, LIMITS, told.append) as carrier:
        for step in (10, 20, 30):
            training.save(step, carrier)
            time.sleep(0.3)
        proxy.faults.refuse = False
        until(lambda: sent(told))
    assert sent(told) == [30]
    assert len([text for text in warned(told) if "uploaded later, the work goes on" in text]) == 1
    assert in_store(place) == ["step-00000030"]


def test_a_wrong_key_is_told_and_fails_nothing(
    place: Place, training: Training, told: list[Event], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.core.remote.proxy import s3_error

    store = place.store(proxy.port, **QUICK)
    store.traits()
    proxy.drop()
    proxy.faults.says = [s3_error("403 Forbidden", "SignatureDoesNotMatch")] * 40
    with Carrier(store, training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        until(lambda: warned(told))
    assert "refuses: SignatureDoesNotMatch" in warned(told)[0]
    assert "hunter2" not in json.dumps([event.model_dump(mode="json") for event in told])
    assert "AKIATEST" not in json.dumps([event.model_dump(mode="json") for event in told])


@pytest.mark.full
def test_a_training_that_went_back_sends_its_other_checkpoint_of_the_same_step(
    place: Place, training: Training, told: list[Event], tmp_path: Path
) -> None:
    with Carrier(place.store(), training.staged, LIMITS, told.append) as carrier:
        for seed in (1, 2):
            training.save(20, carrier, seed)
            until(lambda seed=seed: len(sent(told)) == seed)
            time.sleep(1.1)  # the store tells times in whole seconds
    assert in_store(place) == ["step-00000020"] * 2
    other = fetched(place, tmp_path, told)
    assert (other.made / "step-00000020" / "optimizer.safetensors").read_bytes()[:1] == b"\x02"


@pytest.mark.full
def test_what_a_training_went_back_from_is_no_place_to_go_on_from(
    place: Place, training: Training, told: list[Event], tmp_path: Path
) -> None:
    with Carrier(place.store(), training.staged, LIMITS, told.append) as carrier:
        for step in (10, 20, 30):
            training.save(step, carrier)
            until(lambda step=step: step in sent(told))
        for step in (20, 30):
            shutil.rmtree(training.made / f"step-{step:08d}")
        training.save(15, carrier)
        until(lambda: in_store(place) == ["step-00000015"])
    assert fetched(place, tmp_path, told).steps() == [15]


def test_what_is_being_sent_outlives_its_checkpoint(
    place: Place, proxy: Proxy, training: Training, told: list[Event], tmp_path: Path
) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.up_bytes_s = 300_000
    with Carrier(store, training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        shutil.rmtree(training.made / "step-00000010")
        until(lambda: sent(told))
    assert fetched(place, tmp_path, told).steps() == [10]


def test_records_beside_the_checkpoint_come_along(
    place: Place, training: Training, told: list[Event], tmp_path: Path
) -> None:
    (training.staged / "content" / "decisions.jsonl").write_text('{"decision": "rolled-back"}\n', encoding="utf-8")
    with Carrier(place.store(), training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        until(lambda: sent(told))
    other = fetched(place, tmp_path, told)
    assert (other.staged / "content" / "decisions.jsonl").read_text(encoding="utf-8") == '{"decision": "rolled-back"}\n'
    assert warned(told) == []


def broken_in_store(place: Place, folder: str, file: str, how: str) -> None:
    (name,) = [each for each in place.names() if folder in each and each.endswith(file) and "/checkpoints/" in each]
    if how == "missing":
        place.client.delete_object(Bucket=place.bucket, Key=name)
        return
    held = place.client.get_object(Bucket=place.bucket, Key=name)
    data = held["Body"].read()
    spoilt = {
        "cut": data[:-5],
        "changed": bytes([data[0] ^ 1]) + data[1:],
        "hostile": b'{"manifest": {"files": [{"path": "../x"}]}}',
    }
    place.client.put_object(Bucket=place.bucket, Key=name, Body=spoilt[how], Metadata=held["Metadata"])


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("optimizer.safetensors", "changed"),
        ("optimizer.safetensors", "missing"),
        ("trainer_state.json", "cut"),
        (MANIFEST, "missing"),
        (MANIFEST, "changed"),
        (MANIFEST, "hostile"),
    ],
)
def test_a_newest_one_that_is_not_whole_is_passed_over_for_the_one_before(
    place: Place, training: Training, told: list[Event], tmp_path: Path, file: str, how: str
) -> None:
    with Carrier(place.store(), training.staged, LIMITS, told.append) as carrier:
        for step in (10, 20):
            training.save(step, carrier)
            until(lambda step=step: step in sent(told))
    broken_in_store(place, "step-00000020", file, how)
    other = fetched(place, tmp_path, told)
    assert other.steps() == [10]
    checkpoints.verify(other.made / "step-00000010", sample.TRAINING)
    passed = [text for text in warned(told) if "step-00000020" in text and "passed over" in text]
    assert bool(passed) == ((file, how) != (MANIFEST, "missing"))  # half a one is no broken one


def test_a_machine_that_is_further_than_the_store_keeps_its_own(
    place: Place, training: Training, told: list[Event], tmp_path: Path
) -> None:
    with Carrier(place.store(), training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        until(lambda: sent(told))
    training.save(20, lambda _event: None)
    fetch_newest(place.store(), training.staged, tmp_path / "quarantine", told.append)
    assert training.steps() == [10, 20]
    with Carrier(place.store(), training.staged, LIMITS, told.append):
        until(lambda: 20 in sent(told))  # what an earlier process could not send any more


@pytest.mark.parametrize("step", [30, 20, 10])
def test_what_went_back_elsewhere_is_newer_than_what_is_further_here(
    place: Place, training: Training, told: list[Event], tmp_path: Path, step: int
) -> None:
    elsewhere = Training(tmp_path / "elsewhere")
    with Carrier(place.store(), elsewhere.staged, LIMITS, told.append) as carrier:
        elsewhere.save(step, carrier, seed=1, rollbacks=1)
        until(lambda: sent(told))
    for each in (10, 20):
        training.save(each, lambda _event: None)
    fetch_newest(place.store(), training.staged, tmp_path / "quarantine", told.append)
    assert training.steps() == sorted({10, 20, step})
    fetched_one = training.made / f"step-{step:08d}"
    assert checkpoints.verify(fetched_one).taken.age == (1, step)
    assert not (training.staged / "former").exists()
    fetch_newest(place.store(), training.staged, tmp_path / "quarantine", lambda event: pytest.fail(str(event)))


def test_one_of_the_same_step_stays_where_the_newer_one_is_broken(
    place: Place, training: Training, told: list[Event], tmp_path: Path
) -> None:
    elsewhere = Training(tmp_path / "elsewhere")
    with Carrier(place.store(), elsewhere.staged, LIMITS, told.append) as carrier:
        elsewhere.save(20, carrier, seed=1, rollbacks=1)
        until(lambda: sent(told))
    (name,) = [name for name in place.names() if name.endswith("optimizer.safetensors")]
    place.store().put_plain(name.removeprefix("kiln/"), b"other")
    training.save(20, lambda _event: None)
    fetch_newest(place.store(), training.staged, tmp_path / "quarantine", told.append)
    assert checkpoints.verify(training.made / "step-00000020").taken.age == (0, 20)
    assert [text for text in warned(told) if "passed over" in text]


def test_a_store_that_cannot_be_asked_stops_only_a_machine_that_has_nothing(
    place: Place, proxy: Proxy, training: Training, told: list[Event], tmp_path: Path
) -> None:
    store = place.store(proxy.port, **QUICK)
    proxy.faults.refuse = True
    with pytest.raises(RemoteUnreachable):
        fetch_newest(store, training.staged, tmp_path / "quarantine", told.append)
    training.save(10, lambda _event: None)
    fetch_newest(store, training.staged, tmp_path / "quarantine", told.append)
    assert "the newest here is taken" in warned(told)[0]


def evicted_by(deadline_s: float, source: str = "AWS") -> Leaving:
    deadline = datetime.now(UTC) + timedelta(seconds=deadline_s)
    return Leaving(stage=Stage.TRAIN, source=source, way="terminate", deadline=deadline)


def test_an_eviction_sends_the_newest_before_its_deadline_though_its_event_never_came(
    place: Place, proxy: Proxy, training: Training, told: list[Event], tmp_path: Path
) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.up_bytes_s = 100_000
    with raised(Evicted), Carrier(store, training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        time.sleep(0.3)
        training.save(20, lambda _event: None)
        proxy.faults.up_bytes_s = 1_000_000
        proxy.drop()
        carrier(evicted_by(20))
        raise Evicted("the machine goes", remedy="none")
    assert carrier.newest_is_sent
    assert fetched(place, tmp_path, told).steps()[-1] == 20


@pytest.mark.full
def test_an_eviction_that_leaves_too_little_time_ends_in_time_and_says_what_is_lost(
    place: Place, proxy: Proxy, training: Training, told: list[Event]
) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.up_bytes_s = 20_000
    with raised(Evicted), Carrier(store, training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        carrier(evicted_by(1.5))
        began = time.monotonic()
        raise Evicted("the machine goes", remedy="none")
    assert 1.0 < time.monotonic() - began < 6.0
    assert not carrier.newest_is_sent
    assert [text for text in warned(told) if "not uploaded yet: step-00000010" in text]
    assert in_store(place) == []


@pytest.mark.full
def test_ctrl_c_does_not_wait_for_a_silent_store(place: Place, proxy: Proxy, training: Training, told: list[Event]) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.silent = True
    with raised(KeyboardInterrupt), Carrier(store, training.staged, LIMITS, told.append) as carrier:
        training.save(10, carrier)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 9


@pytest.mark.parametrize("reachable", [True, False])
def test_azure_is_told_that_the_machine_may_go_only_when_nothing_is_lost_with_it(
    place: Place, training: Training, told: list[Event], tmp_path: Path, reachable: bool
) -> None:
    with served(AzureCloud()) as cloud, home_of(place, tmp_path, told) as workspace:
        limits = EvictionLimits(cloud="Azure", metadata_url=cloud.url, margin_s=0.2)
        cloud.notify(seconds=30)
        if not reachable:
            place.manners.garble = 10**6
        with raised(Evicted), carried(workspace, training.staged, limits, told.append) as hear:
            training.save(10, hear)
            hear(evicted_by(20.0 if reachable else 2.0, "Azure"))
            raise Evicted("the machine goes", remedy="none")
        assert bool(cloud.approved) == reachable
    assert bool([e for e in told if isinstance(e, Note) and "Azure knows now" in e.text]) == reachable


def test_without_a_second_home_azure_is_told_once_the_training_has_stopped(
    training: Training, told: list[Event], tmp_path: Path
) -> None:
    with served(AzureCloud()) as cloud:
        limits = EvictionLimits(cloud="Azure", metadata_url=cloud.url)
        cloud.notify(seconds=30)
        with raised(Evicted), carried(open_workspace(tmp_path / "w"), training.staged, limits, told.append) as hear:
            hear(evicted_by(30.0, "Azure"))
            assert not cloud.approved
            raise Evicted("the machine goes", remedy="none")
        assert cloud.approved


def test_a_training_that_fails_leaves_its_newest_checkpoint_in_the_store(
    place: Place, training: Training, told: list[Event]
) -> None:
    with raised(ProcessFailed), Carrier(place.store(), training.staged, LIMITS, told.append):
        training.save(10, lambda _event: None)
        raise ProcessFailed("the worker died", remedy="none")
    assert in_store(place) == ["step-00000010"]
