"""The memory a GGUF file needs with its KV cache: estimated from its header, then measured on this host where it has the room."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from core.contract import Contract, Origin
from core.env.host import read_host
from core.env.machine_bench import origin_of
from core.env.memory_need import llama_bytes
from core.errors import GateRefused, ProcessFailed
from core.events import OnEvent
from core.export.inspect import GgufFacts
from core.nouns import MemoryNeed
from core.process import ended_by_signal
from core.toolchain import Toolchain
from core.train.headroom import host_rooms
from core.worker_process import call


class MemoryRequest(Contract):
    """A GGUF file, the libraries that run it, and the tokens its KV cache holds."""

    gguf: str
    toolchain: Toolchain
    n_ctx: int


class MemoryPeak(Contract):
    """The most memory that was resident, less what Python itself held before the file was loaded."""

    peak_bytes: int


def estimated(facts: GgufFacts, n_ctx: int) -> int:
    """Return the bytes a file needs by its header; layers with a sliding window are counted as if they held all of `n_ctx`."""
    return llama_bytes(
        tensors=facts.tensor_bytes,
        cache_width=facts.cache_width,
        inner=facts.feed_forward,
        hidden=facts.embedding_length,
        vocabulary=facts.vocabulary,
        context=n_ctx,
    )


@dataclass(frozen=True)
class Meter:
    """How the memory of an export's files is told; measured only below a limit, None of which says no board's memory.

    Under an emulator nothing is measured: the peak would be the emulator's too.
    """

    n_ctx: int
    limit_bytes: int | None
    toolchain: Toolchain
    on_event: OnEvent
    timeout_s: float

    def need(self, gguf: Path, facts: GgufFacts, scratch: Path) -> MemoryNeed:
        """Return what a file needs; GateRefused when llama.cpp ends on it."""
        told = estimated(facts, self.n_ctx)
        if not self._fits(told) or origin_of(read_host()) is not Origin.MEASURED:
            return MemoryNeed(n_ctx=self.n_ctx, estimated_bytes=told)
        request = MemoryRequest(gguf=str(gguf), toolchain=self.toolchain, n_ctx=self.n_ctx)
        module = "core.export.gguf_memory.worker"
        try:
            peak = call(module, request, MemoryPeak, scratch, self.on_event, timeout_s=self.timeout_s).peak_bytes
        except ProcessFailed as error:
            if not ended_by_signal(error):
                raise
            raise GateRefused(
                f"{gguf.name}: llama.cpp's process {error.problem.partition(' ')[2]} with a context of {self.n_ctx} tokens",
                remedy=f"Read {scratch / 'worker.log'}; a context of fewer tokens needs less: export.memory_context.",
            ) from error
        on = f"the exporting host ({platform.machine()})"
        return MemoryNeed(n_ctx=self.n_ctx, estimated_bytes=told, measured_bytes=peak, measured_on=on)

    def _fits(self, told: int) -> bool:
        return self.limit_bytes is not None and told <= min(self.limit_bytes, *(room.free_bytes for room in host_rooms()))
