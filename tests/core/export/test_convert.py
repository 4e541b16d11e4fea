"""What the converter is told, and what its refusals become; a stand-in writes down its arguments, or refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import GateRefused, ProcessFailed
from core.events import ignore
from core.export.convert import convert
from core.toolchain import Toolchain

WRITES = "import sys\nopen(sys.argv[sys.argv.index('--outfile') + 1], 'w').write('\\n'.join(sys.argv))\n"
HASH = "ab" * 32


def toolchain(folder: Path, script: str) -> Toolchain:
    (folder / "convert_hf_to_gguf.py").write_text(script)
    words = {"version": "1", "commit": "c", "key": "k", "compiler": "none", "system_info": ""}
    return Toolchain(**words, folder=folder, bin=folder, source=folder)


@pytest.mark.parametrize(
    ("kind", "sentencepiece", "name", "told"),
    [
        ("phi3", True, "pupil", "pupil (Phi-3)"),
        ("phi3", True, "my-Phi-3-mini", "my-Phi-3-mini"),
        ("phi3", False, "phi-4-mini", "phi-4-mini"),
        ("llama", True, "pupil", "pupil"),
    ],
)
def test_a_phi_3_is_named_so_because_llama_cpp_knows_its_tokenizer_by_the_name(
    kind: str, sentencepiece: bool, name: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    if sentencepiece:
        (tmp_path / "tokenizer.model").touch()
    convert(tmp_path, tmp_path / "out.gguf", name, toolchain(tmp_path, WRITES), ignore, timeout_s=60)
    arguments = (tmp_path / "out.gguf").read_text().splitlines()
    assert arguments[arguments.index("--model-name") + 1] == told


def test_a_pre_tokenizer_the_converter_does_not_know_is_refused_with_its_hash(tmp_path: Path) -> None:
    script = f"import sys\nsys.exit('WARNING:hf-to-gguf:** chkhsh:  {HASH}')\n"
    with pytest.raises(
        GateRefused, match=f"does not know its pre-tokenizer, whose hash is {HASH}: the tokenizer is new"
    ) as no:
        convert(tmp_path, tmp_path / "out.gguf", "pupil", toolchain(tmp_path, script), ignore, timeout_s=60)
    assert "Use the tokenizer's files as the model was published" in no.value.remedy


def test_any_other_failure_keeps_the_converters_words(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="no such tensor"):
        convert(
            tmp_path,
            tmp_path / "out.gguf",
            "p",
            toolchain(tmp_path, "import sys\nsys.exit('no such tensor')\n"),
            ignore,
            timeout_s=60,
        )
