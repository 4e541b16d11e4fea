"""Root causes: symptoms under their cause, and the laws of grouping: nothing lost, in any order, as often as one likes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Finding, Severity
from core.env.causes import CAUSES, group

CODES = sorted({s.code for cause in CAUSES for s in (cause.root, *cause.explains)} | {"governor", "spot"})
WORDS = (
    "",
    "No space left on device",
    "CUDA error",
    "no way there: Temporary failure in name resolution",
    "ImportError: x",
)


def finding(code: str, evidence: str = "read", severity: Severity = Severity.ERROR, **more: object) -> Finding:
    return Finding(code=code, severity=severity, where=code, evidence=evidence, cause="c", remedy="r", **more)


FINDINGS = st.lists(
    st.builds(
        Finding,
        code=st.sampled_from(CODES),
        severity=st.sampled_from(Severity),
        where=st.sampled_from(["here", "there"]),
        evidence=st.builds("{} {}".format, st.sampled_from(WORDS), st.integers(0, 3)),
        cause=st.just("c"),
        remedy=st.just("r"),
        roles=st.sampled_from([(), ("trainer",), ("trainer", "exporter")]),
    ),
    max_size=12,
)


@given(FINDINGS)
def test_no_finding_is_lost(findings: list[Finding]) -> None:
    grouped = group(findings)

    for one in findings:
        holders = [g for g in grouped if one.evidence in g.evidence and (one.code == g.code or one.code in g.symptoms)]
        assert any(list(Severity).index(g.severity) <= list(Severity).index(one.severity) for g in holders)
        assert any(not g.roles or set(one.roles) <= set(g.roles) for g in holders)


@given(FINDINGS, st.randoms())
def test_the_order_of_findings_does_not_matter(findings: list[Finding], random: object) -> None:
    shuffled = list(findings)
    random.shuffle(shuffled)

    assert group(shuffled) == group(findings)


@given(FINDINGS)
def test_grouping_twice_changes_nothing(findings: list[Finding]) -> None:
    once = group(findings)

    assert group(once) == once


@given(FINDINGS)
def test_the_worst_stays_the_worst_and_comes_first(findings: list[Finding]) -> None:
    order = list(Severity)
    grouped = [order.index(one.severity) for one in group(findings)]

    assert grouped == sorted(grouped)
    assert min(grouped, default=9) == min((order.index(one.severity) for one in findings), default=9)


def test_the_table_has_no_circle() -> None:
    roots = [cause.root.code for cause in CAUSES]
    assert len(set(roots)) == len(roots)
    for number, cause in enumerate(CAUSES):
        above = set(roots[: number + 1])
        assert not {symptom.code for symptom in cause.explains} & above, cause.root.code


def test_a_driver_too_old_explains_what_fails_with_it() -> None:
    found = group(
        [
            finding("torch-gpu", "torch sees 0 of 1 GPUs: the NVIDIA driver is too old"),
            finding("trains", "RuntimeError: CUDA driver version is insufficient"),
            finding("compatibility", "nvidia-driver 550 (NVML) beside cuda 13.0, needed is >=580"),
            finding("cuda-driver", "the driver knows CUDA 12.4 < CUDA 13.0", roles=("trainer",)),
            finding("governor", severity=Severity.WARNING),
        ]
    )

    assert [one.code for one in found] == ["cuda-driver", "governor"]
    assert found[0].symptoms == ("compatibility", "torch-gpu", "trains")
    assert found[0].evidence.startswith(
        "the driver knows CUDA 12.4 < CUDA 13.0; it explains: compatibility compatibility: nv"
    )
    assert found[0].roles == ()


def test_another_environment_does_not_explain_a_driver() -> None:
    driver = finding("compatibility", "nvidia-driver 550 (NVML) beside cuda 13.0, needed is >=580")
    library = finding("compatibility", "accelerate 1.0 (metadata) beside transformers 5.23.0, needed is >=1.1")

    roots = group([finding("venv"), driver, library])

    assert [(one.code, one.symptoms) for one in roots] == [("compatibility", ()), ("venv", ("compatibility",))]


def test_a_cause_that_only_warns_becomes_as_severe_as_its_symptom() -> None:
    (root,) = group([finding("torch-build", severity=Severity.WARNING), finding("cuda")])

    assert (root.code, root.severity) == ("torch-build", Severity.ERROR)


def test_what_is_only_told_explains_nothing_and_needs_no_explanation() -> None:
    assert len(group([finding("packages"), finding("converts", severity=Severity.INFO)])) == 2
    assert len(group([finding("cuda-driver", severity=Severity.INFO), finding("torch-gpu")])) == 2


def test_many_broken_packages_are_one_broken_environment() -> None:
    three = [finding("packages", f"{name} is not installed", roles=("trainer",)) for name in ("peft", "trl", "torch")]

    (root,) = group([*three, finding("trains", "ModuleNotFoundError: peft", roles=("trainer",))])

    assert (root.code, root.symptoms, root.roles) == ("environment", ("packages", "trains"), ("trainer",))
    assert root.evidence.startswith("3 packages are not as they should be; it explains: packages packages: peft")
    assert [one.code for one in group(three[:2])] == ["packages", "packages"]


def test_a_broken_venv_explains_its_packages_and_all_they_break() -> None:
    many = [finding("packages", f"{number} is missing") for number in range(4)]

    (root,) = group([*many, finding("venv"), finding("compatibility"), finding("probe", "ModuleNotFoundError: torch")])

    assert (root.code, root.symptoms) == ("venv", ("compatibility", "packages", "probe"))


@pytest.mark.parametrize(
    ("evidence", "codes"),
    [
        ("no way there: [Errno -3] Temporary failure in name resolution", ["network"]),
        ("127.0.0.1 refused the connection", ["network", "teacher"]),
    ],
)
def test_no_network_explains_only_what_needs_it(evidence: str, codes: list[str]) -> None:
    assert [one.code for one in group([finding("network"), finding("teacher", evidence)])] == codes
