"""Prints the KL divergence of a Q4_0 file from the F32 one by numpy, from all their logits, over the chunks of llama-perplexity.

Arguments: the folder of both, the texts as JSON, the tokens of a chunk, the toolchain as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from core import toolchain
from core.export.gguf_loss.runner import Runner
from core.toolchain import Toolchain


def log_probabilities(gguf: Path, chunks: list[list[int]]) -> np.ndarray:
    runner, n_ctx = Runner(gguf, len(chunks[0])), len(chunks[0])
    logits = np.concatenate([runner.decode(chunk, 0, range(n_ctx // 2, n_ctx - 1)) for chunk in chunks])
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


folder, texts, n_ctx, tools = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
toolchain.use_libraries(Toolchain.model_validate_json(tools))
f32, q4 = folder / "pupil-F32.gguf", folder / "pupil-Q4_0.gguf"
tokens = Runner(f32, n_ctx).tokenise("\n\n".join(texts))
chunks = [tokens[start : start + n_ctx] for start in range(0, len(tokens) - n_ctx + 1, n_ctx)]
reference, coarse = log_probabilities(f32, chunks), log_probabilities(q4, chunks)
following = np.concatenate([chunk[n_ctx // 2 + 1 :] for chunk in chunks])
surprise = -coarse[np.arange(len(following)), following]
kl = (np.exp(reference) * (reference - coarse)).sum(axis=1)
sys.stdout.write(json.dumps({"chunks": len(chunks), "kl_mean": kl.mean(), "perplexity": np.exp(surprise.mean())}))
