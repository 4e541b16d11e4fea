"""What converting and quantising cost beside llama.cpp's programs called by hand, in time and memory, and an export's own room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from core import catalogue
from core.config import ExportConfig
from core.contract import Stage
from core.events import ignore
from core.export.convert import convert, quantise
from core.export.inspect import read_gguf
from core.toolchain import Toolchain
from core.train import student
from tests.benchmarks.meter import ROOT, reached
from tests.benchmarks.test_memory_need import BUILD, SMOLLM
from tests.core.export.conftest import publish_adapter

pytestmark = [pytest.mark.full, pytest.mark.model, pytest.mark.timeout(1800)]
Record = Callable[[str, object], None]

PAIRS = 3
TYPES = ("Q8_0", "Q4_K_M", "Q4_0")
MADE_TO_BY_HAND = 1.05
SCRATCH_TO_BF16 = 3.0
MEMORY_TO_FILE = 0.5
DEEP = SMOLLM.model_copy(update={"num_hidden_layers": 180})
_EVERY_S = 0.05
_BF16_BYTES = 2


@pytest.fixture(scope="module")
def smollm_folder(toolchain: Toolchain) -> Path:  # built before anything is timed
    return student.folder(catalogue.model("smollm2-135m-instruct"))


def ours(folder: Path, made: Path, toolchain: Toolchain, *, anew: bool = False) -> None:
    """Convert and quantise as the export stage does; broken on purpose it converts anew for every type."""
    f32 = made / "model-F32.gguf"
    for number, kind in enumerate(TYPES):
        if anew or not number:
            convert(folder, f32, "pupil", toolchain, ignore, timeout_s=600)
        quantise(f32, made / f"{kind}.gguf", kind, toolchain, ignore, timeout_s=600)


def by_hand(folder: Path, made: Path, toolchain: Toolchain) -> None:
    """Call the same programs with the same arguments."""
    script, f32 = str(toolchain.source / "convert_hf_to_gguf.py"), str(made / "model-F32.gguf")
    calls = [[sys.executable, script, str(folder), "--outfile", f32, "--outtype", "f32", "--model-name", "pupil"]]
    program, threads = str(toolchain.program("llama-quantize")), str(os.cpu_count() or 1)
    calls += [[program, f32, str(made / f"{kind}.gguf"), kind, threads] for kind in TYPES]
    for argv in calls:
        subprocess.run(argv, check=True, capture_output=True)


def seconds(make: Callable[[Path], None], folder: Path) -> float:
    folder.mkdir(parents=True)
    began = time.perf_counter()
    make(folder)
    return time.perf_counter() - began


def ratios(smollm: Path, toolchain: Toolchain, folder: Path, *, anew: bool = False, pairs: int = PAIRS) -> list[float]:
    """Return how many times as long as by hand our way takes; who goes first changes from pair to pair."""
    found = []
    for number in range(pairs):
        ways = {
            "ours": lambda made: ours(smollm, made, toolchain, anew=anew),
            "by_hand": lambda made: by_hand(smollm, made, toolchain),
        }
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        took = {name: seconds(ways[name], folder / f"{number}-{name}") for name in order}
        found.append(took["ours"] / took["by_hand"])
    return found


def test_convert_and_quantise_cost_what_the_programs_cost(
    smollm_folder: Path, toolchain: Toolchain, tmp_path: Path, record_property: Record
) -> None:
    by_hand(smollm_folder, _made(tmp_path / "warm"), toolchain)  # what is read first is read from the disk
    figure = median(ratios(smollm_folder, toolchain, tmp_path / "ours"))
    record_property(
        f"convert + quantise {', '.join(TYPES)} beside the programs by hand, limit {MADE_TO_BY_HAND}", round(figure, 3)
    )
    broken = median(ratios(smollm_folder, toolchain, tmp_path / "broken", anew=True, pairs=1))
    record_property("broken on purpose: converted anew for every type", round(broken, 3))
    assert reached("ratio", figure, MADE_TO_BY_HAND)
    assert not reached("ratio", broken, MADE_TO_BY_HAND)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Room:
    """The most room a folder's files take while a block runs, but for those in folders named `content`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._over = folder, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self.most = 0

    def __enter__(self) -> Room:
        self._watch.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.most = max(self.most, taken(self._folder))


def taken(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and "content" not in path.parts else 0
        except FileNotFoundError:  # it went while we looked
            continue
    return total


def test_an_export_takes_little_room_for_itself(smollm_folder: Path, tmp_path: Path, record_property: Record) -> None:
    trained = publish_adapter(tmp_path, smollm_folder, steps=0)
    with Room(trained.workspace.root / "staging") as room:
        exported = trained.export(ExportConfig(quantisations=TYPES, max_loss_increase=5.0, imatrix=True))
    folder, files = trained.workspace.folder(Stage.EXPORT, exported.artifact_id), exported.quantisations
    bf16 = _BF16_BYTES * read_gguf(folder / files[0].path).parameters
    record_property(
        f"room an export of SmolLM2 takes beside its result, of its bf16 size, limit {SCRATCH_TO_BF16}",
        round(room.most / bf16, 3),
    )
    assert reached("room", room.most / bf16, SCRATCH_TO_BF16)
    kept = room.most + sum(file.bytes for file in files)
    record_property("broken on purpose: every file is made beside the others in scratch", round(kept / bf16, 3))
    assert not reached("room", kept / bf16, SCRATCH_TO_BF16)


# pages of a mapped file are not counted: the kernel takes them back when memory is short
UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from core.events import ignore
from core.export import convert as conversion
from core.toolchain import ensure

limit, folder, made, is_lazy = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "lazy"
toolchain = ensure(ignore)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
if not is_lazy:
    make = conversion.make
    conversion.make = lambda argv, *rest: make([*argv, "--no-lazy"], *rest)
conversion.convert(folder, made / "model-F32.gguf", "pupil", toolchain, ignore, timeout_s=600)
conversion.quantise(made / "model-F32.gguf", made / "Q4_K_M.gguf", "Q4_K_M", toolchain, ignore, timeout_s=600)
"""


def under_a_limit(limit: int, folder: Path, made: Path, how: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", UNDER_A_LIMIT, str(limit), str(folder), str(_made(made)), how]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_model_larger_than_the_memory_is_converted_and_quantised(
    smollm_folder: Path, tmp_path: Path, record_property: Record
) -> None:
    folder = tmp_path / "deep"
    argv = [sys.executable, "-c", BUILD, str(smollm_folder), str(folder), json.dumps(DEEP.model_dump())]
    subprocess.run(argv, check=True, capture_output=True)
    limit = int(MEMORY_TO_FILE * 4 * DEEP.parameters())
    done = under_a_limit(limit, folder, tmp_path / "made", "lazy")
    assert done.returncode == 0, done.stderr[-3000:]
    size = (tmp_path / "made" / "model-F32.gguf").stat().st_size
    record_property(
        f"memory that is enough to convert and quantise a model of {size / 1e9:.2f} GB in F32, of its size",
        round(limit / size, 3),
    )
    broken = under_a_limit(limit, folder, tmp_path / "broken", "whole")
    said = (tmp_path / "broken" / "model-F32.log").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    record_property("broken on purpose: converted with all tensors in memory, under the same limit", said[:120])
    assert broken.returncode != 0
    assert "MemoryError" in said or "allocate" in said
