"""Each finding about libraries, provoked by real distributions on the path of a real child."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import config
from core.contract import Severity
from core.env.accelerators import ACCELERATORS
from core.env.capability import Context
from core.env.causes import group
from core.env.libraries import LIBRARIES, package_findings, survey_of
from core.env.probe import Reading, run_probes
from core.env.roles import Role
from tests.core.env.stand_ins import A4090, build_nvml, play, put_torch

CONTEXT = Context(config.load("demo"), Path(), frozenset({Role.TRAINER}), Path(), Path())


def put(folder: Path, name: str, version: str, *requires: str, record: bool = True) -> Path:
    """Put a distribution there that is nothing but its metadata."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}", encoding="utf-8")
    (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
    if record:
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n", encoding="utf-8")
    return info


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """This environment as it is."""
    return run_probes(LIBRARIES.probes(CONTEXT), tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """This environment with a folder of odd distributions before it."""
    folder = tmp_path_factory.mktemp("crowded")
    site = folder / "site"
    put(
        site, "shop-floor", "1.0", "pydantic<2", "absent-thing>=3", 'colorama; sys_platform == "win32"', "not a requirement"
    )
    put(site, "odd", "1.0", "shop-floor==1.*")
    (put(site, "torn", "1.0") / "METADATA").unlink()
    put(site, "recordless", "1.0", record=False)
    put(site, "twin", "1.0")
    put(site, "twin", "2.0")
    for name in ("onnxruntime", "jax", "tensorflow"):
        put(site, name, "9.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site), prepend=":")
        return run_probes(LIBRARIES.probes(CONTEXT), folder / "scratch")


def test_packages_that_nobody_asked_for_may_conflict(crowded: dict[str, Reading]) -> None:
    conflicts = [finding for finding in LIBRARIES.findings(crowded, CONTEXT) if finding.code == "conflicts"]

    assert [finding.where for finding in conflicts] == ["shop-floor", "shop-floor"]
    assert conflicts[0].evidence.startswith("shop-floor 1.0 asks for pydantic<2, 2.")
    assert conflicts[1].evidence == "shop-floor 1.0 asks for absent-thing>=3, none is installed"
    assert {finding.severity for finding in conflicts} == {Severity.WARNING}


def test_torn_and_double_metadata_are_findings(crowded: dict[str, Reading]) -> None:
    told = {f.where: f.evidence for f in LIBRARIES.findings(crowded, CONTEXT) if f.code == "packages"}

    assert told["torn"] == "torn-1.0.dist-info has no METADATA"
    assert told["recordless"] == "recordless-1.0.dist-info has no RECORD"
    assert "lie side by side" in told["twin"]


def test_a_needed_package_of_another_version_is_an_error(clean: dict[str, Reading]) -> None:
    whole = survey_of(clean)
    assert whole is not None
    others = [one for one in whole.distributions if one.key != "peft"]
    peft = next(one for one in whole.distributions if one.key == "peft")

    old = package_findings(
        whole.model_copy(update={"distributions": (*others, peft.model_copy(update={"version": "0.1"}))})
    )
    gone = package_findings(whole.model_copy(update={"distributions": tuple(others)}))
    nothing = package_findings(whole.model_copy(update={"distributions": ()}))

    assert [(f.where, f.severity) for f in old] == [("peft", Severity.ERROR)]
    assert old[0].evidence.startswith("peft 0.1 is installed, ")
    assert old[0].remedy_argv[-1] == "peft==0.21.2"
    assert "peft is not installed" in next(f for f in gone if f.where == "peft").evidence
    assert [f.remedy_argv for f in nothing] == [("make", "setup")]


def test_the_matrix_is_held_against_driver_and_gpu(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"driver 550.54.15\ncuda 12040\ngpus 1\n{A4090.replace('8.9', '6.1')}"
    play(script, build_nvml(tmp_path_factory.mktemp("nvml")), tmp_path, monkeypatch)
    refusal = "The NVIDIA driver on your system is too old"
    put_torch(tmp_path, monkeypatch, version="2.13.0", cuda="13.0", arch_list=["sm_75", "sm_80"], refusal=refusal)
    readings = run_probes([*ACCELERATORS.probes(CONTEXT), *LIBRARIES.probes(CONTEXT)], tmp_path / "scratch")

    judged = LIBRARIES.findings(readings, CONTEXT)
    rules = [f.evidence for f in judged if f.code == "compatibility"]

    assert len(rules) == 2
    assert "nvidia-driver 550.54.15 (NVML) beside cuda 13.0, needed is >=580" in rules[0]
    assert "compute-capability 6.1 (GPU 0 NVIDIA GeForce RTX 4090, NVML) beside cuda 13.0" in rules[1]
    roots = {f.code: f for f in group([*judged, *ACCELERATORS.findings(readings, CONTEXT)])}
    assert roots["cuda-driver"].symptoms == ("compatibility", "torch-gpu")
    assert refusal in roots["cuda-driver"].evidence
    assert roots["gpu-arch"].symptoms == ("compatibility",)
    assert not {"torch-gpu", "compatibility"} & set(roots)


def test_frameworks_are_told_only_when_present(clean: dict[str, Reading], crowded: dict[str, Reading]) -> None:
    told = {fact.name: fact.value for fact in LIBRARIES.facts(crowded, CONTEXT)}

    assert (told["ONNX Runtime"], told["JAX"], told["TensorFlow"]) == ("9.1", "9.1", "9.1")
    assert not [f for f in LIBRARIES.findings(crowded, CONTEXT) if f.where in {"onnxruntime", "jax", "tensorflow"}]
    assert {fact.name for fact in LIBRARIES.facts(clean, CONTEXT)} == {"packages", "compatibility matrix"}


def test_a_survey_that_failed_says_nothing_more() -> None:
    assert LIBRARIES.findings({}, CONTEXT) == []
    assert LIBRARIES.facts({}, CONTEXT) == []
