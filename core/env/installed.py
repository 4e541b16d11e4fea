"""What is installed in an environment, asked of its own interpreter; and which program installs there, pip or uv."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from packaging.utils import canonicalize_name
from pydantic import ValidationError

from core.contract import Contract
from core.errors import ProcessFailed, RepairFailed, ToolMissing, UsageError
from core.process import run

_SURVEY_TIMEOUT_S = 120.0  # a cold disk with thousands of files
_PIP_TIMEOUT_S = 120.0

Tool = Literal["auto", "pip", "uv"]


class Distribution(Contract):
    """A distribution as its own files tell; `version` None when not even its folder's name says it.

    `broken_files` are the first few that are missing or shorter than RECORD says, `broken_count` how many there are.
    """

    name: str
    version: str | None
    folder: str
    has_metadata: bool
    has_record: bool
    installer: str
    direct_url: str | None
    requires: tuple[str, ...]
    broken_files: tuple[str, ...]
    broken_count: int

    @property
    def key(self) -> str:
        """The name by which the same package is known everywhere."""
        return str(canonicalize_name(self.name))

    @property
    def origin(self) -> dict[str, Any]:
        """What direct_url.json says of an installation that came from no index; empty for one that did."""
        try:
            found = json.loads(self.direct_url or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def editable(self) -> bool:
        """Whether it is a link to its source folder."""
        return bool(self.origin.get("dir_info", {}).get("editable"))


class Survey(Contract):
    """An environment; `sites` hold its packages, `outside` are its distributions' files elsewhere below `prefix`."""

    python: str
    prefix: str
    base_prefix: str
    sites: tuple[str, ...]
    scripts: str
    managed_by_system: bool
    markers: dict[str, str]
    distributions: tuple[Distribution, ...]
    outside: tuple[str, ...]
    leftovers: tuple[str, ...]

    def versions(self) -> dict[str, str]:
        """Return the version of every distribution that tells one, by canonical name."""
        return {found.key: found.version for found in self.distributions if found.version is not None}


def survey(python: Path, scratch: Path) -> Survey:
    """Ask an interpreter what is installed for it; ToolMissing when it cannot run, RepairFailed when its answer is none."""
    if not os.access(python, os.X_OK):
        raise ToolMissing(
            f"the interpreter {python} is not there or cannot be run",
            remedy="The environment cannot be mended from within: make it anew with `make setup`.",
        )
    scratch.mkdir(parents=True, exist_ok=True)
    answer = scratch / "survey.json"
    answer.unlink(missing_ok=True)
    program = (resources.files("core.env") / "survey.py").read_text(encoding="utf-8")
    # -c and an empty folder to stand in: neither this module's folder nor the caller's gets onto the path
    _ask([str(python), "-c", program, str(answer)], scratch / "survey.log", _SURVEY_TIMEOUT_S)
    try:
        return Survey.model_validate_json(answer.read_bytes())
    except (OSError, ValidationError) as error:
        raise RepairFailed(
            f"{python} told nothing that can be read about its packages: {str(error).splitlines()[0]}",
            remedy="Make the environment anew with `make setup`.",
        ) from error


@dataclass(frozen=True)
class Source:
    """Where packages come from: the index that is set up, or a folder alone; `constraints` pins versions."""

    wheelhouse: Path | None = None
    constraints: Path | None = None

    def options(self) -> list[str]:
        """Return the options that pip and uv share."""
        found = ["--no-index", "--find-links", str(self.wheelhouse.absolute())] if self.wheelhouse else []
        return found + (["--constraint", str(self.constraints.absolute())] if self.constraints else [])


def source_of(wheelhouse: Path | None, constraints: Path | None) -> Source:
    """Return a source; a wheelhouse brings its own constraints. UsageError for a folder without packages."""
    if wheelhouse is None:
        return Source(None, constraints)
    if not any([*wheelhouse.glob("*.whl"), *wheelhouse.glob("*.tar.gz")]):
        raise UsageError(f"--wheelhouse {wheelhouse} holds no .whl or .tar.gz", remedy="Fill it with `make wheelhouse`.")
    own = wheelhouse / "constraints.txt"
    return Source(wheelhouse, own if own.is_file() else constraints)


@dataclass(frozen=True)
class Installer:
    """pip or uv, set on one environment: `command` starts it, `place` tells uv where."""

    tool: Literal["pip", "uv"]
    command: tuple[str, ...]
    place: tuple[str, ...] = ()

    def install(self, requirements: Sequence[str], source: Source, *, again: bool = False) -> list[str]:
        """Return the argument list that installs; `again` replaces exactly what is named, without what it needs."""
        asked = {"pip": ["--no-input", "--disable-pip-version-check"], "uv": []}[self.tool]
        anew = {"pip": ["--force-reinstall", "--no-deps"], "uv": ["--reinstall", "--no-deps"]}[self.tool] if again else []
        return [*self.command, "install", *self.place, *asked, *anew, *source.options(), *requirements]

    def freeze(self) -> list[str]:
        """Return the argument list that prints the exact set of packages."""
        everything = ["--all", "--disable-pip-version-check"] if self.tool == "pip" else []
        return [*self.command, "freeze", *self.place, *everything]


def installer_for(found: Survey, wanted: Tool) -> Installer:
    """Choose uv when it is there, else the environment's own pip, else this one's; ToolMissing when there is none."""
    uv = shutil.which("uv")
    if wanted == "uv" and uv is None:
        raise ToolMissing("uv is not on PATH", remedy="Install uv, or leave --installer out.")
    if uv and wanted != "pip":
        return Installer("uv", (uv, "pip"), ("--python", found.python))
    return pip_for(found)


def pip_for(found: Survey) -> Installer:
    """Return the pip that works on an environment: its own if it is whole, else this interpreter's; ToolMissing without."""
    if any(one.key == "pip" and one.has_record and not one.broken_count for one in found.distributions):
        return Installer("pip", (found.python, "-m", "pip"))
    if importlib.util.find_spec("pip") is not None:
        return Installer("pip", (sys.executable, "-m", "pip", "--python", found.python))
    raise ToolMissing(
        f"pip is neither in {found.prefix} nor in {sys.prefix}",
        remedy=f"Bring it: {found.python} -m ensurepip --upgrade; or install uv.",
    )


def freeze(installer: Installer, scratch: Path) -> str:
    """Return what `pip freeze --all` or `uv pip freeze` prints."""
    printed = scratch / "freeze.txt"
    _ask(installer.freeze(), scratch / "freeze.log", _PIP_TIMEOUT_S, stdout=printed)
    return printed.read_text(encoding="utf-8")


def _ask(argv: Sequence[str], log: Path, timeout_s: float, stdout: Path | None = None) -> None:
    """Run a program whose log goes with its scratch folder: an error tells the log's end and names no file."""
    try:
        run(argv, log=log, timeout_s=timeout_s, cwd=log.parent, stdout=stdout)
    except (ProcessFailed, OSError) as error:
        said = error.problem if isinstance(error, ProcessFailed) else f"{argv[0]} cannot be run: {error.strerror}"
        raise RepairFailed(
            said, remedy=f"Is {argv[0]} a Python interpreter, and whole? Else make it anew: make setup"
        ) from error


def archive_sha256(found: Distribution) -> str | None:
    """Return the hash of the archive a distribution was installed from, where pip wrote it down; None otherwise."""
    info = found.origin.get("archive_info", {})
    named = info.get("hashes", {}).get("sha256") or info.get("hash", "").removeprefix("sha256=")
    return str(named) or None
