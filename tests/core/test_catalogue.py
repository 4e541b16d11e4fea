"""Model and device cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import catalogue
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
    with pytest.raises(BadConfig, match=r"mine\.yaml: kind: .*; colour: "):
        catalogue.device("mine", tmp_path)
