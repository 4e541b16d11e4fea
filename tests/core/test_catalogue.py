"""Model and device cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import catalogue
from core.config import load
from core.errors import BadConfig


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_every_shipped_model_card_loads(name: str) -> None:
    card = catalogue.model(name)
    assert card.roles
    assert card.licence


@pytest.mark.parametrize("name", catalogue.names("devices"))
def test_every_shipped_device_card_loads(name: str) -> None:
    assert catalogue.device(name).name == name


def test_a_card_beside_the_profile_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "local.yaml").write_text("kind: ssh\nhost: pi\n")
    assert catalogue.device("local", tmp_path).host == "pi"
    assert catalogue.device("local").kind == "local"


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(BadConfig, match="did you mean smollm2-135m-instruct"):
        catalogue.model("smollm2-135m-instrukt")


def test_a_bad_card_names_file_and_keys(tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "mine.yaml").write_text("kind: telepathy\ncolour: red\n")
    with pytest.raises(BadConfig, match=r"mine\.yaml: kind='telepathy': .*; colour: unknown key"):
        catalogue.device("mine", tmp_path)


@pytest.mark.parametrize("host", ["null", '""', "-oProxyCommand=true"])
def test_a_board_without_a_host_is_refused(tmp_path: Path, host: str) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "mine.yaml").write_text(f"kind: ssh\nhost: {host}\n")
    with pytest.raises(BadConfig, match="names no machine"):
        catalogue.device("mine", tmp_path)


def test_a_folder_that_is_named_like_a_card_is_none(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine.yaml").mkdir(parents=True)
    assert "mine" not in catalogue.names("models", tmp_path)


def test_every_card_that_does_not_fit_its_part_is_named_at_once() -> None:
    changes = {"label.teacher": "tinyllama-1.1b-chat", "train.student": "qwen3-8b", "bench.device": "locall"}
    with pytest.raises(BadConfig) as refused:
        catalogue.check_cards(load("demo", changes))
    text = str(refused.value)
    assert "label.teacher=tinyllama-1.1b-chat: its card has the roles student" in text
    assert "train.student=qwen3-8b: its card has the roles teacher" in text
    assert "device 'locall' is not known" in text
    assert "did you mean local?" in text


def test_a_teacher_behind_an_endpoint_needs_its_backend() -> None:
    with pytest.raises(BadConfig, match=r"qwen3-8b lives behind an endpoint, label\.backend is llama-cpp"):
        catalogue.check_cards(load("demo", {"label.teacher": "qwen3-8b"}))


def test_a_gguf_needs_its_backend() -> None:
    with pytest.raises(BadConfig, match=r"smollm2-135m-instruct is a GGUF file, label\.backend is transformers"):
        catalogue.check_cards(load("demo", {"label.backend": "transformers"}))
