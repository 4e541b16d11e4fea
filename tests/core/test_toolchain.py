"""The toolchain: found, built once, whole or not at all; the real one runs from wherever it lies."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from core import toolchain as verbs
from core import toolchain_build
from core.config import cache_folder
from core.errors import DiskFull, DownloadCorrupt, ToolchainFailed
from core.events import Event, Note, Progress
from core.toolchain import Toolchain
from tests.core import small_llama
from tests.core.small_llama import FILES, TOP, make_archive

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an archive that compiles in seconds in place of llama.cpp's."""
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    archive = make_archive(tmp_path / "small.tar.gz")
    monkeypatch.setattr(toolchain_build, "fetch_archive", lambda _: archive)
    return archive


def start(archive: Path) -> subprocess.Popen[str]:
    argv = [sys.executable, str(Path(small_llama.__file__)), str(archive)]
    return subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def leftovers() -> list[str]:
    return [path.name for path in (cache_folder() / "toolchain").iterdir() if path.is_dir()]


def test_a_toolchain_is_built_once_with_progress_and_found_again(small: Path, events: list[Event]) -> None:
    assert verbs.find() is None
    built = verbs.ensure(events.append)
    assert leftovers() == [built.key]
    assert [event.text for event in events if isinstance(event, Note)] == [
        f"building llama.cpp {toolchain_build.COMMIT} once for this machine into {built.folder}"
    ]
    tasks = [event.task for event in events if isinstance(event, Progress) and event.done == 100]
    assert tasks == [f"building {name} ({n} of 6)" for n, name in enumerate(toolchain_build.TARGETS, 1)]
    events.clear()
    assert verbs.ensure(events.append) == built == verbs.find()
    assert events == []


def test_what_is_kept_is_the_programs_the_libraries_and_the_converter(small: Path) -> None:
    built = verbs.ensure()
    kept = {path.relative_to(built.source).as_posix() for path in built.source.rglob("*") if path.is_file()}
    assert kept == set(FILES) - {"CMakeLists.txt", "llama.c", "tool.c", "docs/large.md"}
    done = subprocess.run([built.program("llama-bench")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == built.system_info


def test_the_users_cmake_arguments_pass_through_and_make_another_toolchain(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = toolchain_build.recipe().key()
    monkeypatch.setenv("CMAKE_ARGS", '-DMARK="two words" -DLLAMA_CURL=ON')
    built = verbs.ensure()
    assert built.system_info == "CPU : MARK = two words"
    assert built.key != plain
    assert built.identity() == f"{toolchain_build.VERSION} ({toolchain_build.COMMIT})"


def test_a_build_that_fails_is_an_error_and_leaves_nothing(small: Path) -> None:
    make_archive(small, {**FILES, "tool.c": "int main(void) { return undeclared; }"})
    with pytest.raises(ToolchainFailed, match="cmake ended with status") as caught:
        verbs.ensure()
    assert "toolchain.log" in caught.value.remedy
    assert verbs.find() is None
    assert leftovers() == []


def test_a_build_without_the_library_is_an_error(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DBUILD_SHARED_LIBS=OFF")
    with pytest.raises(ToolchainFailed, match="left no libllama"):
        verbs.ensure()


def test_too_little_space_is_an_error_before_anything_is_fetched(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain_build, "_NEEDED_BYTES", 1 << 60)
    with pytest.raises(DiskFull, match=r"free space \d+ MiB < "):
        verbs.ensure()


def test_two_processes_at_once_build_once(small: Path) -> None:
    both = [start(small), start(small)]
    counts = sorted(int(process.communicate(timeout=120)[0]) for process in both)
    assert counts == [0, 1]
    assert verbs.find() is not None


def test_kill_9_in_the_middle_leaves_nothing_half(small: Path) -> None:
    process = start(small)
    folder = cache_folder() / "toolchain"
    while not list(folder.glob(".*/build/CMakeCache.txt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert verbs.find() is None
    assert [name for name in leftovers() if not name.startswith(".")] == []
    assert verbs.ensure().program("llama-server").is_file()
    assert [name for name in leftovers() if not name.startswith(".")] == [verbs.ensure().key]


def test_a_damaged_toolchain_says_what_is_missing_or_is_built_again(small: Path) -> None:
    built = verbs.ensure()
    built.program("llama-imatrix").unlink()
    with pytest.raises(ToolchainFailed, match="llama-imatrix is missing"):
        built.program("llama-imatrix")
    (built.folder / "toolchain.json").write_text("{")
    assert verbs.find() is None
    assert verbs.ensure().program("llama-imatrix").is_file()


def test_a_finished_build_is_found_though_no_compiler_is_on_the_path(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = verbs.ensure()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert verbs.find() == verbs.ensure() == built
    monkeypatch.setenv("CMAKE_ARGS", "-DMARK=other")
    assert verbs.find() is None


def test_without_a_compiler_the_error_names_the_packages(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from core import toolchain; toolchain.ensure()"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "EDGEKILN_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "[env-tool-missing] building llama.cpp needs cmake, make, cc, c++, not found in PATH" in done.stderr
    assert "Fix: sudo apt-get install cmake make gcc g++" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_an_archive_member_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "evil.tar.gz", {"../../../../escaped.txt": "no"})
    with pytest.raises(DownloadCorrupt, match="outside"):
        toolchain_build.unpack(archive, tmp_path / "deep" / "er" / "tree")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_an_archive_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo(TOP + "link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DownloadCorrupt):
        toolchain_build.unpack(archive, tmp_path / "tree")


def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.tar.gz").write_bytes(b"plainly not")
    with pytest.raises(DownloadCorrupt):
        toolchain_build.unpack(tmp_path / "no.tar.gz", tmp_path / "tree")


def test_only_llama_cpp_is_unpacked_and_without_its_git_pointer(tmp_path: Path) -> None:
    archive = tmp_path / "small.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (TOP + ".git", TOP + ".gitignore", "llama_cpp_python-0.3.36/README.md"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    toolchain_build.unpack(archive, tmp_path / "tree")
    assert [path.name for path in (tmp_path / "tree").rglob("*")] == [".gitignore"]


def test_only_whole_new_lines_of_the_log_move_the_percentage(tmp_path: Path, events: list[Event]) -> None:
    log = tmp_path / "build.log"
    log.write_text("[100%] Built target before\n")
    tick = toolchain_build.percent_tick(log, "building", events.append)
    for text in ("[  7%] Building", " C object a.o\n", "[ 50%] b\n[ 42%] c\nfatal [ 99%]\n"):
        with log.open("a") as stream:
            stream.write(text)
        tick()
    assert [event.done for event in events if isinstance(event, Progress)] == [7.0, 50.0]


@pytest.mark.model
def test_the_real_programs_run_from_a_moved_folder(toolchain: Toolchain, tmp_path: Path) -> None:
    moved = shutil.copytree(toolchain.bin, tmp_path / "elsewhere", symlinks=True)
    for name in ("llama-server", "llama-perplexity"):
        done = subprocess.run([moved / name, "--version"], capture_output=True, text=True, check=True)
        assert f"commit {toolchain.commit}" in done.stdout + done.stderr
    loaded = subprocess.run(["ldd", moved / "llama-quantize"], capture_output=True, text=True, check=True).stdout
    assert str(toolchain.bin) not in loaded
    assert f"{moved}/libllama" in loaded


@pytest.mark.model
def test_the_real_build_knows_its_commit_and_cpu_features(toolchain: Toolchain) -> None:
    library = ctypes.CDLL(str(toolchain.bin / "libggml-base.so"))
    library.ggml_commit.restype = ctypes.c_char_p
    assert library.ggml_commit().decode() == toolchain.commit
    assert "CPU :" in toolchain.system_info
    for name in toolchain_build.TARGETS[1:]:
        assert os.access(toolchain.program(name), os.X_OK)
    for name in ("convert_hf_to_gguf.py", "conversion", "gguf-py/gguf", "models/templates", "LICENSE"):
        assert (toolchain.source / name).exists()


@pytest.mark.model
def test_llama_cpp_python_runs_on_these_libraries(toolchain: Toolchain) -> None:
    code = (
        "from core import toolchain; toolchain.use_libraries(toolchain.find()); import llama_cpp, pathlib;"
        "llama_cpp.llama_print_system_info(); print(pathlib.Path('/proc/self/maps').read_text())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.split()[-1] for line in done.stdout.splitlines() if "libllama" in line or "libggml" in line}
    assert loaded
    assert {Path(path).parent for path in loaded} == {toolchain.bin}
