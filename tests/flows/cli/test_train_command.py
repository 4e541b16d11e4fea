"""`edgekiln train` beside the training itself: the presets as a person and as a program ask for them."""

from __future__ import annotations

import json

import pytest

from core.env.presets import presets
from flows.cli.main import run


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_the_table_of_presets_and_the_document_tell_the_same(capsys):
    assert run(["train", "presets"]) == 0
    table = capsys.readouterr().out
    assert run(["train", "presets", "--json", "--set", "train.max_length=64"]) == 0
    document = json.loads(capsys.readouterr().out)
    offers = {offer["preset"]["name"]: offer for offer in document["offers"]}
    assert offers.keys() == {preset.name for preset in presets()}
    assert all(name in table for name in offers)
    assert ">= 8.9, < 9.0" in table
    assert any("max_length=64" in note for note in document["notes"])


def test_a_preset_that_is_none_is_refused_with_the_nearest(capsys):
    assert run(["train", "presets", "--set", "train.preset=cpu"]) == 2
    assert "did you mean cpu-tiny?" in capsys.readouterr().err
