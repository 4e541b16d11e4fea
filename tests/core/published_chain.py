"""A whole chain of small artifacts, published for real by core.stage.produce, from the environment to the benchmark."""

from __future__ import annotations

import json
import math
from pathlib import Path

from core.config import BenchConfig, DataConfig, EnvConfig, ExportConfig, LabelConfig, TrainConfig
from core.contract import Finding, Limit, Origin, Severity, Stage
from core.events import ignore
from core.nouns import (
    Adapter,
    BenchmarkRun,
    Dataset,
    Divergence,
    EnvReport,
    GgufModel,
    HostFacts,
    LabeledDataset,
    Measurement,
    MemoryFacts,
    MemoryModule,
    MemoryNeed,
    ModelRef,
    Quantisation,
    RejectedQuantisation,
    SourceRef,
    TelemetrySummary,
    refs,
)
from core.stage import Facts, Order, produce
from core.workspace import Workspace

HOST = HostFacts(
    fingerprint="f" * 16, arch="aarch64", os="Linux 6.6", cpu_model="Cortex-A76", cpu_features=("asimddp",), cpus_usable=4,
    ram_bytes=8 << 30, ram_limit_bytes=None, board_model="Raspberry Pi 5 Model B Rev 1.0",
)  # fmt: skip
MODULE = MemoryModule(
    kind="LPDDR4", bytes=8 << 30, data_rate_mts=4267, configured_mts=4267, manufacturer=None, part_number=None
)
MEMORY = MemoryFacts(known=True, total_bytes=8 << 30, modules=(MODULE,), theoretical_gbs=17.1, evidence="device tree")
UNKNOWN_MEMORY = MemoryFacts(
    known=False, total_bytes=None, modules=(), theoretical_gbs=None, evidence="nothing could be read"
)
STUDENT = ModelRef(name="tiny", identity="sha256:abc", parameters=1000, licence="MIT")
TYPES = {"Q8_0": (8.5, 1.40), "Q4_0": (4.5, 1.62)}


def env_report(workspace: Workspace) -> EnvReport:
    finding = Finding(
        code="disk-tight",
        severity=Severity.WARNING,
        where="/",
        evidence="4 GB free",
        cause="small disk",
        remedy="free some",
    )
    own = {"host": HOST, "findings": (finding,)}
    order = Order(noun=EnvReport, stage=Stage.ENV, version=1, config=EnvConfig(), max_age_s=3600.0)
    return produce(order, workspace, ignore, lambda content: _files(content, {"report.json": "{}"}, own))


def dataset(workspace: Workspace, prompt: str = "hello") -> Dataset:
    own = {
        "sources": (SourceRef(name="prompts.jsonl", sha256="a" * 64, shape="prompt", records=10),),
        "rows": 9, "train_rows": 6, "held_out_rows": 3, "rejected": 1, "findings": (),
    }  # fmt: skip
    order = Order(
        noun=Dataset, stage=Stage.DATA, version=1, config=DataConfig(sources=("prompts.jsonl",)), inputs=(prompt,)
    )
    return produce(order, workspace, ignore, lambda content: _files(content, {"rows.jsonl": prompt}, own))


def labeled(workspace: Workspace, rows: Dataset) -> LabeledDataset:
    own = {
        "teacher": ModelRef(name="teacher", identity="sha256:def", parameters=None, licence="Apache-2.0"), "train_rows": 6,
        "held_out_rows": 3, "unanswered": 0, "asked": 9, "reused": 0, "prompt_tokens": 90, "completion_tokens": 45,
    }  # fmt: skip
    config = LabelConfig(teacher="teacher", api_key_env="TEACHER_KEY", base_url="https://teacher.example/v1")
    order = Order(
        noun=LabeledDataset, stage=Stage.LABEL, version=1, config=config, parents=refs(rows), tools={"llama.cpp": "abc"}
    )
    return produce(order, workspace, ignore, lambda content: _files(content, {"train.jsonl": rows.content_digest}, own))


def adapter(workspace: Workspace, labels: LabeledDataset) -> Adapter:
    own = {
        "student": STUDENT, "base_held_out_loss": 1.5, "held_out_loss": 1.39, "steps": 6, "trainable_parameters": 64,
        "trained_tokens": 400, "resumed_from_steps": (3,),
    }  # fmt: skip
    steps = [{"step": n, "loss": 2 * math.exp(-n / 5), "learning_rate": 4e-4 / n, "grad_norm": 1.0} for n in range(1, 7)]
    files = {
        "steps.jsonl": "\n".join(map(json.dumps, steps)) + "\n",
        "adapter/adapter_model.safetensors": labels.content_digest,
    }
    order = Order(
        noun=Adapter,
        stage=Stage.TRAIN,
        version=1,
        config=TrainConfig(student="tiny"),
        parents=refs(labels),
        tools={"trl": "1.16.0"},
    )
    return produce(order, workspace, ignore, lambda content: _files(content, files, own))


def gguf_model(workspace: Workspace, trained: Adapter, more: dict[str, str] | None = None) -> GgufModel:
    """`more` are files beside the GGUF files."""
    made = {name: _quantisation(name, *figures) for name, figures in TYPES.items()}
    bad = _quantisation("Q4_K_M", 4.8, 3.2)
    own = {
        "student": STUDENT, "reference_held_out_loss": 1.39, "quantisations": tuple(made.values()),
        "rejected": (RejectedQuantisation(quantisation=bad, reasons=("held_out_loss 3.2, limit <= 1.89",)),),
    }  # fmt: skip
    files = {**{file.path: trained.content_digest + file.type for file in made.values()}, **(more or {})}
    order = Order(
        noun=GgufModel,
        stage=Stage.EXPORT,
        version=1,
        config=ExportConfig(),
        parents=refs(trained),
        tools={"llama.cpp": "abc"},
    )
    return produce(order, workspace, ignore, lambda content: _files(content, files, own))


def benchmark(
    workspace: Workspace, gguf: GgufModel, *, measurements: tuple[Measurement, ...] | None = None, occasion: int = 0
) -> BenchmarkRun:
    """`occasion` tells runs apart; each is a run of its own."""
    found = measurements if measurements is not None else default_measurements(occasion)
    own = {
        "device": "local", "device_host": HOST, "device_memory": MEMORY, "host_memory": UNKNOWN_MEMORY, "measurements": found,
        "telemetry": TelemetrySummary(
            samples=3, max_temperature_c=61.5, min_clock_mhz=2400.0, max_load_1min=1.0, min_available_ram_bytes=None, throttled=None
        ),
    }  # fmt: skip
    lines = "\n".join(measurement.model_dump_json() for measurement in found)
    order = Order(
        noun=BenchmarkRun, stage=Stage.BENCH, version=1, config=BenchConfig(), parents=refs(gguf), inputs=(f"occasion {occasion}",),
        limits=(Limit(metric="tg_tps.Q8_0", op=">=", value=20.0),), max_age_s=3600.0,
    )  # fmt: skip
    metrics = {f"tg_tps.{m.quantisation}": m.median_tps for m in found if m.n_gen and m.median_tps}
    return produce(order, workspace, ignore, lambda content: _files(content, {"measurements.jsonl": lines}, own, metrics))


def default_measurements(occasion: int = 0) -> tuple[Measurement, ...]:
    failed = Measurement(
        quantisation="Q4_0", test="tg32", n_prompt=0, n_gen=32, n_depth=0, threads=4, origin=Origin.MEASURED, samples_tps=(),
        median_tps=None, error="llama-bench ended with signal SIGKILL",
    )  # fmt: skip
    return (
        measurement("Q8_0", "pp128", 120.0 + occasion),
        measurement("Q8_0", "tg32", 15.5 + occasion),
        measurement("Q4_0", "pp128", 180.0 + occasion),
        failed,
    )


def measurement(quantisation: str, test: str, tps: float, origin: Origin = Origin.MEASURED) -> Measurement:
    samples = (tps - 1, tps, tps + 1, tps)
    raw = (
        {"test_time": "2026-11-20T10:00:00Z", "samples_ts": list(samples[:2]), "cpu_info": "CPU"},
        {"test_time": "2026-11-20T10:01:00Z", "samples_ts": list(samples[2:]), "cpu_info": "CPU"},
    )
    count = int(test[2:])
    n_prompt, n_gen = (count, 0) if test.startswith("pp") else (0, count)
    return Measurement(
        quantisation=quantisation, test=test, n_prompt=n_prompt, n_gen=n_gen, n_depth=0, threads=4, origin=origin,
        samples_tps=samples, median_tps=tps, raw=raw,
    )  # fmt: skip


DIVERGENCE = Divergence.model_validate(
    {**dict.fromkeys(Divergence.model_fields, 1.0), "n_ctx": 128, "chunks": 8, "kl_mean": 0.004}
)

NEED = MemoryNeed(n_ctx=2048, estimated_bytes=64 << 20)
MEASURED_NEED = NEED.model_copy(update={"measured_bytes": 60 << 20, "measured_on": "the exporting host (x86_64)"})


def chain(workspace: Workspace, prompt: str = "hello") -> tuple[GgufModel, BenchmarkRun]:
    """Publish everything up to one benchmark run."""
    gguf = gguf_model(workspace, adapter(workspace, labeled(workspace, dataset(workspace, prompt))))
    return gguf, benchmark(workspace, gguf)


def _quantisation(name: str, bits: float, loss: float) -> Quantisation:
    return Quantisation(
        type=name, path=f"tiny-{name}.gguf", bytes=int(bits * 1e7), bits_per_weight=bits, fallback_tensors=0, held_out_loss=loss,
        sample="Hello there", divergence=DIVERGENCE, memory=MEASURED_NEED if name == "Q8_0" else NEED,
    )  # fmt: skip


def _files(content: Path, files: dict[str, str], own: dict[str, object], metrics: dict[str, float] | None = None) -> Facts:
    for name, text in files.items():
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(text, encoding="utf-8")
    return Facts(own=own, metrics=metrics or {})
