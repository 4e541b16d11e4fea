"""GPUs as NVML tells them, from a child that loads a real shared library, and AMD's from the kernel's files."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from core.env.gpu import GpuReading, Link, amd_gpus, read, throttles, unloadable
from tests.core.env.stand_ins import A4090, ask, build_nvml, play

TWO = f"""\
driver 550.54.15
cuda 12040
gpus 2
{A4090}1.name Tesla P40
1.bus 00000000:41:00.0
1.total 25769803776
1.free 1073741824
1.capability 6.1
1.ecc 1
1.ecc_volatile 2
1.ecc_aggregate 5
1.throttle 0x44
1.limit 180000
1.default 250000
0-1.level 50
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, loaded here too: whoever asks for it by its name now gets this one."""
    folder = build_nvml(tmp_path_factory.mktemp("nvml"))
    ctypes.CDLL(str(folder / "libnvidia-ml.so.1"))
    return folder


def read_in_child(folder: Path) -> GpuReading:
    reading = ask("core.env.gpu:read", folder)
    assert reading.error is None
    return GpuReading.model_validate(reading.value)


def test_every_fact_of_every_gpu_is_read(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(TWO, library, tmp_path, monkeypatch)

    reading = read({})
    first, second = reading.gpus

    assert read_in_child(tmp_path) == reading

    assert (reading.driver, reading.cuda, reading.lacks) == ("550.54.15", "12.4", None)
    assert (first.name, first.bus_id, first.compute_capability) == ("NVIDIA GeForce RTX 4090", "00000000:01:00.0", "8.9")
    assert (first.memory_total_mib, first.memory_free_mib, first.bf16) == (24564, 23010, True)
    assert (first.ecc_enabled, first.ecc_volatile, first.throttled_by) == (None, None, ())
    assert (first.power_limit_w, first.power_default_w) == (450.0, 450.0)
    assert (second.ecc_enabled, second.ecc_volatile, second.ecc_aggregate, second.bf16) == (True, 2, 5, False)
    assert second.throttled_by == ("hardware thermal slowdown",)
    assert reading.links == (Link(first=0, second=1, path="across NUMA nodes"),)
    assert "NVIDIA GeForce RTX 4090, compute capability 8.9, 23010 of 24564 MiB free" in reading.evidence


def test_nvlink_is_told_before_the_way_over_pci(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(f"{TWO}0-1.nvlink 0\n", library, tmp_path, monkeypatch)

    assert [link.path for link in read({}).links] == ["NVLink"]


def test_a_gpu_that_tells_nothing_is_still_a_gpu(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play("gpus 1\n", library, tmp_path, monkeypatch)

    (gpu,) = read({}).gpus

    assert (gpu.name, gpu.error, gpu.bf16, gpu.memory_total_mib) == ("GPU 0", None, None, None)


@pytest.mark.parametrize("how", ["0.lost 15", "0.refused 15"])
def test_a_lost_gpu_says_so_and_hides_no_other(
    how: str, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(TWO.replace(A4090, f"{how}\n"), library, tmp_path, monkeypatch)

    lost, other = read({}).gpus

    assert lost.error == "GPU is lost"
    assert (other.error, other.name) == (None, "Tesla P40")


def test_a_question_that_may_not_be_answered_is_no_lost_gpu(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play("gpus 1\n0.lost 4\n", library, tmp_path, monkeypatch)

    (gpu,) = read({}).gpus

    assert (gpu.error, gpu.memory_total_mib) == (None, None)


@pytest.mark.parametrize(
    ("script", "words"), [("init 9", "Driver Not Loaded"), ("init 18", "RM has detected an NVML/RM version mismatch.")]
)
def test_a_driver_that_does_not_work_is_an_answer(
    script: str, words: str, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(f"{script}\n", library, tmp_path, monkeypatch)

    reading = read({})

    assert (reading.gpus, reading.lacks, reading.evidence) == ((), "driver", f"NVML: {words}")


def test_a_driver_that_cannot_count_is_an_answer(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play("driver 1\n", library, tmp_path, monkeypatch)

    assert read({}).lacks == "driver"


def test_a_machine_without_a_driver_says_which_library_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.env.gpu._LIBRARY", "libnvidia-none.so.1")
    assert unloadable() is None

    if not any(Path("/usr/lib").rglob("libnvidia-ml.so.1")):
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        reading = read_in_child(tmp_path)
        assert (reading.gpus, reading.lacks) == ((), "library")
        assert "libnvidia-ml.so.1" in reading.evidence


def test_a_library_that_cannot_be_loaded_is_a_broken_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (tmp_path / "libnvidia-ml.so.1").write_text("no library", encoding="utf-8")

    reading = read_in_child(tmp_path)

    assert (reading.gpus, reading.lacks) == ((), "driver")
    assert f"{tmp_path}/libnvidia-ml.so.1: " in reading.evidence


@pytest.mark.parametrize(("script", "words"), [("init segfault", "SIGSEGV"), ("init hang", "ran > 2 s")])
def test_a_library_that_crashes_or_hangs_ends_only_its_child(
    script: str, words: str, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(f"{script}\n", library, tmp_path, monkeypatch)

    reading = ask("core.env.gpu:read", tmp_path, timeout_s=20.0 if "segfault" in script else 2.0)

    assert reading.value is None
    assert words in str(reading.error)


def test_a_missing_binding_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    reading = read_in_child(tmp_path)

    assert (reading.lacks, reading.evidence) == ("binding", "nvidia-ml-py is not installed")


def test_only_what_nobody_chose_counts_as_throttling() -> None:
    assert throttles(0x1 | 0x2 | 0x4 | 0x10 | 0x100) == ()
    assert throttles(0x8 | 0x20 | 0x80) == ("hardware slowdown", "software thermal slowdown", "hardware power brake")


def test_amd_gpus_are_told_from_processors(tmp_path: Path) -> None:
    for number, text in enumerate(["cpu_cores_count 16\nsimd_count 0\n", "simd_count 384\ngfx_target_version 100302\n"]):
        bank = tmp_path / str(number) / "mem_banks" / "0"
        bank.mkdir(parents=True)
        (tmp_path / str(number) / "properties").write_text(text, encoding="utf-8")
        (bank / "properties").write_text(f"heap_type 1\nsize_in_bytes {16 << 30}\nname of no number\n", encoding="utf-8")

    (gpu,) = amd_gpus(tmp_path)

    assert (gpu.target, gpu.memory_total_mib) == ("gfx1032", 16384)
    assert amd_gpus(tmp_path / "nowhere") == ()
