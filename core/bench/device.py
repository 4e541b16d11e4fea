"""What the bench stage asks of a device, and which class answers for a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.bench import llama_bench
from core.catalogue import DeviceCard
from core.events import OnEvent
from core.nouns import HostFacts, MemoryFacts


@dataclass(frozen=True)
class BenchTool:
    """A device's llama-bench: what shapes its speeds, and the machine it is compiled for (None: not told)."""

    identity: str
    arch: str | None


@dataclass(frozen=True)
class Job:
    """One process start of llama-bench. `output` takes its JSON lines, `telemetry` is appended to, `log` its words."""

    gguf: Path
    sha256: str
    n_prompt: int
    n_gen: int
    repetitions: int
    threads: int
    timeout_s: float
    output: Path
    telemetry: Path
    log: Path

    def arguments(self, gguf: str) -> list[str]:
        """Return llama-bench's arguments for the model under the path the device has it at."""
        return llama_bench.arguments(gguf, self.n_prompt, self.n_gen, self.repetitions, self.threads)


class Device(Protocol):
    """A machine that measures."""

    def facts(self) -> HostFacts:
        """Return what the machine is."""
        ...

    def memory(self) -> MemoryFacts:
        """Return what its memory is."""
        ...

    def tool(self) -> BenchTool:
        """Return its llama-bench."""
        ...

    def measure(self, job: Job) -> None:
        """Run one job; ProcessFailed when llama-bench fails, with the whole rows before that left in `job.output`."""
        ...


def open_device(card: DeviceCard, on_event: OnEvent) -> Device:
    """Return the device a card describes; builds the toolchain for this machine where it is missing."""
    if card.kind == "local":
        from core.bench.local import LocalDevice

        return LocalDevice(on_event)
    from core.bench.ssh import SshDevice

    return SshDevice(card, on_event)
