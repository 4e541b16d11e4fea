"""This machine as a device."""

from __future__ import annotations

import os

from core import process, toolchain
from core.bench.device import BenchTool, Job
from core.bench.guard import guarded
from core.bench.llama_bench import elf_arch
from core.env.host import read_host
from core.events import OnEvent
from core.memory.host import read_memory
from core.nouns import HostFacts, MemoryFacts
from core.telemetry import Sampler


class LocalDevice:
    """Runs the toolchain's llama-bench here."""

    def __init__(self, on_event: OnEvent) -> None:
        self._toolchain = toolchain.ensure(on_event)

    def facts(self) -> HostFacts:
        """Return what this machine is."""
        return read_host()

    def memory(self) -> MemoryFacts:
        """Return what this machine's memory is."""
        return read_memory()

    def tool(self) -> BenchTool:
        """Return the toolchain's llama-bench; the key adds compiler, flags and CPU, which shape speeds."""
        with self._toolchain.program("llama-bench").open("rb") as stream:
            arch = elf_arch(stream.read(20))
        return BenchTool(identity=f"{self._toolchain.identity()} {self._toolchain.key}", arch=arch)

    def measure(self, job: Job) -> None:
        """Run one job under the sampler."""
        program = str(self._toolchain.program("llama-bench"))
        with Sampler(job.telemetry):
            process.run(
                guarded([program, *job.arguments(str(job.gguf))]),
                log=job.log,
                stdout=job.output,
                timeout_s=job.timeout_s,
                env={"EDGEKILN_PARENT": str(os.getpid())},
            )
