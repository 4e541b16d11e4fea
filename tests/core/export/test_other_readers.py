"""An exported file in other hands: llama-server answers a chat from it, and the Hugging Face hub's own reader opens it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core.config import ExportConfig
from core.contract import Stage
from core.export.inspect import read_gguf
from core.export.section import DivergenceLimits
from tests.core.export.conftest import Trained

pytestmark = [pytest.mark.model, pytest.mark.full]

READER = "@huggingface/gguf@0.4.6"  # TypeScript, written apart from the gguf package
READ = """
import { gguf } from "@huggingface/gguf";
const { metadata, tensorInfos } = await gguf(process.argv[2], { allowLocalFile: true });
const sizes = tensorInfos.map((one) => one.shape.reduce((a, b) => a * Number(b), 1));
console.log(JSON.stringify({
  architecture: metadata["general.architecture"],
  tokens: metadata["tokenizer.ggml.tokens"].length,
  merges: metadata["tokenizer.ggml.merges"].length,
  template: metadata["tokenizer.chat_template"].length > 0,
  tensors: tensorInfos.length,
  parameters: sizes.reduce((a, b) => a + b, 0),
}));
"""


@pytest.fixture(scope="module")
def exported(tiny_trained: Trained) -> Path:
    config = ExportConfig(quantisations=("Q8_0",), max_loss_increase=5, max_divergence=DivergenceLimits(Q8_0=10))
    made = tiny_trained.export(config)
    return tiny_trained.workspace.folder(Stage.EXPORT, made.artifact_id) / "pupil-Q8_0.gguf"


@pytest.fixture
def server(exported: Path, toolchain, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [toolchain.program("llama-server"), "-m", exported, "--host", "127.0.0.1", "--port", port, "-c", 512, "--jinja"]
    with (tmp_path / "server.log").open("wb") as log:
        calm = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        child = subprocess.Popen([str(word) for word in argv], env=calm, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        child.kill()
        child.wait()


def test_llama_server_answers_a_chat_from_it(server: str) -> None:
    body = {"messages": [{"role": "user", "content": "What does len return?"}], "max_tokens": 24, "temperature": 0}
    asked = urllib.request.Request(server, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as answer:
        told = json.load(answer)
    words = told["choices"][0]["message"]["content"]
    assert words.strip()
    assert "<|im_" not in words


def test_the_hubs_own_reader_sees_what_ours_sees(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "read.mjs").write_text(READ)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", READER]
    subprocess.run(npm, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    done = subprocess.run(["node", "read.mjs", str(exported)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = read_gguf(exported, "Q8_0")
    assert json.loads(done.stdout) == {
        "architecture": facts.architecture,
        "tokens": facts.vocabulary,
        "merges": facts.merges,
        "template": facts.has_chat_template,
        "tensors": facts.tensors,
        "parameters": facts.parameters,
    }
