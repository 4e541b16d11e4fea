"""Read what is installed in the environment that runs this file: standard library only, for its text is handed to any interpreter.

Nothing is judged here, and nothing but the standard library is imported; core/env/installed.py calls it and reads its answer.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

_TOLD = 5  # missing files told by name


def survey() -> dict[str, Any]:
    """Return prefix, places, markers, and every distribution with what its RECORD says against what lies on the disk."""
    paths = sysconfig.get_paths()
    sites = sorted({paths["purelib"], paths["platlib"]})
    return {
        "python": sys.executable,
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "sites": sites,
        "scripts": paths["scripts"],
        "managed_by_system": Path(paths["stdlib"], "EXTERNALLY-MANAGED").exists(),
        "markers": _markers(),
        "distributions": [_distribution(found) for found in _distributions()],
        "outside": sorted({path for found in _distributions() for path in _outside(found, sites)}),
        "leftovers": [entry for site in sites for entry in _leftovers(site)],
    }


def _distributions() -> list[metadata.Distribution]:
    here = os.path.realpath(Path.cwd())
    return list(metadata.distributions(path=[entry for entry in sys.path if entry and os.path.realpath(entry) != here]))


def _outside(found: metadata.Distribution, sites: list[str]) -> list[str]:
    """Return the files of a distribution that lie in the prefix but not among the packages: scripts, data."""
    paths = [os.path.normpath(str(found.locate_file(file))) for file in found.files or []]
    inside = (*(f"{site}{os.sep}" for site in sites),)
    return [path for path in paths if path.startswith(f"{sys.prefix}{os.sep}") and not path.startswith(inside)]


def _leftovers(site: str) -> list[str]:
    """Return what pip renames a package to while it replaces it; it stays behind when pip is killed."""
    return sorted(str(path) for path in Path(site).glob("~*"))


def _distribution(found: metadata.Distribution) -> dict[str, Any]:
    folder = str(getattr(found, "_path", ""))
    text = found.read_text("METADATA") or found.read_text("PKG-INFO")
    named = found.metadata["Name"] if text else None
    stem, _, version = Path(folder).name.rpartition(".")[0].rpartition("-")
    broken, count = _broken_files(found)
    return {
        "name": named or stem or Path(folder).name,
        "version": (found.metadata["Version"] if text else None) or version or None,
        "folder": folder,
        "has_metadata": named is not None,
        "has_record": found.read_text("RECORD") is not None or not folder.endswith(".dist-info"),
        "installer": (found.read_text("INSTALLER") or "").strip(),
        "direct_url": found.read_text("direct_url.json"),
        "requires": list(found.requires or []) if text else [],
        "broken_files": broken[:_TOLD],
        "broken_count": count,
    }


def _broken_files(found: metadata.Distribution) -> tuple[list[str], int]:
    """Return files that are not there or shorter than RECORD says; compiled files are made again by themselves."""
    broken = []
    for file in found.files or []:
        path = str(found.locate_file(file))
        if path.endswith(".pyc") or not str(getattr(found, "_path", "")).endswith(".dist-info"):
            continue
        try:
            size = Path(path).stat().st_size
        except OSError:
            broken.append(f"{file} is missing")
            continue
        if file.size is not None and size < file.size:
            broken.append(f"{file} has {size} bytes, RECORD says {file.size}")
    return broken, len(broken)


def _markers() -> dict[str, str]:
    """Return the environment that PEP 508 markers are judged in."""
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def main() -> None:
    """Write the survey as JSON to the file named by the last argument."""
    Path(sys.argv[-1]).write_text(json.dumps(survey()), encoding="utf-8")


if __name__ == "__main__":
    main()
