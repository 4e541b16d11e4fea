"""kill -9 in the middle of a push: nothing counts as there that is not whole, and the next push sends only what is missing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import ArtifactMissing
from core.remote.pull import folders, pull
from core.remote.push import push
from tests.core.remote.conftest import Place
from tests.core.remote.proxy import Proxy

Make = Callable[..., Path]
ROOT = Path(__file__).parents[3]
NAME = "runs/r/step-00000010"
WHOLE_S = 4.0  # the folder below at the proxy's rate, and the start of a process


def kill_while_pushing(place: Place, proxy: Proxy, here: Path, after_s: float) -> bool:
    """Return whether the push was still running when it was killed."""
    argv = [
        sys.executable,
        "-m",
        "tests.core.remote.push_once",
        place.config(proxy.port).model_dump_json(),
        str(here),
        NAME,
    ]
    with subprocess.Popen(argv, cwd=ROOT, env=os.environ) as child:
        try:
            child.wait(after_s)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            return True
    return False


def sent_through(place: Place, proxy: Proxy, here: Path, after_s: float, tmp_path: Path) -> tuple[bool, int]:
    proxy.faults.up_bytes_s = 6_000_000
    killed = kill_while_pushing(place, proxy, here, after_s)
    proxy.faults.up_bytes_s = 0
    store = place.store()
    whole = [each.name for each in folders(store, "runs/r")]
    there = {each.name: each.bytes for each in store.listed(NAME)}
    if not whole:
        with pytest.raises(ArtifactMissing):
            pull(store, NAME, tmp_path / "early", max_bytes=1 << 30)
    again = push(store, here, NAME)
    assert again.files_there == len(there)
    got = pull(store, NAME, tmp_path / "got", max_bytes=1 << 30)
    names = [path.relative_to(here) for path in here.rglob("*") if path.is_file()]
    assert all((got / name).read_bytes() == (here / name).read_bytes() for name in names)
    assert "Uploads" not in place.client.list_multipart_uploads(Bucket=place.bucket)
    return killed, again.files_there


def test_a_push_killed_in_a_large_file_is_taken_up_by_the_next(
    place: Place, proxy: Proxy, folder: Make, tmp_path: Path
) -> None:
    here = folder(a=200_000, b=12 << 20, c=200_000)
    proxy.faults.up_bytes_s = 2_000_000
    argv = [
        sys.executable,
        "-m",
        "tests.core.remote.push_once",
        place.config(proxy.port).model_dump_json(),
        str(here),
        NAME,
    ]
    with subprocess.Popen(argv, cwd=ROOT, env=os.environ) as child:
        until = time.monotonic() + 30
        while "Uploads" not in place.client.list_multipart_uploads(Bucket=place.bucket):
            assert time.monotonic() < until
            time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
    proxy.faults.up_bytes_s = 0
    store = place.store()
    assert folders(store, "runs/r") == []
    with pytest.raises(ArtifactMissing):
        pull(store, NAME, tmp_path / "early", max_bytes=1 << 30)
    there = len(list(store.listed(NAME)))
    again = push(store, here, NAME)
    assert again.files_there == there
    assert (again.files_sent, again.bytes_sent > 12 << 20) == (4 - there, True)
    assert (pull(store, NAME, tmp_path / "got", max_bytes=1 << 30) / "b").read_bytes() == (here / "b").read_bytes()
    assert "Uploads" not in place.client.list_multipart_uploads(Bucket=place.bucket)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(12))
def test_a_push_killed_anywhere_loses_nothing(place: Place, proxy: Proxy, folder: Make, tmp_path: Path, seed: int) -> None:
    here = folder(a=200_000, b=12 << 20, c=200_000, d=3 << 20)
    sent_through(place, proxy, here, random.Random(seed).uniform(0.5, WHOLE_S), tmp_path)
