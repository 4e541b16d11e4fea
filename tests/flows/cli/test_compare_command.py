"""`edgekiln compare`: what is refused before any model is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--html", "none/page.html"], 2, "--html none/page.html: the folder"),
        (["--html", "."], 2, "--html '.' names a folder, no file"),
        (["--rows", "none.jsonl"], 3, "none.jsonl: No such file"),
        (["--judge", "nobody"], 2, "'nobody' is not known"),
        (["--judge", "qwen3-8b"], 2, "--set label.base_url="),
        (["--judge", "qwen3-8b", "--set", "label.base_url=ftp://x"], 2, "label.base_url"),
        (["--judge", "qwen3-8b", "--profile", "none.yaml"], 2, "none.yaml"),
        (["--set", "label.seed=1"], 2, "--set label.seed=1 is for the judge, and none is named"),
        (["--prompts", "0"], 2, "--prompts 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    more: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(["compare", "a.gguf", "b.gguf", *more, "--workspace", "ws"]) == status
    told = capsys.readouterr()
    assert said in told.err
    assert "Fix: " in told.err
    assert told.out == ""
    assert not (tmp_path / "ws").exists()
