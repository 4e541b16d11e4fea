"""`edgekiln env models` as a person and as a program call it."""

from __future__ import annotations

import json

import pytest

from flows.cli.main import run


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_the_table_and_the_document_tell_the_same_models(capsys):
    assert run(["env", "models", "--no-hub"]) == 0
    table = capsys.readouterr().out
    assert run(["env", "models", "--no-hub", "--json", "--set", "train.max_length=64"]) == 0
    document = json.loads(capsys.readouterr().out)
    names = [model["candidate"]["name"] for model in document["models"]]
    assert "smollm2-135m-instruct" in names
    assert all(name in table for name in names)
    assert "the Hugging Face hub was not asked" in table
    assert any("of 64 tokens" in note for note in document["notes"])


def test_a_student_that_trains_only_with_a_smaller_batch_says_which(capsys):
    big = ["--set", "train.per_device_train_batch_size=4000", "--set", "train.device=cpu"]
    assert run(["env", "models", "--no-hub", *big]) == 0
    assert "with batch" in " ".join(capsys.readouterr().out.split())


def test_a_wrong_key_is_told_as_everywhere(capsys):
    assert run(["env", "models", "--no-hub", "--set", "train.rank=3"]) == 2
    assert "train.rank" in capsys.readouterr().err
