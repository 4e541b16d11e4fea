"""The student's Hugging Face folder: what lies in the cache is verified, a GGUF's tokenizer is carried over exactly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core import catalogue
from core.catalogue import LocalModel, ModelCard
from core.events import Event
from core.train import sealed, student

WRONG_SPLITTING = """
import sys
from pathlib import Path
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer
from core.train.materialise import worker
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
worker._compare(tokenizer, Path(sys.argv[2]))
tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
worker._compare(tokenizer, Path(sys.argv[2]))
"""


def test_a_folder_on_this_machine_is_taken_as_it_is(tiny_student):
    card = ModelCard(
        name="tiny",
        roles=("student",),
        source=LocalModel(path=str(tiny_student)),
        parameters=None,
        hidden_size=64,
        licence="MIT",
        chat_template="chatml",
        memory_mib=None,
    )
    assert student.folder(card) == tiny_student


@pytest.mark.full
@pytest.mark.model
def test_an_unfinished_folder_in_the_cache_is_made_anew_and_then_reused(default_gguf, monkeypatch):
    monkeypatch.setattr(student, "MATERIALISE_VERSION", -1)  # a place of its own in the cache
    card, seen = catalogue.model("smollm2-135m-instruct"), list[Event]()
    target = student.cached(card)
    target.mkdir(parents=True, exist_ok=True)
    try:
        assert student.folder(card, seen.append) == target
        assert "made anew" in seen[0].text
        assert seen[0].level == "warning"
        manifest = sealed.check(target)
        assert manifest.about["gguf"].startswith("sha256:")
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        assert config["dtype"] == "bfloat16"
        assert "quantization_config" not in config
        assert "im_start" in (target / "chat_template.jinja").read_text(encoding="utf-8")
        told = len(seen)
        assert student.folder(card, seen.append) == target
        assert len(seen) == told
    finally:
        shutil.rmtree(target.parent)


@pytest.mark.model
def test_a_tokenizer_that_splits_digits_otherwise_is_refused(smollm_folder, default_gguf):
    done = subprocess.run(
        [sys.executable, "-c", WRONG_SPLITTING, str(smollm_folder), str(default_gguf)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 1
    assert "differs from llama.cpp's: 'Hello 12345" in done.stderr
