"""The list of presets: what each needs of which machine, judged by rooms that are given and on this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from core import catalogue, config
from core.contract import Stage
from core.env.fit import Room
from core.env.host import read_host
from core.env.preset_offers import judged, offer_presets
from core.env.presets import presets
from tests.core.train.drive import labeled
from tests.core.train.sample_trainings import trained

SHAPE = catalogue.model("llama-3.1-8b-instruct").shape
GIB = 1 << 30


def offered(name: str, gpu: Room | None):
    preset = next(preset for preset in presets() if preset.name == name)
    train = config.load("desktop", [f"train.preset={name}"]).train
    return judged(preset, train, SHAPE, gpu, Room("cpu", "RAM", 16 * GIB, None, 2))


def gpu(gib: int, capability: str) -> Room:
    return Room("cuda", "a GPU", gib * GIB, None, 2, capability)


def test_the_same_preset_fits_a_large_gpu_and_not_a_small_one():
    large, small = offered("qlora-paper", gpu(80, "8.0")), offered("qlora-paper", gpu(4, "8.0"))
    assert large.fits
    assert small.fits is False
    assert small.need_bytes == large.need_bytes > 4 * GIB
    assert "there are 4.0" in small.why


def test_a_preset_for_another_generation_is_not_offered_as_fitting():
    assert offered("turing-safe", gpu(80, "9.0")).why.startswith("not for this GPU: capability 9.0")
    assert offered("ampere-balanced", None).why == "no GPU here"


def test_a_base_that_is_not_quantised_needs_more_than_one_that_is():
    plain, quantised = offered("lora-without-regret", None), offered("ampere-balanced", None)
    assert plain.need_bytes > quantised.need_bytes


def test_a_student_of_unknown_shape_gets_no_made_up_figure():
    (preset,) = (preset for preset in presets() if preset.name == "ampere-balanced")
    offer = judged(preset, config.load("desktop").train, None, gpu(24, "8.6"), None)
    assert (offer.need_bytes, offer.fits, offer.why) == (None, None, "the student's shape is not known")


@pytest.mark.parametrize("profile", ["demo", "pi5"])
def test_the_list_of_this_machine_holds_every_preset(profile):
    found = offer_presets(profile)
    assert [offer.preset.name for offer in found.offers] == [preset.name for preset in presets()]
    assert found.automatic in {offer.preset.name for offer in found.offers}
    assert all(offer.need_bytes for offer in found.offers)
    assert any("stands above every preset" in note for note in found.notes)


def test_the_time_is_told_where_a_training_of_that_speed_ran_on_this_machine_and_only_there(workspace):
    host = read_host()
    labeled(workspace, rows=16)
    assert {offer.time for offer in offer_presets("demo", (), workspace).offers} == {None}
    trained(workspace, host=host.fingerprint, device_name=host.cpu_model or "CPU")
    trained(workspace, host="elsewhere", device_name=host.cpu_model or "CPU", max_length=64)
    found = offer_presets("demo", (), workspace)
    told = {offer.preset.name: offer.time for offer in found.offers}
    assert told["cpu-tiny"].learned_from == "1 earlier training"
    assert {name for name, time in told.items() if time is not None} == {"cpu-tiny"}
    assert any("16 rows of the newest labelled dataset" in note for note in found.notes)
    elsewhere = offer_presets("demo", ("train.max_length=64",), workspace)
    assert {offer.time for offer in elsewhere.offers} == {None}


def one_second_a_step(workspace, **changes) -> None:
    """Publish a training on this machine whose steps took a second each."""
    host = read_host()
    adapter = trained(workspace, host=host.fingerprint, device_name=host.cpu_model or "CPU", **changes)
    path = workspace.folder(Stage.TRAIN, adapter.artifact_id) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for second, line in enumerate(lines):
        line["at"] = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat()
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def test_two_processes_take_half_the_steps_and_of_packed_rows_nobody_knows_how_many(workspace):
    labeled(workspace, rows=640)
    told = {}
    for name in ("parallel.processes=1", "parallel.processes=2", "packing=true"):
        key, _, value = name.partition("=")
        one_second_a_step(workspace, **{key: value})
        offers = offer_presets("demo", (f"train.{name}",), workspace).offers
        told[name] = next(offer.time for offer in offers if offer.preset.name == "cpu-tiny")
    one, two = told["parallel.processes=1"], told["parallel.processes=2"]
    assert one.low_s < 160 < one.high_s  # 640 rows twice, 8 rows a step
    assert (two.low_s, two.high_s) == (one.low_s / 2, one.high_s / 2)
    assert told["packing=true"] is None
