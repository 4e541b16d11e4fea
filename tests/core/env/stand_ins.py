"""Stand-ins for what this machine lacks, for real child processes: a libnvidia-ml.so.1 in C and a torch built for a GPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core.env.probe import Probe, Reading, run_probes

HERE = Path(__file__).parent

A4090 = """\
0.name NVIDIA GeForce RTX 4090
0.bus 00000000:01:00.0
0.total 25757220864
0.free 24127733760
0.capability 8.9
0.throttle 0x1
0.limit 450000
0.default 450000
"""

TORCH = """\
import json, os, types, warnings
from torch import version
TOLD = json.loads(os.environ["FAKE_TORCH"])
class cuda:
    is_available = staticmethod(lambda: bool(TOLD["devices"]))
    device_count = staticmethod(lambda: len(TOLD["devices"]))
    get_arch_list = staticmethod(lambda: TOLD["arch_list"])
    def get_device_properties(index):
        name, major, minor = TOLD["devices"][index]
        return types.SimpleNamespace(name=name, major=major, minor=minor, total_memory=24 << 30)
    def init():
        if TOLD.get("segfault"):
            os.abort()
        raise RuntimeError(TOLD["refusal"])
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
"""


def build_nvml(folder: Path) -> Path:
    """Compile the library and return the folder it lies in."""
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(library), str(HERE / "fake_nvml.c")],
        check=True,
    )
    return folder


def play(script: str, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have children find the library and the library this script."""
    (folder / "nvml.txt").write_text(script, encoding="utf-8")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_NVML", str(folder / "nvml.txt"))


def put_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: str, cuda: str | None, **told: Any) -> None:
    """Put a torch before the installed one for children; `told` is what its CUDA part answers."""
    package = folder / "site" / "torch"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text(TORCH, encoding="utf-8")
    text = f"__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = {told.pop('hip', None)!r}\n"
    package.joinpath("version.py").write_text("from typing import Optional\n" + text, encoding="utf-8")
    info = folder / "site" / f"torch-{version}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n", encoding="utf-8")
    monkeypatch.setenv("FAKE_TORCH", json.dumps({"devices": [], "arch_list": [], "refusal": "no", **told}))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"), prepend=":")


def ask(target: str, folder: Path, *, argument: dict[str, Any] | None = None, timeout_s: float = 20.0) -> Reading:
    """Run one probe in its process."""
    return run_probes([Probe(name="one", target=target, argument=argument or {}, timeout_s=timeout_s)], folder)["one"]
