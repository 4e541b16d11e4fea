"""Reading the configured student without a network: local folders, the hub's cache, and what is broken in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import catalogue
from core.catalogue import HubModel, LocalModel
from core.env.probe import Probe, run_probes
from core.env.student import StudentReading, StudentRequest, read_student

CARD = catalogue.model("tinyllama-1.1b-chat")
CONFIG = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def local(path: Path):
    return CARD.model_copy(update={"source": LocalModel(path=str(path))})


def write(folder: Path, config: object = CONFIG, *, tokenizer: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def test_a_local_folder_tells_its_own_shape_not_the_card_s(tmp_path):
    found = read_student(local(write(tmp_path / "student")))
    assert found.complete
    assert found.why is None
    assert found.shape is not None
    assert found.shape.hidden_size == 64


@pytest.mark.parametrize(
    ("config", "says"),
    [("{", "cannot be read"), ("[]", "holds no object"), (" " * (5 << 20), "bytes")],
    ids=["torn", "a list", "huge"],
)
def test_a_broken_configuration_is_told_and_the_card_s_shape_is_taken(tmp_path, config, says):
    found = read_student(local(write(tmp_path / "student", config)))
    assert not found.complete
    assert says in (found.why or "")
    assert found.shape == CARD.shape


def test_a_folder_without_tokenizer_or_not_there_at_all_is_told(tmp_path):
    bare = read_student(local(write(tmp_path / "bare", tokenizer=False)))
    assert "has none of tokenizer.json" in (bare.why or "")
    gone = read_student(local(tmp_path / "gone"))
    assert "config.json is missing" in (gone.why or "")
    assert not gone.complete


def test_a_gguf_that_was_not_yet_made_a_folder_is_not_read(tmp_path):
    file = tmp_path / "student.gguf"
    file.write_bytes(b"GGUF")
    found = read_student(local(file))
    assert found.folder is None
    assert "not yet made a folder" in (found.why or "")


def test_a_hub_model_is_read_from_the_cache_when_only_its_small_files_lie_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "models--edge--tiny"
    write(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc", encoding="utf-8")
    cards = {
        "there": CARD.model_copy(update={"source": HubModel(repo="edge/tiny")}),
        "elsewhere": CARD.model_copy(update={"source": HubModel(repo="edge/other")}),
    }
    found = run_probes(
        [
            Probe(
                name=name,
                target="core.env.student:read",
                argument=StudentRequest(card=card).model_dump(mode="json"),
                timeout_s=30,
            )
            for name, card in cards.items()
        ],
        tmp_path / "scratch",
    )
    there = StudentReading.model_validate(found["there"].value)
    assert there.complete
    assert there.shape is not None
    assert there.shape.hidden_size == 64
    elsewhere = StudentReading.model_validate(found["elsewhere"].value)
    assert elsewhere.folder is None
    assert "edge/other@main is not in the Hugging Face cache" in (elsewhere.why or "")
    assert elsewhere.shape == CARD.shape


def test_a_model_behind_an_endpoint_has_no_files():
    found = read_student(catalogue.model("qwen3-8b"))
    assert found.folder is None
    assert "endpoint" in (found.why or "")
