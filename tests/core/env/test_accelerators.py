"""Each finding about accelerators, provoked through real children: a scripted NVML, a torch built for another machine."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import config
from core.contract import Finding, Severity
from core.env.accelerators import (
    ACCELERATORS,
    NVML_PROBE,
    accelerator_facts,
    accelerator_findings,
    gpu_reading,
    needs_gpu,
    torch_facts,
)
from core.env.capability import Context
from core.env.gpu import AmdGpu, GpuReading, read
from core.env.probe import Reading, run_probes
from core.env.roles import Role
from core.env.torch_build import TorchFacts, parse_build, read_build, runs_on
from tests.core.env.stand_ins import A4090, ask, build_nvml, play, put_torch

ARCHS = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
ONE = f"driver 580.65.06\ncuda 13000\ngpus 1\n{A4090}"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, loaded here too: whoever asks for it by its name now gets this one."""
    folder = build_nvml(tmp_path_factory.mktemp("nvml"))
    ctypes.CDLL(str(folder / "libnvidia-ml.so.1"))
    return folder


@pytest.fixture
def judged(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Judge a machine of an NVML script and a torch; without arguments it is a good one."""

    def judge(script: str = ONE, *, needed: bool = True, **torch: object) -> dict[str, Finding]:
        play(script, library, tmp_path, monkeypatch)
        told = {"version": "2.13.0", "cuda": "13.0", "arch_list": ARCHS, "devices": [["NVIDIA GeForce RTX 4090", 8, 9]]}
        put_torch(tmp_path, monkeypatch, **{**told, **torch})
        probes = {probe.name: probe for probe in ACCELERATORS.probes(context())}
        here = {}
        if "segfault" not in script:  # what cannot crash is asked here: a child more is half a second more
            value = read(probes.pop(NVML_PROBE).argument).model_dump(mode="json")
            here = {NVML_PROBE: Reading(name=NVML_PROBE, value=value, error=None, seconds=0.0)}
        readings = {**here, **run_probes(list(probes.values()), tmp_path / "scratch")}
        found = accelerator_findings(gpu_reading(readings), torch_facts(readings), needed=needed)
        assert {finding.code for finding in found} <= {check.code for check in ACCELERATORS.checks}
        return {finding.code: finding for finding in found}

    return judge


def context(profile: str = "desktop") -> Context:
    return Context(config.load(profile), Path(), frozenset({Role.TRAINER}), Path(), Path())


def test_a_good_gpu_machine_has_no_finding(judged) -> None:
    assert judged() == {}


def test_this_machines_own_torch_is_read_without_importing_it_when_it_is_a_cpu_build(tmp_path: Path) -> None:
    reading = ask("core.env.torch_facts.worker:read", tmp_path)

    facts = TorchFacts.model_validate(reading.value)

    assert facts.build is not None
    assert facts.imported is (facts.build.kind != "CPU")
    assert facts.build == read_build()


def test_a_cpu_wheel_on_a_gpu_machine_is_its_own_finding(judged) -> None:
    found = judged(version="2.13.0+cpu", cuda=None)

    assert list(found) == ["torch-build"]
    assert found["torch-build"].severity is Severity.ERROR
    assert "torch 2.13.0+cpu is a CPU build (cuda = None" in found["torch-build"].evidence
    assert found["torch-build"].remedy_argv[-1] == "torch==2.13.0,!=2.13.0+cpu"
    assert "version.py" in found["torch-build"].where


def test_it_only_warns_where_the_job_can_train_without(judged) -> None:
    assert judged(version="2.13.0+cpu", cuda=None, needed=False)["torch-build"].severity is Severity.WARNING


def test_a_driver_too_old_is_named_with_both_versions(judged) -> None:
    refusal = "The NVIDIA driver on your system is too old (found version 12040)"
    found = judged(ONE.replace("13000", "12040").replace("580.65.06", "550.54.15"), devices=[], refusal=refusal)

    assert set(found) == {"cuda-driver", "torch-gpu"}
    assert found["cuda-driver"].severity is Severity.ERROR
    assert found["cuda-driver"].where == "NVIDIA driver 550.54.15"
    assert "CUDA 12.4 < CUDA 13.0 that torch 2.13.0" in found["cuda-driver"].evidence
    assert "torch sees 0 of 1 GPUs: The NVIDIA driver on your system is too old" in found["torch-gpu"].evidence


def test_an_older_minor_version_is_only_told(judged) -> None:
    (finding,) = judged(cuda="13.2").values()

    assert (finding.code, finding.severity) == ("cuda-driver", Severity.INFO)
    assert "minor version compatibility" in finding.cause


def test_a_gpu_that_torch_holds_no_code_for_is_named(judged) -> None:
    old = ONE.replace("8.9", "6.1").replace("NVIDIA GeForce RTX 4090", "Tesla P40")
    found = judged(old, devices=[["Tesla P40", 6, 1]])

    assert set(found) == {"gpu-arch", "bf16"}
    assert found["gpu-arch"].severity is Severity.ERROR
    assert "compute capability 6.1; torch 2.13.0 holds code for sm_75 sm_80" in found["gpu-arch"].evidence
    assert found["bf16"].severity is Severity.INFO


def test_one_bad_gpu_beside_a_good_one_only_warns(judged) -> None:
    bad = "1.name Tesla P40\n1.capability 6.1\n1.ecc 1\n1.ecc_volatile 0\n1.ecc_aggregate 3\n"
    found = judged(ONE.replace("gpus 1", "gpus 3") + bad + "2.lost 15\n", devices=[["a", 8, 9], ["b", 6, 1]])

    assert {code: finding.severity for code, finding in found.items()} == {
        "gpu-arch": Severity.WARNING,
        "gpu-lost": Severity.WARNING,
        "gpu-ecc": Severity.WARNING,
        "bf16": Severity.INFO,
    }
    assert found["gpu-lost"].where == "GPU 2"
    assert found["gpu-ecc"].evidence == "uncorrected ECC errors: 0 since the driver was loaded, 3 since the GPU was made"


def test_memory_that_lost_data_stops_a_job_that_needs_the_gpu(judged) -> None:
    found = judged(ONE + "0.ecc 1\n0.ecc_volatile 2\n0.ecc_aggregate 2\n")

    assert found["gpu-ecc"].severity is Severity.ERROR


def test_throttling_and_a_lowered_power_limit_are_told(judged) -> None:
    found = judged(ONE.replace("0x1", "0xc4").replace("0.limit 450000", "0.limit 300000"))

    assert "hardware thermal slowdown, hardware power brake" in found["gpu-throttle"].evidence
    assert found["gpu-power"].evidence == "power limit 300 W < 450 W, its default"
    assert found["gpu-power"].remedy_argv == ("nvidia-smi", "-i", "0", "-pl", "450")


def test_hidden_gpus_are_told(judged) -> None:
    found = judged(ONE.replace("gpus 1", "gpus 2") + "1.name NVIDIA L4\n1.capability 8.9\n")

    assert found["torch-gpu"].severity is Severity.INFO
    assert "torch sees 1 of 2 GPUs" in found["torch-gpu"].evidence


def test_no_driver_is_a_finding_only_where_the_job_needs_a_gpu(judged) -> None:
    broken = judged("init 9\n", devices=[], needed=True)

    assert set(broken) == {"cuda"}
    assert "NVML: Driver Not Loaded" in broken["cuda"].evidence
    assert broken["cuda"].severity is Severity.ERROR


def test_no_driver_is_no_finding_where_nothing_needs_it(judged) -> None:
    none = GpuReading(lacks="library", evidence="libnvidia-ml.so.1: NVML Shared Library Not Found")
    assert accelerator_findings(none, None, needed=False) == []


@pytest.mark.parametrize("script", ["init 9\n", "init 18\n"])
def test_a_broken_driver_is_told_even_where_nothing_needs_it(judged, script: str) -> None:
    finding = judged(script, devices=[], needed=False)["cuda"]

    assert finding.severity is Severity.WARNING
    assert finding.cause == "the NVIDIA driver is installed but does not work"
    assert "the job needs one" not in finding.evidence


def test_what_a_crash_or_a_broken_driver_hides_is_unknown_and_not_none() -> None:
    for lacks, told in (("answer", "unknown"), ("driver", "unknown"), ("binding", "unknown"), ("library", "none")):
        assert accelerator_facts(GpuReading(lacks=lacks, evidence="x"), None)[0].value == told


def test_a_crashing_library_and_a_crashing_torch_are_evidence(judged) -> None:
    found = judged("init segfault\n", devices=[], segfault=True)

    assert "SIGSEGV" in found["cuda"].evidence


def test_the_job_says_whether_a_gpu_is_needed() -> None:
    assert needs_gpu(context("desktop"))
    assert not needs_gpu(context("demo"))
    assert ACCELERATORS.findings({}, context("demo")) == []
    (finding,) = ACCELERATORS.findings({}, context("desktop"))
    assert "it was not asked" in finding.evidence


def test_an_amd_gpu_wants_the_rocm_build() -> None:
    amd = GpuReading(lacks="library", evidence="none", amd=(AmdGpu(target="gfx1100", memory_total_mib=24560),))
    build = parse_build("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "2.13.0", "torch/version.py")
    rocm = parse_build("cuda = None\nhip = '7.2.1'\n", "2.13.0+rocm7.2", "torch/version.py")

    (finding,) = accelerator_findings(amd, TorchFacts(build=build), needed=False)

    assert finding.code == "torch-build"
    assert "here is gfx1100" in finding.evidence
    assert finding.remedy_argv == ()
    assert rocm.kind == "ROCm"
    assert accelerator_findings(amd, TorchFacts(build=rocm), needed=False) == []
    assert [fact.value for fact in accelerator_facts(amd, None)] == ["gfx1100, 24560 MiB"]


def test_the_facts_tell_every_gpu_the_driver_the_links_and_torch(library, tmp_path, monkeypatch) -> None:
    play(ONE.replace("gpus 1", "gpus 2") + "0.ecc 0\n1.lost 15\n", library, tmp_path, monkeypatch)
    readings = {NVML_PROBE: ask("core.env.gpu:read", tmp_path)}

    told = {fact.name: fact.value for fact in ACCELERATORS.facts(readings, context())}

    assert told["GPU 0"].startswith(
        "NVIDIA GeForce RTX 4090, 23010 of 24564 MiB free, compute capability 8.9, bf16, ECC off"
    )
    assert told["GPU 1"] == "GPU 1, cannot be read: GPU is lost"
    assert told["NVIDIA driver"] == "580.65.06, CUDA up to 13.0"
    mac = TorchFacts(build=parse_build("", "2.13.0", "v"), imported=True, mps=True)
    none = accelerator_facts(
        gpu_reading({"accelerators.nvml": Reading(name="x", value=None, error="hung", seconds=1)}), mac
    )
    assert [(fact.name, fact.value) for fact in none] == [("GPU", "unknown"), ("torch", "2.13.0, CPU build, MPS usable")]


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ("8.9", ("sm_80", "sm_90"), True),
        ("8.6", ("sm_89",), False),
        ("6.1", ("sm_75", "sm_80"), False),
        ("12.0", ("sm_90", "compute_90"), True),
        ("12.0", ("sm_90",), False),
        ("9.0", ("sm_90a",), True),
        ("10.3", ("sm_100a",), False),
        ("10.3", ("sm_100f",), True),
        ("7.5", ("gfx90a",), False),
        ("7.5", (), None),
    ],
)
def test_what_a_compiled_architecture_runs_on(capability: str, archs: tuple[str, ...], runs: bool | None) -> None:
    assert runs_on(capability, archs) is runs


@given(st.text(), st.lists(st.one_of(st.text(max_size=9), st.from_regex(r"(sm|compute)_[0-9]{0,4}[afx]?", fullmatch=True))))
def test_no_version_file_and_no_architecture_is_too_odd_to_judge(text: str, archs: list[str]) -> None:
    build = parse_build(f"cuda = {text}\n{text}", "1", "p")

    assert build.kind in {"CUDA", "ROCm", "XPU", "CPU"}
    assert runs_on("8.9", tuple(archs)) in {True, False, None}


@pytest.mark.parametrize(
    ("line", "cuda", "hip"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "13.0", None),
        ("cuda = None\nhip: str | None = \"6.4.43484-123abc\"\nhip_extra = '9'\n", None, "6.4.43484"),
        ("cuda = 'nightly'\n", None, None),
    ],
)
def test_the_build_stands_in_the_version_file(line: str, cuda: str | None, hip: str | None) -> None:
    build = parse_build(line, "2.13.0", "torch/version.py")

    assert (build.cuda, build.hip) == (cuda, hip)
