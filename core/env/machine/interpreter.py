"""The Python that runs: its version, the environment it belongs to, and whether the project was installed there."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from core.contract import Confidence, Contract, Finding, Severity

_PROJECT = "edgekiln"


class Interpreter(Contract):
    """The running Python; `kind` says what its environment is, None stands for what is not there.

    `configured_version` and `home` are what pyvenv.cfg says, `installed_in` is where the project's metadata lies,
    `installed_from` the folder of an editable installation, `running_from` the folder of the code that runs.
    """

    version: str
    executable: str
    prefix: str
    kind: str
    notebook: bool
    configured_version: str | None
    home: str | None
    home_exists: bool
    project_version: str | None
    wanted: str | None
    installed_in: str | None
    installed_from: str | None
    running_from: str
    activated: str | None


def read_interpreter(variables: dict[str, str]) -> Interpreter:
    """Read this process's interpreter; `variables` are the environment's, as core.config tells them."""
    cfg = venv_settings(Path(sys.prefix) / "pyvenv.cfg")
    home = cfg.get("home")
    found = _distribution()
    return Interpreter(
        version=platform.python_version(),
        executable=sys.executable,
        prefix=sys.prefix,
        kind=kind_of(sys.prefix, sys.base_prefix),
        notebook="JPY_PARENT_PID" in variables,
        configured_version=cfg.get("version") or cfg.get("version_info"),
        home=home,
        home_exists=home is None or Path(home).is_dir(),
        project_version=found.version if found else None,
        wanted=found.metadata["Requires-Python"] if found else None,
        installed_in=str(found.locate_file("")) if found else None,
        installed_from=_editable_source(found) if found else None,
        running_from=str(Path(__file__).resolve().parents[3]),
        activated=variables.get("VIRTUAL_ENV") or variables.get("CONDA_PREFIX"),
    )


def kind_of(prefix: str, base_prefix: str) -> str:
    """Return what kind of environment a prefix is."""
    if (Path(prefix) / "conda-meta").is_dir():
        return "conda environment"
    return "virtual environment" if prefix != base_prefix else "no virtual environment"


def venv_settings(path: Path) -> dict[str, str]:
    """Return the `name = value` lines of a pyvenv.cfg; nothing when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _distribution() -> metadata.Distribution | None:
    """Return the installed project; the .egg-info that a build leaves beside the source has no RECORD and is none."""
    found = metadata.distributions(name=_PROJECT)
    return next((one for one in found if one.read_text("RECORD") is not None), None)


def _editable_source(found: metadata.Distribution) -> str | None:
    """Return the folder an editable installation points at (PEP 610)."""
    text = found.read_text("direct_url.json")
    try:
        told: dict[str, Any] = json.loads(text or "{}")
    except ValueError:
        return None
    if not told.get("dir_info", {}).get("editable"):
        return None
    return str(told.get("url", "")).removeprefix("file://") or None


def interpreter_findings(found: Interpreter) -> list[Finding]:
    """Judge the interpreter and its environment."""
    return [*_version_findings(found), *_broken_findings(found), *_owner_findings(found), *_activated_findings(found)]


def _version_findings(found: Interpreter) -> list[Finding]:
    if found.wanted is None or SpecifierSet(found.wanted).contains(found.version, prereleases=True):
        return []
    return [
        Finding(
            code="python",
            severity=Severity.ERROR,
            where=found.executable,
            evidence=f"Python {found.version}, the project requires {found.wanted}",
            cause="the virtual environment was made with another Python",
            remedy=f"Make a new virtual environment with Python {found.wanted}.",
            verify_argv=(found.executable, "--version"),
        )
    ]


def _broken_findings(found: Interpreter) -> list[Finding]:
    """Return a finding when pyvenv.cfg names a Python that is gone or another one than this."""
    running, named = found.version.split(".")[:2], (found.configured_version or found.version).split(".")[:2]
    if found.home_exists and running == named:
        return []
    gone = f"pyvenv.cfg: home = {found.home} is not there"
    other = f"pyvenv.cfg: version = {found.configured_version}, Python {found.version} runs"
    return [
        Finding(
            code="venv",
            severity=Severity.ERROR,
            where=found.prefix,
            evidence=other if found.home_exists else gone,
            cause="the Python it was made from was removed or replaced",
            confidence=Confidence.HIGH,
            remedy=f"Make the virtual environment anew: python3 -m venv --clear {found.prefix}, then make setup.",
            remedy_argv=("python3", "-m", "venv", "--clear", found.prefix),
            verify_argv=(found.executable, "--version"),
        )
    ]


def _owner_findings(found: Interpreter) -> list[Finding]:
    """Return a finding when the project was installed elsewhere than where this interpreter looks first."""
    if found.installed_in is None:
        return [_installed_elsewhere(found, f"no {_PROJECT} is installed in {found.prefix}", Severity.ERROR)]
    if not Path(found.installed_in).resolve().is_relative_to(Path(found.prefix).resolve()):
        text = f"{_PROJECT} is installed in {found.installed_in}, this Python's environment is {found.prefix}"
        return [_installed_elsewhere(found, text, Severity.WARNING)]
    source = found.installed_from
    if source is not None and Path(source).resolve() != Path(found.running_from):
        text = f"the code that runs lies in {found.running_from}, {_PROJECT} was installed from {source}"
        return [_installed_elsewhere(found, text, Severity.WARNING)]
    return []


def _installed_elsewhere(found: Interpreter, evidence: str, severity: Severity) -> Finding:
    return Finding(
        code="interpreter",
        severity=severity,
        where=found.executable,
        evidence=evidence,
        cause="another interpreter, PYTHONPATH or another copy of the source is used than the project was installed with",
        confidence=Confidence.MEDIUM,
        remedy="Run the `edgekiln` of the environment it was installed in, or install it here: make setup.",
        remedy_argv=("make", "setup"),
        verify_argv=(found.executable, "-m", "pip", "show", _PROJECT),
    )


def _activated_findings(found: Interpreter) -> list[Finding]:
    if found.activated is None or Path(found.activated).resolve() == Path(found.prefix).resolve():
        return []
    return [
        Finding(
            code="interpreter",
            severity=Severity.WARNING,
            where=found.executable,
            evidence=f"{found.activated} is activated, {found.prefix} runs",
            cause="the program was started by its path, or PATH was changed after the activation",
            remedy="Deactivate the other environment, or install what you add into the one that runs.",
        )
    ]
