"""Builds llama.cpp from the source archive of the pinned llama-cpp-python: fetch, unpack, configure, compile, publish."""

from __future__ import annotations

import contextlib
import platform
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from core import package_index
from core.config import cache_folder, cmake_arguments
from core.contract import Contract
from core.env.host import affinity
from core.errors import DiskFull, DownloadCorrupt, ProcessFailed, ToolchainFailed, ToolMissing
from core.events import Note, OnEvent, Progress
from core.files import digest_of, sync_folder, write_atomic
from core.process import capture, run

VERSION = "0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
COMMIT = "0c1e57098"  # the archive's CHANGELOG.md names it; the archive itself holds no git history

TARGETS = ("llama", "llama-bench", "llama-quantize", "llama-imatrix", "llama-perplexity", "llama-server")
_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",  # the finished folder is renamed into place
    "-DBUILD_SHARED_LIBS=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    f"-DLLAMA_BUILD_COMMIT={COMMIT}",
    "-DLLAMA_BUILD_NUMBER=0",  # upstream counts commits; an archive cannot
    "-DGIT_EXE=",  # else ggml takes the commit of whatever repository encloses the cache
)
NO_COMPILER = "none"
_PROGRAMS = {"cmake": "cmake", "make": "make", "cc": "gcc", "c++": "g++"}  # program -> Debian package
_KEPT = ("LICENSE", "convert_*.py", "conversion", "gguf-py", "models", "grammars", "tools/*/README.md")
_NEEDED_BYTES = 1200 << 20  # measured: archive unpacked, object files and results together take about 0.7 GB
_CONFIGURE_TIMEOUT_S = 600.0
_COMPILE_TIMEOUT_S = 4 * 3600.0  # a board with four slow cores needs about one hour
_PERCENT = re.compile(rb"^\[ *(\d+)%\]", re.MULTILINE)
_ASK_LIBRARY = (
    "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]);"
    "library.llama_print_system_info.restype = ctypes.c_char_p;"
    "print(library.llama_print_system_info().decode())"
)


class Recipe(Contract):
    """Everything that decides what a build yields."""

    version: str = VERSION
    sdist_sha256: str = SDIST_SHA256
    flags: tuple[str, ...]
    targets: tuple[str, ...] = TARGETS
    arch: str
    cpu: tuple[str, ...]
    compiler: str

    def key(self) -> str:
        """Return the first 16 hex digits of the hash over all of it."""
        return digest_of(self.model_dump(mode="json"))[:16]


class About(Contract):
    """What is written into a finished folder, last."""

    recipe: Recipe
    system_info: str


def recipe() -> Recipe:
    """Return the recipe for this machine; the user's CMAKE_ARGS come last and win."""
    flags = (*_FLAGS, *shlex.split(cmake_arguments()))
    return Recipe(flags=flags, arch=platform.machine(), cpu=_cpu(), compiler=_compiler())


def require_programs() -> None:
    """Raise ToolMissing with the Debian packages to install when the compiler set is not complete."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        packages = " ".join(_PROGRAMS[program] for program in missing)
        raise ToolMissing(
            f"building llama.cpp needs {', '.join(missing)}, not found in PATH",
            remedy=f"sudo apt-get install {packages} (Debian, Ubuntu, Raspberry Pi OS), then run again.",
        )


def read_about(folder: Path) -> About | None:
    """Return what a finished folder says about itself, None when there is none or it cannot be read."""
    try:
        return About.model_validate_json((folder / "toolchain.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def build(made: Recipe, folder: Path, on_event: OnEvent) -> None:
    """Build into a scratch folder beside `folder` and rename it into place; call it under `package_index.hold`."""
    _require_space(folder.parent)
    on_event(Note(stage=None, text=f"building llama.cpp {COMMIT} once for this machine into {folder}"))
    archive = fetch_archive(on_event)
    with package_index.scratch_beside(folder) as scratch:
        unpack(archive, scratch / "tree")
        _compile(made, scratch, on_event)
        finished = _collect(scratch)
        about = About(recipe=made, system_info=_system_info(finished / "bin"))
        write_atomic(finished / "toolchain.json", about.model_dump_json(indent=1).encode())
        shutil.rmtree(folder, ignore_errors=True)
        finished.rename(folder)
        sync_folder(folder.parent)


def fetch_archive(on_event: OnEvent) -> Path:
    """Return the source archive, verified; DownloadCorrupt, or ToolMissing when pip cannot bring it."""
    return package_index.fetch(
        f"llama-cpp-python=={VERSION}", SDIST_SHA256, on_event, options=("--no-binary", "llama-cpp-python")
    )


def unpack(archive: Path, target: Path) -> None:
    """Unpack llama.cpp out of the archive; no member can land outside `target`."""
    top = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
    target.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.startswith(top) and member.name != top + ".git":
                    tar.extract(member.replace(name=member.name.removeprefix(top)), target, filter="data")
    except tarfile.TarError as error:
        raise DownloadCorrupt(f"{archive}: {error}", remedy=f"Remove {archive} and run again.") from error


def _compile(made: Recipe, scratch: Path, on_event: OnEvent) -> None:
    tree, objects = str(scratch / "tree"), str(scratch / "build")
    log = cache_folder() / "logs" / "toolchain.log"
    log.unlink(missing_ok=True)
    compilers = (f"-DCMAKE_C_COMPILER={shutil.which('cc')}", f"-DCMAKE_CXX_COMPILER={shutil.which('c++')}")
    configure = ["cmake", "-S", tree, "-B", objects, "-G", "Unix Makefiles", *compilers, *made.flags]
    compile_ = ["cmake", "--build", objects, "--parallel", str(affinity()), "--target"]
    try:
        tick = package_index.heartbeat("configuring llama.cpp", on_event)
        run(configure, log=log, timeout_s=_CONFIGURE_TIMEOUT_S, on_tick=tick)
        for number, target in enumerate(made.targets, 1):  # makefiles count to 100 % for each
            tick = percent_tick(log, f"building {target} ({number} of {len(made.targets)})", on_event)
            run([*compile_, target], log=log, timeout_s=_COMPILE_TIMEOUT_S, on_tick=tick)
    except ProcessFailed as error:
        raise ToolchainFailed(f"llama.cpp could not be built: {error.problem}", remedy=error.remedy) from error


def percent_tick(log: Path, task: str, on_event: OnEvent) -> Callable[[], None]:
    """Return a tick that tells the percentage CMake's makefiles write into a log from now on, when it has grown."""
    offset, told = log.stat().st_size, -1

    def tick() -> None:
        nonlocal offset, told
        with log.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        offset += len(whole)
        percent = max((int(found) for found in _PERCENT.findall(whole)), default=told)
        if percent > told:
            told = percent
            on_event(Progress(stage=None, task=task, done=float(percent), total=100.0, unit="%"))

    return tick


def _collect(scratch: Path) -> Path:
    finished = scratch / "finished"
    (scratch / "build" / "bin").rename(_made(finished / "bin"))
    tree = scratch / "tree"
    for pattern in _KEPT:
        for path in tree.glob(pattern):
            path.rename(_made(finished / "source" / path.relative_to(tree)))
    return finished


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _system_info(folder: Path) -> str:
    library = next((path for path in sorted(folder.glob("libllama.*")) if path.suffix in {".so", ".dylib"}), None)
    if library is None:
        raise ToolchainFailed(
            f"the build left no libllama in {folder}", remedy="Look at CMAKE_ARGS; shared libraries are needed."
        )
    return capture([sys.executable, "-c", _ASK_LIBRARY, str(library)], timeout_s=60).strip()


def _require_space(folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < _NEEDED_BYTES:
        raise DiskFull(
            f"free space {free >> 20} MiB < {_NEEDED_BYTES >> 20} MiB in {folder}",
            remedy="Free some space there, or name another cache folder with EDGEKILN_CACHE.",
        )


def _compiler() -> str:
    if shutil.which("c++") is None:
        return NO_COMPILER
    with contextlib.suppress(ProcessFailed):
        return capture(["c++", "--version"], timeout_s=30).partition("\n")[0]
    return "unknown"


def _cpu() -> tuple[str, ...]:
    """Return the model and features that -march=native depends on; Linux tells them in /proc/cpuinfo."""
    source = Path("/proc/cpuinfo")
    if not source.exists():
        return (platform.processor(),)
    first = source.read_text(errors="replace").split("\n\n")[0]
    facts = dict(re.findall(r"^([^\t:]+?)\s*: *(.*)$", first, re.MULTILINE))
    named = tuple(facts[key] for key in ("model name", "CPU implementer", "CPU part") if key in facts)
    return (*named, *sorted(set((facts.get("flags") or facts.get("Features") or "").split())))
