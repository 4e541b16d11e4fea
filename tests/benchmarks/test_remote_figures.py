"""How fast a folder is pushed beside a bare boto3 upload of the same bytes, to the same server, in the same run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import boto3
import pytest

from core.remote.push import push
from core.remote.settings import RemoteConfig
from core.remote.store import Store
from core.train import sealed
from tests.benchmarks.meter import ROOT, reached

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
Record = Callable[[str, object], None]

MB = 200
PAIRS = 5
PUSH_TO_BARE = 1.25  # times as long as the bare upload, which hashes nothing and writes no manifest


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("BENCH_KEY", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("BENCH_SECRET", "s" * 40)
    argv = [sys.executable, "-m", "tests.core.remote.s3_server"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        keys = {"access_key_env": "BENCH_KEY", "secret_key_env": "BENCH_SECRET"}
        made = Store(RemoteConfig(url="s3://kiln/bench", endpoint_url=url, region="us-east-1", **keys))
        made.client.create_bucket(Bucket="kiln")
        made.traits()
        yield made
        made.close()
        server.terminate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "step-00000010"
    made.mkdir()
    (made / "optimizer.pt").write_bytes(os.urandom(MB * 1_000_000))
    sealed.seal(made, {"step": "10"})
    return made


def bare_s(store: Store, folder: Path) -> float:
    """Upload as anybody would: a client and `upload_file`, nothing set."""
    keys = {"aws_access_key_id": "AKIATESTTESTTESTTEST", "aws_secret_access_key": "s" * 40, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=store.config.endpoint_url, **keys)
    began = time.perf_counter()
    client.upload_file(str(folder / "optimizer.pt"), "kiln", "bare")
    seconds = time.perf_counter() - began
    client.close()
    return seconds


def push_s(store: Store, folder: Path, name: str) -> float:
    seconds = push(store, folder, name).seconds
    store.client.delete_object(
        Bucket="kiln", Key=store.key(f"{name}/optimizer.pt")
    )  # the server keeps objects in its memory
    return seconds


def ratio(store: Store, slower: Store, folder: Path, name: str, pairs: int) -> tuple[float, float]:
    """Return the median of push over bare, pair by pair, and the median bare upload in MB/s."""
    both = [(push_s(slower, folder, f"{name}-{number}"), bare_s(store, folder)) for number in range(pairs)]
    return median(one / other for one, other in both), MB / median(other for _, other in both)


def test_a_push_costs_little_more_than_a_bare_upload(store: Store, folder: Path, record_property: Record) -> None:
    measured, bare_mbs = ratio(store, store, folder, "good", PAIRS)
    record_property(
        f"push of {MB} MB / bare boto3 upload_file, median of {PAIRS} pairs, limit {PUSH_TO_BARE}", round(measured, 2)
    )
    record_property("the bare upload [MB/s]", round(bare_mbs))
    assert reached("push_to_bare", measured, PUSH_TO_BARE)
    slow = Store(store.config.model_copy(update={"max_mbs": bare_mbs / 2}))
    slow.traits()
    broken, _ = ratio(store, slow, folder, "broken", 1)
    slow.close()
    record_property("broken on purpose: remote.max_mbs is half of that", round(broken, 2))
    assert not reached("push_to_bare", broken, PUSH_TO_BARE)
