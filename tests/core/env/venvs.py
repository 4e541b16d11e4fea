"""Real virtual environments to break and mend, and tiny real wheels to mend them with. pip sees nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.env.installed import Survey, survey


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    needs: Sequence[str] = (),
    modules: int = 1,
    script: bool = False,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a wheel whose module says its version; `modules` files make it slow to install."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    members = {**(extra or {}), f"{name}/__init__.py": f'version = "{version}"\n'.encode()}
    members |= {f"{name}/part{n}.py": b"x = 1\n" for n in range(modules - 1)}
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    members[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}".encode()
    members[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if script:
        members[f"{about}/entry_points.txt"] = f"[console_scripts]\n{name}-tool = {name}:version\n".encode()
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in members.items())
    members[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make_venv(folder: Path, *, pip: bool = False) -> Path:
    """Make a virtual environment and return its interpreter; without pip it takes a tenth of a second."""
    options = [] if pip else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", *options, str(folder)], check=True, capture_output=True)
    return folder / "bin" / "python"


def put(python: Path, *requirements: str, source: Path) -> None:
    """Install exactly these from a folder, without what they need."""
    argv = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*argv, "--find-links", str(source), *requirements], check=True, capture_output=True, env=_alone())


def _alone() -> dict[str, str]:
    """Return an environment in which pip knows nothing but what it is told."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | {
        "PIP_CONFIG_FILE": os.devnull
    }


def freeze(python: Path) -> bytes:
    """Return what `pip freeze --all` prints, as bytes."""
    argv = [sys.executable, "-m", "pip", "--python", str(python), "freeze", "--all"]
    return subprocess.run(argv, check=True, capture_output=True, cwd=python.parent).stdout


def site(python: Path) -> Path:
    """Return where an environment's packages lie."""
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def said(python: Path, module: str) -> str:
    """Return the version that a module of an environment says it has."""
    argv = [str(python), "-c", f"import {module}; print({module}.version)"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def looked(python: Path, tmp_path: Path) -> Survey:
    """Survey an environment."""
    return survey(python, tmp_path / "scratch")
