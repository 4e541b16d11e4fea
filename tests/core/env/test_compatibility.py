"""The compatibility matrix: it is well-formed, true of the installed packages, and judges what it speaks of."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Severity
from core.env.compatibility import Matrix, Seen, compatibility_findings, read_matrix
from core.errors import BadConfig
from core.toolchain_build import VERSION

MATRIX = read_matrix()
RULES = {rule.id: rule for rule in MATRIX.rules}


def seen(**versions: str) -> list[Seen]:
    return [Seen(subject=name.replace("_", "-"), version=version, source="here") for name, version in versions.items()]


def source_of(package: str, file: str) -> str:
    return Path(str(metadata.distribution(package).locate_file(file))).read_text(encoding="utf-8")


def ids(versions: list[Seen]) -> list[str]:
    return [re.search(r"rule ([a-z0-9-]+);", finding.evidence)[1] for finding in compatibility_findings(MATRIX, versions)]


def test_what_is_installed_here_is_compatible() -> None:
    here = {found.metadata["Name"].lower(): found.version for found in metadata.distributions() if found.metadata["Name"]}
    assert ids([Seen(subject=name, version=version, source="metadata") for name, version in here.items()]) == []


def test_every_rule_names_its_source() -> None:
    assert all(len(rule.source) > 10 and rule.because and rule.remedy for rule in MATRIX.rules)


@pytest.mark.parametrize(
    ("versions", "broken"),
    [
        ({"cuda": "13.0", "nvidia_driver": "550.54.15"}, ["cuda-13-driver"]),
        ({"cuda": "13.0", "nvidia_driver": "580.65.06"}, []),
        ({"cuda": "12.6", "nvidia_driver": "470.256.02"}, ["cuda-12-driver"]),
        ({"cuda": "11.8", "nvidia_driver": "418.87"}, ["cuda-11-driver"]),
        ({"cuda": "13.0", "compute_capability": "6.1"}, ["cuda-13-gpu"]),
        ({"cuda": "12.6", "compute_capability": "5.2", "bitsandbytes": "0.50.2"}, ["bitsandbytes-gpu"]),
        ({"cuda": "13.4", "bitsandbytes": "0.50.2"}, ["bitsandbytes-cuda"]),
        ({"rocm": "6.2", "bitsandbytes": "0.50.2"}, ["bitsandbytes-rocm"]),
        ({"transformers": "5.23.0", "torch": "2.5.1+cu124"}, ["transformers-torch"]),
        ({"transformers": "5.23.0", "torch": "2.13.0+cpu", "accelerate": "1.0.0"}, ["transformers-accelerate"]),
        ({"prefect": "3.8.8", "fastapi": "0.160.0"}, ["prefect-fastapi"]),
        ({"edgekiln": "0.1", "llama_cpp_python": "0.3.30"}, ["llama-cpp-toolchain"]),
        ({"torch": "no version"}, []),
        ({"transformers": "5.23.0", "torch": "no version"}, ["transformers-torch"]),
        ({}, []),
    ],
)
def test_a_rule_is_broken_by_what_it_forbids(versions: dict[str, str], broken: list[str]) -> None:
    assert ids(seen(**versions)) == broken


def test_each_gpu_is_judged_by_itself() -> None:
    gpus = [
        Seen(subject="compute-capability", version=version, source=f"GPU {version}") for version in ("8.9", "6.1", "7.0")
    ]

    found = compatibility_findings(MATRIX, [*seen(cuda="13.0"), *gpus])

    assert [finding.evidence.split(" beside ")[0] for finding in found] == [
        "compute-capability 6.1 (GPU 6.1)",
        "compute-capability 7.0 (GPU 7.0)",
    ]
    assert "beside cuda 13.0, needed is >=7.5 (rule cuda-13-gpu; NVIDIA" in found[0].evidence
    assert found[0].severity is Severity.ERROR


def test_the_rules_about_transformers_are_what_its_code_says() -> None:
    constants = dict(
        re.findall(
            r'^(\w+)_MIN_VERSION = "([0-9.]+)"', source_of("transformers", "transformers/utils/import_utils.py"), re.M
        )
    )
    for name in ("accelerate", "bitsandbytes", "gguf"):
        assert RULES[f"transformers-{name}"].needs == {name: f">={constants[name.upper()]}"}


def test_the_rules_about_bitsandbytes_are_what_its_wheel_holds() -> None:
    files = [file.name for file in metadata.files("bitsandbytes") or []]
    cuda = sorted(int(match[1]) for file in files if (match := re.fullmatch(r"libbitsandbytes_cuda(\d{3})\.so", file)))
    assert (cuda[0], cuda[-1]) == (118, 132)
    assert RULES["bitsandbytes-cuda"].needs == {"cuda": ">=11.8,<13.3"}


def test_the_rule_about_the_toolchain_is_the_toolchains() -> None:
    assert RULES["llama-cpp-toolchain"].needs == {"llama-cpp-python": f"=={VERSION}"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"needs": {"torch": "two"}}, "no range of versions"),
        ({"needs": {}}, "needs"),
        ({"severity": "fatal"}, "severity"),
        ({"needs": {"Torch": ">=1"}}, "Torch"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_broken_matrix_names_its_mistakes(change: dict[str, object], words: str, tmp_path: Path) -> None:
    rule = {**RULES["cuda-13-gpu"].model_dump(), **change}
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump({"schema_version": 1, "version": "1", "rules": [rule]}), encoding="utf-8")

    with pytest.raises(BadConfig, match=words):
        read_matrix(path)


def test_two_rules_of_one_id_are_refused(tmp_path: Path) -> None:
    rule = RULES["cuda-13-gpu"].model_dump()
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump({"schema_version": 1, "version": 2.5, "rules": [rule, rule]}), encoding="utf-8")

    with pytest.raises(BadConfig, match="share an id: cuda-13-gpu"):
        read_matrix(path)


@given(st.dictionaries(st.sampled_from(["cuda", "torch", "bitsandbytes", "compute-capability"]), st.text(max_size=12)))
def test_no_version_however_odd_breaks_the_judge(versions: dict[str, str]) -> None:
    listed = [Seen(subject=name, version=version, source="here") for name, version in versions.items()]
    assert isinstance(compatibility_findings(MATRIX, listed), list)


def test_an_empty_matrix_finds_nothing() -> None:
    assert compatibility_findings(Matrix(schema_version=1, version="0", rules=()), seen(cuda="13.0")) == []
