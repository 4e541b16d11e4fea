"""Prints as JSON the ids that llama.cpp's own vectors get: arguments are the toolchain as JSON and the vocabularies' files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from core import toolchain
from core.export.gguf_loss.runner import Vocabulary, load
from core.toolchain import Toolchain

MARK = "\n__ggml_vocab_test__\n"

toolchain.use_libraries(Toolchain.model_validate_json(sys.argv[1]))
found = {}
for path in map(Path, sys.argv[2:]):
    vocabulary = Vocabulary(path.name, load(path, vocabulary_only=True))
    texts = path.with_name(f"{path.name}.inp").read_bytes().decode().removesuffix(MARK).split(MARK)
    found[path.name] = [(text, vocabulary.tokenise(text)) for text in texts]
sys.stdout.write(json.dumps(found))
