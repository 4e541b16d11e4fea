"""The JavaScript of the charts, kept between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.report import charts


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "charts"


def made_anew() -> str:
    charts.bundle.cache_clear()
    return charts.bundle()


def test_the_bundle_is_made_once_and_a_damaged_one_again(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = made_anew()
    assert "window.vegaEmbed" in text
    (kept,) = cache_folder.iterdir()
    whole = kept.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("vl_convert.javascript_bundle", lambda _: pytest.fail("made a second time"))
        assert made_anew() == text
    for damaged in (whole.replace(b"vegaEmbed", b"vegaEmbex", 1), b"\xff"):
        kept.write_bytes(damaged)
        assert made_anew() == text
        assert kept.read_bytes() == whole


def test_a_page_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "file"))
    assert "window.vegaEmbed" in made_anew()
