"""The families students come from: tiny models of each, converted, quantised and judged by the real parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.config import ExportConfig
from core.contract import Stage
from core.events import Event, Note
from core.export.inspect import read_gguf
from core.export.section import DivergenceLimits
from tests.core.export.conftest import Trained, publish_adapter

pytestmark = [pytest.mark.model, pytest.mark.full]

BUILDER = Path(__file__).parent / "build_architecture.py"
TYPES = ("F32", "Q8_0", "Q4_K_M", "Q4_0")
WIDE = DivergenceLimits(Q8_0=10, Q4_K_M=10, Q4_0=10)  # a tiny model is hurt more than any real one
# family, hidden size, architecture, tokenizer, pre-tokenizer, block matrices that fall back in Q4_K_M
FAMILIES = (
    ("llama", 256, "llama", "gpt2", "smollm", 0),
    ("llama:untied", 256, "llama", "gpt2", "smollm", 0),
    ("qwen2", 320, "qwen2", "gpt2", "qwen2", 12),
    ("qwen3", 256, "qwen3", "gpt2", "qwen2", 0),
    ("gemma3_text", 256, "gemma3", "llama", "default", 0),
    ("gemma3_text", 320, "gemma3", "llama", "default", 12),
    ("phi3", 256, "phi3", "llama", "default", 0),
    ("mistral", 256, "llama", "llama", "default", 0),
)


def trained(family: str, hidden: int, bpe: Path, root: Path) -> Trained:
    base = root / "base"
    argv = [sys.executable, str(BUILDER), family, str(hidden), str(base), str(bpe)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return publish_adapter(root, base, steps=40)


@pytest.mark.parametrize(("family", "hidden", "architecture", "tokenizer", "pre", "fallbacks"), FAMILIES)
def test_a_family_is_converted_quantised_and_passes_the_gate(
    family: str,
    hidden: int,
    architecture: str,
    tokenizer: str,
    pre: str,
    fallbacks: int,
    smollm_folder: Path,
    toolchain,
    tmp_path: Path,
) -> None:
    bpe = smollm_folder if pre == "smollm" else toolchain.source / "models" / "ggml-vocab-qwen2.gguf"
    pupil = trained(family, hidden, bpe, tmp_path)
    heard: list[Event] = []
    made = pupil.export(ExportConfig(quantisations=TYPES, max_loss_increase=5.0, max_divergence=WIDE), heard)

    assert [event.text for event in heard if isinstance(event, Note) and "rejected" in event.text] == []
    by_type = {one.type: one for one in made.quantisations}
    assert tuple(by_type) == TYPES
    assert by_type["F32"].held_out_loss == pytest.approx(made.reference_held_out_loss, abs=1e-3)
    assert {kind: one.fallback_tensors for kind, one in by_type.items()} == dict.fromkeys(TYPES, 0) | {"Q4_K_M": fallbacks}
    folder = pupil.workspace.folder(Stage.EXPORT, made.artifact_id)
    for kind, one in by_type.items():
        facts = read_gguf(folder / one.path, kind)
        assert (facts.architecture, facts.tokenizer_model, facts.tokenizer_pre) == (architecture, tokenizer, pre)
        assert (facts.merges is None) == (tokenizer == "llama")
        assert 8 * one.bytes / facts.parameters > one.bits_per_weight == facts.bits_per_weight
    sizes = [by_type[kind].bits_per_weight for kind in TYPES]
    assert sizes == sorted(sizes, reverse=True)
