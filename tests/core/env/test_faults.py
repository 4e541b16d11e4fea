"""Judging packages: pure, on surveys made by hand; and the survey itself, of the environment these tests run in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from core.env import project, survey
from core.env.faults import Fault, FaultKind, Wish, find_faults, finding_of, read_pins
from core.env.installed import Distribution, Installer, Source, Survey, installer_for, source_of
from core.errors import ToolMissing, UsageError

PIP = Installer("pip", ("python", "-m", "pip"))
VCS = json.dumps({"url": "https://host.example/alpha.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}})
WHEEL = json.dumps({"url": "file:///wheels/alpha-1.0-py3-none-any.whl", "archive_info": {}})
FOLDER = json.dumps({"url": "file:///src/alpha", "dir_info": {"editable": True}})


def there(name: str, version: str | None = "1.0", **changes: object) -> Distribution:
    plain = Distribution(
        name=name,
        version=version,
        folder=f"/venv/site/{name}-{version}.dist-info",
        has_metadata=True,
        has_record=True,
        installer="pip",
        direct_url=None,
        requires=(),
        broken_files=(),
        broken_count=0,
    )
    return plain.model_copy(update=changes)


def environment(*distributions: Distribution, leftovers: tuple[str, ...] = ()) -> Survey:
    return Survey(
        python="/venv/bin/python",
        prefix="/venv",
        base_prefix="/usr",
        sites=("/venv/site",),
        scripts="/venv/bin",
        managed_by_system=False,
        markers={"python_version": "3.11", "sys_platform": "linux"},
        distributions=distributions,
        outside=(),
        leftovers=leftovers,
    )


def faults(found: Survey, *requirements: str, accelerated: bool = False, pins: dict[str, str] | None = None) -> list[Fault]:
    return find_faults(found, Wish(tuple(map(Requirement, requirements)), pins or {}, accelerated))


def test_a_whole_environment_has_no_fault() -> None:
    found = environment(there("alpha", requires=("Be.ta>=1",)), there("be-ta", "1.5"))
    assert faults(found, "ALPHA==1.0", accelerated=True) == []


def test_what_a_package_needs_is_needed_too_by_its_extras_and_markers() -> None:
    needs = (
        "beta; sys_platform == 'linux'",
        "gamma; sys_platform == 'win32'",
        "delta; extra == 'fast'",
        "eps; extra == 'x'",
    )
    told = faults(environment(there("alpha", requires=needs)), "alpha[fast]")
    assert [(fault.name, fault.kind) for fault in told] == [("beta", FaultKind.MISSING), ("delta", FaultKind.MISSING)]


def test_the_pinned_version_is_installed_where_it_serves() -> None:
    missing = environment()
    assert faults(missing, "alpha>=1", pins={"alpha": "1.3"})[0].requirement == "alpha==1.3"
    assert faults(missing, "alpha>=2", pins={"alpha": "1.3"})[0].requirement == "alpha>=2"


def test_two_who_ask_for_one_package_are_both_heard() -> None:
    found = environment(there("alpha", requires=("beta<2",)), there("beta", "2.5"))
    (fault,) = faults(found, "beta>=1", "alpha")
    assert fault.evidence == "beta 2.5 is installed, alpha asks for beta<2"
    assert set((fault.requirement or "")[4:].split(",")) == {">=1", "<2"}


def test_the_cpu_build_is_a_fault_only_where_there_is_a_gpu() -> None:
    found = environment(there("torch", "2.13.0+cpu"))
    assert faults(found, "torch==2.13.0") == []
    (fault,) = faults(found, "torch==2.13.0", accelerated=True)
    assert (fault.kind, fault.requirement) == (FaultKind.BUILD, "torch==2.13.0,!=2.13.0+cpu")
    assert faults(environment(there("torch", "2.13.0+cu130")), "torch==2.13.0", accelerated=True) == []


def test_a_version_that_is_none_does_not_serve() -> None:
    (fault,) = faults(environment(there("alpha", "not a version")), "alpha>=1")
    assert fault.kind is FaultKind.VERSION


@pytest.mark.parametrize(
    ("origin", "requirement", "by_hand"),
    [
        (None, "alpha==1.0", None),
        (WHEEL, "alpha @ file:///wheels/alpha-1.0-py3-none-any.whl", None),
        (VCS, None, "install alpha again from https://host.example/alpha.git"),
        (FOLDER, None, "install alpha again from file:///src/alpha"),
        ("not json", "alpha==1.0", None),
        ("[]", "alpha==1.0", None),
    ],
)
def test_a_torn_package_comes_again_from_where_it_came(
    origin: str | None, requirement: str | None, by_hand: str | None
) -> None:
    torn = there("alpha", direct_url=origin, broken_files=("alpha/x.py is missing",), broken_count=3)
    (fault,) = faults(environment(torn))
    assert (fault.kind, fault.requirement, fault.by_hand) == (FaultKind.INCOMPLETE, requirement, by_hand)
    assert fault.evidence == "alpha 1.0: alpha/x.py is missing (and 2 more)"
    assert fault.deed == (f"by hand: {by_hand}" if by_hand else f"install again {requirement}")


def test_a_torn_package_of_another_version_comes_in_the_version_asked_for() -> None:
    torn = there("alpha", broken_files=("alpha/x.py is missing",), broken_count=1)
    assert faults(environment(torn), "alpha==2.0")[0].requirement == "alpha==2.0"
    assert faults(environment(there("alpha", None, has_metadata=False)))[0].requirement == "alpha"


def test_what_the_system_or_conda_installed_is_not_ours_to_mend() -> None:
    assert faults(environment(there("alpha", installer="debian", has_record=False))) == []
    assert faults(environment(there("alpha", installer="conda", broken_count=1, broken_files=("x",)))) == []


def test_requirements_from_before_the_standard_are_passed_over() -> None:
    assert faults(environment(there("alpha", requires=("beta (>=1, weird",))), "alpha") == []


def test_a_finding_carries_the_command_where_one_program_mends_it() -> None:
    (missing,) = faults(environment(), "alpha==1.0")
    told = finding_of(missing, PIP, Source())
    assert told.remedy == "install alpha==1.0"
    assert told.remedy_argv[-1] == "alpha==1.0"
    (left,) = faults(environment(leftovers=("/venv/site/~lpha",)))
    assert (left.deed, finding_of(left, PIP, Source()).remedy_argv) == ("remove ~lpha", ())


def test_only_exact_pins_are_read(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# a==1\nAl_pha==1.0\nbeta>=2\n\ngamma == 3\n", encoding="utf-8")
    assert read_pins(path) == {"al-pha": "1.0", "gamma": "3"}
    assert read_pins(tmp_path / "none") == {}
    assert read_pins(None) == {}


def test_a_wheelhouse_brings_its_own_pins_and_must_hold_something(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make wheelhouse"):
        source_of(tmp_path, None)
    (tmp_path / "alpha-1.0-py3-none-any.whl").touch()
    assert source_of(tmp_path, None).constraints is None
    (tmp_path / "constraints.txt").touch()
    assert "--no-index" in source_of(tmp_path, None).options()
    assert source_of(tmp_path, tmp_path / "other.txt").constraints == tmp_path / "constraints.txt"


def test_the_environments_own_pip_is_taken_when_it_is_whole_else_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installer_for(environment(there("pip", "26.3")), "auto").command[0] == "/venv/bin/python"
    torn = there("pip", "26.3", broken_count=1, broken_files=("pip/x.py is missing",))
    for found in (environment(torn), environment()):
        assert installer_for(found, "auto").command[0] == sys.executable


def test_an_installer_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="uv is not on PATH"):
        installer_for(environment(), "uv")
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ToolMissing, match="pip is neither in"):
        installer_for(environment(), "auto")


def test_an_environment_without_the_project_needs_make_setup() -> None:
    (fault,) = project.own_fault(environment())
    assert fault.deed == "by hand: make setup"
    assert project.own_fault(environment(there("edgekiln", "0.1.0"))) == []


def test_the_environment_of_these_tests_is_whole() -> None:
    found = Survey.model_validate(survey.survey())
    assert found.prefix == sys.prefix
    assert found.versions()["pydantic"].startswith("2.")
    assert [one.name for one in found.distributions if one.broken_count] == []
    assert all(Path(path).is_relative_to(found.prefix) for path in found.outside)
