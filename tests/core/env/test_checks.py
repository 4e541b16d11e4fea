"""Each check, provoked: what it finds, and that it is silent on a machine that can do the job."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from core.config import EnvConfig
from core.contract import Finding, Severity
from core.env import packages
from core.env.checks import CHECKS, Machine, package_finding, python_findings, run_checks, torch_build_findings
from core.env.gpu import Gpu, GpuReading
from core.env.host import read_host
from core.errors import BadConfig

NO_GPU = GpuReading(gpus=(), evidence="nvidia-smi is not installed")
ONE_GPU = GpuReading(
    gpus=(Gpu(name="NVIDIA H200", memory_total_mib=1, memory_free_mib=1, driver="1", compute_capability="9.0"),),
    evidence="nvidia-smi",
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(
        config=EnvConfig(min_free_disk_gb=0, min_ram_gb=0.1),
        host=read_host(),
        gpus=NO_GPU,
        workspace=tmp_path / "workspace",
        cache=tmp_path / "cache",
    )


def asking(machine: Machine, **wishes: object) -> Machine:
    return replace(machine, config=machine.config.model_copy(update=wishes))


def only(code: str, machine: Machine) -> list[Finding]:
    return CHECKS[code](machine)


def test_every_finding_carries_the_code_that_skips_it(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")
    poor = asking(machine, min_free_disk_gb=1e9, min_ram_gb=1e6, needs_cuda=True)

    found = {finding.code for finding in run_checks(poor)}

    assert {"disk", "ram", "cuda", "cache"} <= found <= set(CHECKS)
    assert run_checks(asking(poor, skip=tuple(CHECKS))) == []


def test_a_misspelt_skip_names_the_nearest_check(machine: Machine) -> None:
    with pytest.raises(BadConfig, match="dsk") as caught:
        run_checks(asking(machine, skip=("dsk",)))
    assert "disk" in caught.value.remedy


def test_too_little_disk_is_told_once_for_both_places(machine: Machine) -> None:
    (finding,) = only("disk", asking(machine, min_free_disk_gb=1e9))

    assert finding.severity is Severity.ERROR
    assert "< env.min_free_disk_gb 1e+09 where the workspace and cache lies" in finding.evidence
    assert only("disk", machine) == []


def test_the_control_group_counts_when_it_is_tighter(machine: Machine) -> None:
    boxed = replace(machine, host=machine.host.model_copy(update={"ram_limit_bytes": 2_000_000_000}))

    (finding,) = only("ram", asking(boxed, min_ram_gb=3.0))

    assert finding.where == "control group"
    assert finding.evidence == "2.0 GB usable < env.min_ram_gb 3"
    assert only("ram", machine) == []


def test_unknown_ram_is_no_finding(machine: Machine) -> None:
    blind = replace(machine, host=machine.host.model_copy(update={"ram_bytes": None, "ram_limit_bytes": None}))

    assert only("ram", asking(blind, min_ram_gb=1e6)) == []


def test_a_cache_that_cannot_be_written_is_named(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    (finding,) = only("cache", replace(machine, cache=tmp_path / "file" / "cache"))

    assert finding.where == str(tmp_path / "file" / "cache")
    assert "Not a directory" in finding.evidence
    assert only("cache", machine) == []


def test_a_missing_compiler_set_is_named_when_nothing_is_built(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))

    (finding,) = only("programs", machine)

    assert "cmake" in finding.evidence
    assert "install" in finding.remedy


def test_python_outside_the_range_is_an_error() -> None:
    (finding,) = python_findings("3.10.4", ">=3.11")

    assert finding.severity is Severity.ERROR
    assert python_findings("3.13.0rc1", ">=3.11") == []


def test_this_interpreter_and_its_packages_are_fit(machine: Machine) -> None:
    assert only("python", machine) == []
    assert [finding for finding in only("packages", machine) if finding.severity is Severity.ERROR] == []


def test_the_job_needs_torch_but_not_the_developers_tools() -> None:
    names = {requirement.name for requirement in packages.requirements()}

    assert {"torch", "transformers", "peft", "trl", "bitsandbytes", "llama-cpp-python", "pydantic"} <= names
    assert not {"pytest", "ruff", "mypy"} & names


def test_reading_the_packages_imports_none_of_them() -> None:
    from core.process import capture

    code = (
        "import sys; from core.env import packages; packages.torch_cuda(); "
        "[packages.state_of(r) for r in packages.requirements()]; "
        "print([m for m in ('torch', 'transformers', 'trl', 'llama_cpp') if m in sys.modules])"
    )

    assert capture([sys.executable, "-c", code], timeout_s=60).strip() == "[]"


def test_a_missing_package_is_an_error_that_says_what_to_install() -> None:
    finding = package_finding(packages.state_of(Requirement("edgekiln-never-published==1.0")))

    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert finding.remedy == "pip install 'edgekiln-never-published==1.0'"


def test_another_version_than_the_pinned_one_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "ghost_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost-package\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    finding = package_finding(packages.state_of(Requirement("ghost-package==2.0")))

    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert finding.evidence == "ghost-package 1.0 is installed, ghost-package==2.0 is pinned"
    assert package_finding(packages.state_of(Requirement("ghost-package>=1"))) is None


def test_metadata_without_the_module_is_a_torn_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = packages.PackageState(requirement="trl==1.0", name="trl", version="1.0", satisfied=True, importable=False)

    finding = package_finding(state)

    assert finding is not None
    assert "--force-reinstall" in finding.remedy
    assert "no module" in finding.evidence


def test_a_job_that_needs_cuda_is_stopped_without_a_gpu(machine: Machine) -> None:
    (finding,) = only("cuda", asking(machine, needs_cuda=True))

    assert "nvidia-smi is not installed" in finding.evidence
    assert only("cuda", machine) == []
    assert only("cuda", asking(replace(machine, gpus=ONE_GPU), needs_cuda=True)) == []


@pytest.mark.parametrize(("needs_cuda", "severity"), [(True, Severity.ERROR), (False, Severity.WARNING)])
def test_a_cpu_wheel_on_a_gpu_machine_is_its_own_finding(machine: Machine, needs_cuda: bool, severity: Severity) -> None:
    (finding,) = torch_build_findings(asking(replace(machine, gpus=ONE_GPU), needs_cuda=needs_cuda), None, "version.py")

    assert finding.severity is severity
    assert "NVIDIA H200" in finding.evidence
    assert "torch==" in finding.remedy


def test_a_cuda_wheel_or_a_machine_without_gpu_is_fine(machine: Machine) -> None:
    assert torch_build_findings(replace(machine, gpus=ONE_GPU), "12.8", "version.py") == []
    assert torch_build_findings(machine, None, "version.py") == []
    assert only("torch-build", machine) == []


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = None\n", None),
        ("cuda: Optional[str] = '12.8'\n", "12.8"),
        ('cuda = "11.8"\n', "11.8"),
        ("", None),
    ],
)
def test_the_build_is_read_from_torchs_own_file(text: str, cuda: str | None) -> None:
    assert packages.parse_torch_cuda(f"__version__ = '2.13.0'\n{text}hip: Optional[str] = None\n") == cuda
