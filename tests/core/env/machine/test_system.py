"""Processor, cores and memory: this machine as it is, and judgements on machines that are poorer."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Severity
from core.env import cgroup
from core.env.machine import system
from core.env.machine.facts import system_facts
from core.env.machine.system import System, cpu_findings, fields_kib, ram_findings, usable_ram_bytes
from core.nouns import MemoryFacts, MemoryModule

ROOT = Path(__file__).parents[4]


@pytest.fixture
def here() -> System:
    return system.read({"variables": {}}).system


def poorer(here: System, **host: object) -> System:
    return here.model_copy(update={"host": here.host.model_copy(update=host)})


def test_this_machine_is_read_as_it_is(here: System) -> None:
    assert here.host.arch == platform.machine()
    assert here.surroundings.system == platform.system()
    assert here.cpus_online == os.cpu_count()
    assert here.affinity == len(os.sched_getaffinity(0))
    assert here.swap_bytes == psutil.swap_memory().total
    assert abs((here.ram_available_bytes or 0) - psutil.virtual_memory().available) < 1 << 30


def test_a_control_group_below_the_hosts_memory_is_what_counts(here: System) -> None:
    boxed = poorer(here, ram_bytes=64 << 30, ram_limit_bytes=2_000_000_000)

    (finding,) = ram_findings(boxed.host, 3.0, "env.min_ram_gb")

    assert finding.severity is Severity.ERROR
    assert finding.where == "control group"
    assert finding.evidence == "2.0 GB usable < env.min_ram_gb 3"
    assert "limit of the control group 1.9 GiB" in " ".join(fact.value for fact in system_facts(boxed))
    assert ram_findings(boxed.host, 1.5, "env.min_ram_gb") == []


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A real control group with a memory limit of 1 GB, version 1 or 2."""
    membership = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    v1 = Path("/sys/fs/cgroup/memory")
    root = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    own = root / cgroup.own_group(membership, "memory").lstrip("/")
    group = (own if own.is_dir() else root) / f"edgekiln-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text("999997440")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error.strerror}")
    yield group
    for _ in range(100):
        with contextlib.suppress(OSError):
            return group.rmdir()
        time.sleep(0.05)


def test_a_process_in_a_real_control_group_sees_its_limit_not_the_hosts(limited_group: Path) -> None:
    code = (
        "from core.env.machine import system; here = system.read({'variables': {}}).system;"
        "print(here.host.ram_limit_bytes, [f.where for f in system.ram_findings(here.host, 3.0, 'env.min_ram_gb')])"
    )
    script = f'echo $$ > {limited_group}/cgroup.procs && exec "$0" -c "$1"'
    argv = ["sh", "-c", script, sys.executable, code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "999997440 ['control group']"


def test_little_memory_without_a_limit_is_the_machines_own(here: System) -> None:
    (finding,) = ram_findings(poorer(here, ram_bytes=10**9, ram_limit_bytes=None).host, 3.0, "env.min_ram_gb", "pi: ")

    assert finding.where == "pi: RAM"
    assert "larger machine" in finding.remedy


def test_unknown_memory_is_no_finding(here: System) -> None:
    blind = poorer(here, ram_bytes=None, ram_limit_bytes=None)

    assert usable_ram_bytes(blind.host) is None
    assert ram_findings(blind.host, 1e6, "env.min_ram_gb") == []


@pytest.mark.parametrize(
    ("arch", "features", "missing"),
    [
        ("x86_64", ("sse4_2", "avx"), "no avx2 and no fma and no f16c"),
        ("aarch64", ("asimd",), "no asimddp"),
        ("x86_64", ("avx2", "fma", "f16c"), None),
        ("aarch64", ("asimd", "asimddp"), None),
        ("riscv64", ("v",), None),
        ("x86_64", (), None),
    ],
)
def test_a_processor_without_the_features_llama_cpp_is_fast_with_is_a_warning(
    here: System, arch: str, features: tuple[str, ...], missing: str | None
) -> None:
    alone = poorer(here, arch=arch, cpu_features=features).model_copy(update={"governors": (), "cpus_online": None})

    found = cpu_findings(alone)

    assert [finding.code for finding in found] == (["cpu-features"] if missing else [])
    assert not missing or missing in found[0].evidence


def test_fewer_processors_than_there_are_is_worth_knowing(here: System) -> None:
    many = poorer(here, cpus_usable=2).model_copy(update={"cpus_online": 64, "affinity": 64, "quota": 2.5})
    pinned = many.model_copy(update={"quota": None, "affinity": 2})

    by_quota, by_affinity = (
        next(finding for finding in cpu_findings(each) if finding.code == "cpus") for each in (many, pinned)
    )

    assert by_quota.severity is Severity.INFO
    assert by_quota.evidence == "2 of 64 processors may be used: the control group's quota is 2.5"
    assert by_affinity.evidence == "2 of 64 processors may be used: the affinity is 2"


@pytest.mark.parametrize(
    ("governor", "driver", "told"),
    [
        ("powersave", "cpufreq-dt", True),
        ("powersave", "intel_pstate", False),
        ("powersave", "amd-pstate-epp", False),
        ("ondemand", "cpufreq-dt", False),
        ("userspace", None, True),
    ],
)
def test_a_governor_that_holds_the_clock_low_is_a_warning(
    here: System, governor: str, driver: str | None, told: bool
) -> None:
    slow = here.model_copy(update={"governors": (governor,), "scaling_driver": driver})

    assert ("governor" in {finding.code for finding in cpu_findings(slow)}) is told


def test_memory_modules_are_told_and_unknown_is_an_answer(here: System) -> None:
    module = MemoryModule(
        kind="DDR5", bytes=16 << 30, data_rate_mts=5600, configured_mts=4800, manufacturer=None, part_number=None
    )
    blank = module.model_copy(update={"kind": None, "bytes": None, "data_rate_mts": None, "configured_mts": None})
    memory = MemoryFacts(
        known=True, total_bytes=1, modules=(module, module, blank), theoretical_gbs=76.8, evidence="SMBIOS"
    )

    known = next(f for f in system_facts(here.model_copy(update={"memory": memory})) if f.name == "memory modules")
    unknown = here.memory.model_copy(update={"known": False})
    blind = next(f for f in system_facts(here.model_copy(update={"memory": unknown})) if f.name == "memory modules")

    assert known.value.startswith("2 x DDR5 16 GiB 4800 MT/s; 1 x unknown kind unknown size unknown rate")
    assert known.value.endswith("at most 76.8 GB/s")
    assert blind.value == "unknown"
    assert blind.source == here.memory.evidence


@given(st.text())
def test_any_meminfo_gives_whole_numbers(text: str) -> None:
    assert all(size % 1024 == 0 for size in fields_kib(text).values())


def test_a_missing_file_is_no_text(tmp_path: Path) -> None:
    assert system._text(str(tmp_path / "none")) is None
