"""Loads a GGUF file with its KV cache, fills one batch, generates, and tells how much memory was resident at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import toolchain
from core.env.host import affinity
from core.events import OnEvent
from core.export.gguf_loss.runner import load, refused
from core.export.gguf_memory.need import MemoryPeak, MemoryRequest
from core.worker_process import main

_GENERATED = 16
_KIB = 1024


def work(request: MemoryRequest, _folder: Path, _on_event: OnEvent) -> MemoryPeak:
    """Load, decode, measure. llama.cpp clears the whole cache at the start, so all of it is resident after a short answer."""
    toolchain.use_libraries(request.toolchain)
    import llama_cpp

    before = _resident("VmRSS")
    gguf = Path(request.gguf)
    model = load(gguf)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = request.n_ctx
    params.n_threads = params.n_threads_batch = affinity()
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise refused(gguf.name, f"llama.cpp cannot open a context of {request.n_ctx} tokens")
    first = max(1, min(params.n_ubatch, request.n_ctx - _GENERATED))
    _decode(llama_cpp, context, first, gguf.name)
    for _ in range(min(_GENERATED, request.n_ctx - first)):
        _decode(llama_cpp, context, 1, gguf.name)
    return MemoryPeak(peak_bytes=_resident("VmHWM") - before)


def _decode(library: Any, context: Any, tokens: int, name: str) -> None:
    ids = (library.llama_token * tokens)(*([1] * tokens))
    if status := library.llama_decode(context, library.llama_batch_get_one(ids, tokens)):
        raise refused(name, f"llama_decode gave status {status} on {tokens} tokens")


def _resident(key: str) -> int:
    """Return a figure of this process in bytes; getrusage's peak would be that of whoever started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * _KIB
    raise refused("/proc/self/status", f"it tells no {key}")


if __name__ == "__main__":
    main(MemoryRequest, work)
