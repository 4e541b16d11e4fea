"""llama.cpp at the one commit the runtime uses: find it in the cache, build it once, point llama-cpp-python at it.

How it is built is in toolchain_build.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core import package_index, toolchain_build
from core.config import cache_folder
from core.contract import Contract
from core.errors import ToolchainFailed
from core.events import OnEvent, ignore
from core.toolchain_build import COMMIT, NO_COMPILER, VERSION, Recipe


class Toolchain(Contract):
    """The built libraries (`bin`), programs (`bin`) and converter (`source`).

    `version` is llama-cpp-python's, `commit` llama.cpp's; `system_info` is what the library says about the CPU features
    it was built with; `key` is the hash the cache folder is named by.
    """

    version: str
    commit: str
    key: str
    compiler: str
    system_info: str
    folder: Path
    bin: Path
    source: Path

    def program(self, name: str) -> Path:
        """Return the path of a built program such as `llama-bench`; ToolchainFailed when it is gone."""
        path = self.bin / name
        if not path.is_file():
            raise ToolchainFailed(f"{path} is missing", remedy=f"Remove {self.folder} and run `edgekiln toolchain build`.")
        return path

    def library(self, name: str) -> Path:
        """Return the path of a built library such as `llama-common`; ToolchainFailed when it is gone."""
        return self.program(f"lib{name}.{'dylib' if sys.platform == 'darwin' else 'so'}")

    def identity(self) -> str:
        """Return what shapes the bytes the tools make: version and commit; not the machine they were built on."""
        return f"{self.version} ({self.commit})"


def find() -> Toolchain | None:
    """Return the toolchain built for this machine, or None; builds nothing."""
    return _finished(toolchain_build.recipe())


def ensure(on_event: OnEvent = ignore) -> Toolchain:
    """Return the toolchain, building it first where it is missing (minutes; two processes never build twice).

    ToolMissing names the packages of a missing compiler; ToolchainFailed, DownloadCorrupt, DiskFull.
    """
    recipe = toolchain_build.recipe()
    if found := _finished(recipe):
        return found
    toolchain_build.require_programs()
    folder = _folder(recipe)
    with package_index.hold(folder):
        if _read(recipe) is None:
            toolchain_build.build(recipe, folder, on_event)
    built = _read(recipe)
    if built is None:
        raise ToolchainFailed(f"{folder} was built but cannot be read", remedy=f"Remove {folder} and run again.")
    return built


def use_libraries(toolchain: Toolchain) -> None:
    """Make llama_cpp load these libraries; call it before importing llama_cpp."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(toolchain.bin)


def _folder(recipe: Recipe) -> Path:
    return cache_folder() / "toolchain" / recipe.key()


def _finished(recipe: Recipe) -> Toolchain | None:
    """Return the toolchain of a recipe; where no compiler is on PATH now, the newest that some compiler made of it."""
    if (found := _read(recipe)) or recipe.compiler != NO_COMPILER:
        return found
    marks = [(mark.stat().st_mtime, mark.parent) for mark in (cache_folder() / "toolchain").glob("*/toolchain.json")]
    for _, folder in sorted(marks, reverse=True):
        about = toolchain_build.read_about(folder)
        if about and about.recipe.model_copy(update={"compiler": NO_COMPILER}) == recipe:
            return _read(about.recipe)
    return None


def _read(recipe: Recipe) -> Toolchain | None:
    folder = _folder(recipe)
    about = toolchain_build.read_about(folder)
    if about is None:
        return None
    return Toolchain(
        version=VERSION,
        commit=COMMIT,
        key=recipe.key(),
        compiler=recipe.compiler,
        system_info=about.system_info,
        folder=folder,
        bin=folder / "bin",
        source=folder / "source",
    )
