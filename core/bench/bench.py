"""The bench stage: llama-bench on every quantisation, in interleaved process starts, with the machine watched."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core import catalogue
from core.bench.device import BenchTool, Device, Job, open_device
from core.bench.llama_bench import parse
from core.bench.results import Arches, Start, keep, kept, measurements, metrics
from core.config import BenchConfig
from core.contract import Stage
from core.errors import ProcessFailed
from core.events import Note, OnEvent, Progress, Resumed, ignore
from core.files import write_json_lines
from core.memory.host import read_memory
from core.nouns import BenchmarkRun, GgufModel, HostFacts, Quantisation, refs
from core.stage import Facts, Order, produce
from core.telemetry import Sample, read_samples, summarise
from core.workspace import Workspace

VERSION = 1
_TELEMETRY = "telemetry.jsonl"
# The run's own earlier stages leave a 1-minute load of about one per CPU; llama.cpp's threads spin at their barriers, so
# that a foreign load beyond this costs far more than its share.
_BUSY_LOAD_PER_CPU = 1.5


def bench(
    model: GgufModel, config: BenchConfig, workspace: Workspace, on_event: OnEvent = ignore, beside: Path | None = None
) -> BenchmarkRun:
    """Measure every quantisation of a model on the configured device.

    A finished run of the same model on the same device is reused within `config.max_age_s`; a killed one goes on with
    the measurements it lacks. BoardUnreachable, ToolMissing, and ProcessFailed when not one measurement succeeded.
    """
    device = open_device(catalogue.device(config.device, beside), on_event)
    facts, tool = device.facts(), device.tool()
    order = Order(
        noun=BenchmarkRun,
        stage=Stage.BENCH,
        version=VERSION,
        config=config,
        parents=refs(model),
        inputs=(facts.fingerprint,),
        tools={"llama-bench": tool.identity},
        limits=config.limits,
        max_age_s=config.max_age_s,
        keeps_progress=True,
    )
    session = _Session(model, config, workspace, on_event, device, facts, tool)
    return produce(order, workspace, on_event, session.work)


@dataclass(frozen=True)
class _Session:
    """One occasion of benchmarking a model on a device."""

    model: GgufModel
    config: BenchConfig
    workspace: Workspace
    on_event: OnEvent
    device: Device
    facts: HostFacts
    tool: BenchTool

    def work(self, content: Path) -> Facts:
        """Measure what is not measured yet and write the files."""
        finished = content.parent / "finished"
        starts = self._starts(content, finished)
        if not any(row.samples_tps for start in starts for row in start.rows):
            shutil.rmtree(finished, ignore_errors=True)  # an occasion without a number is none; the next run measures anew
            why = next((start.error for start in starts if start.error), "it wrote no whole row")
            raise ProcessFailed(
                f"llama-bench gave no number in {len(starts)} process starts on {self.config.device}: {why}",
                remedy="Mend what it names; `edgekiln env` checks this machine, its log lies in the workspace's staging.",
            )
        arches = Arches(device=self.facts.arch, program=self.tool.arch)
        found = tuple(measurements(starts, self.config, self._threads(), arches))
        write_json_lines(content / "measurements.jsonl", (measurement.model_dump(mode="json") for measurement in found))
        (content / _TELEMETRY).touch()
        samples = read_samples(content / _TELEMETRY)
        self._warn_of_load(samples)
        return Facts(
            own={
                "device": self.config.device,
                "device_host": self.facts,
                "device_memory": self.device.memory(),
                "host_memory": read_memory(),
                "measurements": found,
                "telemetry": summarise(samples),
            },
            metrics=metrics(found),
            without_meaning=frozenset({_TELEMETRY}),
        )

    def _warn_of_load(self, samples: Sequence[Sample]) -> None:
        load = samples[0].load_1min if samples else None
        if load is not None and load > _BUSY_LOAD_PER_CPU * self.facts.cpus_usable:
            text = (
                f"{self.config.device} was busy when the benchmark began: load {load:g} on {self.facts.cpus_usable} CPUs; "
            )
            text += "the speeds are those of a busy machine"
            self.on_event(Note(stage=Stage.BENCH, text=text, level="warning"))

    def _starts(self, content: Path, finished: Path) -> list[Start]:
        """Return all process starts, the quantisations taking turns so that a drift of the machine meets all of them."""
        turns = [(q, number) for number in range(1, self.config.process_starts + 1) for q in self.model.quantisations]
        starts = {turn: kept(finished, turn[0].type, turn[1]) for turn in turns}
        done = sum(start is not None for start in starts.values())
        if done:
            self.on_event(Resumed(stage=Stage.BENCH, done=done, unit="process starts"))
        self._progress(done, len(turns))
        for turn in turns:
            if starts[turn] is None:
                starts[turn] = self._run(content, finished, *turn)
                done += 1
                self._progress(done, len(turns))
        return [start for start in starts.values() if start is not None]

    def _progress(self, done: int, total: int) -> None:
        text = f"llama-bench on {self.config.device}"
        self.on_event(Progress(stage=Stage.BENCH, task=text, done=done, total=total, unit="process starts"))

    def _run(self, content: Path, finished: Path, quantisation: Quantisation, number: int) -> Start:
        job = self._job(content, quantisation, number)
        error = None
        try:
            self.device.measure(job)
        except ProcessFailed as failed:
            error = failed.problem
            self.on_event(Note(stage=Stage.BENCH, text=f"{quantisation.type} start {number}: {error}", level="warning"))
        rows = parse(job.output.read_bytes()) if job.output.is_file() else []
        start = Start(quantisation=quantisation.type, number=number, rows=tuple(rows), error=error)
        keep(finished, start)
        return start

    def _job(self, content: Path, quantisation: Quantisation, number: int) -> Job:
        logs = content.parent / "logs"
        logs.mkdir(exist_ok=True)
        output = logs / f"{number:02d}-{quantisation.type}.jsonl"
        output.unlink(missing_ok=True)  # rows of a killed process must not pass for this one's
        return Job(
            gguf=self.workspace.folder(Stage.EXPORT, self.model.artifact_id) / quantisation.path,
            sha256=self.model.file(quantisation.path).sha256,
            n_prompt=self.config.n_prompt,
            n_gen=self.config.n_gen,
            repetitions=self.config.repetitions,
            threads=self._threads(),
            timeout_s=self.config.timeout_s,
            output=output,
            telemetry=content / _TELEMETRY,
            log=output.with_suffix(".log"),
        )

    def _threads(self) -> int:
        return self.config.threads or self.facts.cpus_usable
