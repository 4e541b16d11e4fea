"""A model from the hub over real HTTP: pinned to a commit, resumed, verified, and every way it fails told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import models
from core.catalogue import HubModel, ModelCard
from core.config import cache_folder
from core.errors import (
    DiskFull,
    HubCorrupt,
    HubFailed,
    HubGated,
    HubMissing,
    HubNoRevision,
    HubRefused,
    HubSlow,
    HubUnreachable,
    PathEscapes,
    ToolMissing,
)
from core.events import Event, Note, Progress
from core.hub import revision
from core.hub.download.download import DownloadRequest
from tests.core.hub.hub_server import TOKEN, Hub, Repo, sha256

ROOT = Path(__file__).parents[3]
WEIGHTS = bytes(range(256)) * 1200
LARGE = WEIGHTS * 80
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "pytorch_model.bin": b"the same again"}


@pytest.fixture(autouse=True)
def nothing_is_known() -> None:
    revision._asked.cache_clear()


@pytest.fixture
def large(hub_here: Hub) -> Repo:
    """Weights of which the client, which writes 10 MB at a time, has written some when a connection ends at 15 MB."""
    made = hub_here.repo("ada/base")
    made.commit("main", {**FILES, "model.safetensors": LARGE})
    return made


@pytest.fixture
def repo(hub_here: Hub) -> Repo:
    made = hub_here.repo("ada/base")
    made.commit("main", FILES)
    return made


def card(**more: str) -> ModelCard:
    source = HubModel(repo="ada/base", **more)
    facts = {"parameters": None, "hidden_size": None, "memory_mib": None, "licence": "MIT", "chat_template": ""}
    return ModelCard(name="base", roles=("student",), source=source, **facts)


def test_a_branch_becomes_the_commit_it_stands_for_in_what_artifacts_keep(repo: Repo, hub_here: Hub) -> None:
    commit = repo.branches["main"]
    assert models.ref(card()).identity == f"hub:ada/base@{commit}"
    assert models.identity(card(revision=commit)) == f"hub:ada/base@{commit}"
    assert hub_here.count("GET", "/revision/") == 1
    assert hub_here.count("GET", "/resolve/") == 0


def test_the_files_come_verified_with_progress_and_are_not_asked_for_again(
    repo: Repo, hub_here: Hub, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.fetch(card(token_env="MY_TOKEN"), events.append)
    assert folder.name == repo.branches["main"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: data for name, data in FILES.items() if not name.endswith(".bin")
    }
    told = [event for event in events if isinstance(event, Progress)]
    assert told[-1].done == told[-1].total == pytest.approx((len(WEIGHTS) + len(FILES["config.json"])) / 2**20)
    assert {each["authorization"] for each in hub_here.headers} == {f"Bearer {TOKEN}"}
    written = b"".join(path.read_bytes() for path in cache_folder().rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
    asked = len(hub_here.asked)
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    assert models.fetch(card(token_env="MY_TOKEN")) == folder
    assert len(hub_here.asked) == asked


def test_who_looks_into_the_hub_s_cache_by_the_branch_finds_what_was_fetched(repo: Repo, tmp_path: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    folder = models.fetch(card())
    found = try_to_load_from_cache("ada/base", "config.json", cache_dir=tmp_path / "hub" / "hub", revision="main")
    assert found == str(folder / "config.json")
    with pytest.raises(PathEscapes, match=r"\.\./\.\./x"):
        models.identity(card(revision="../../x"))


def test_a_branch_that_moved_is_told_and_its_new_commit_taken(repo: Repo, events: list[Event]) -> None:
    old = models.fetch(card())
    repo.commit("main", {**FILES, "model.safetensors": WEIGHTS[::-1]})
    revision._asked.cache_clear()
    new = models.fetch(card(), events.append)
    assert (old.name == new.name, new.name) == (False, repo.branches["main"])
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert f"has moved from {old.name[:12]} to {new.name[:12]}" in note
    assert "revision: " + new.name in note


def test_without_a_network_what_was_fetched_before_is_taken_and_told(
    repo: Repo, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.fetch(card())
    revision._asked.cache_clear()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert models.fetch(card(), events.append) == folder
    assert ["out of reach" in event.text for event in events if isinstance(event, Note)] == [True]
    with pytest.raises(HubUnreachable, match=r"no connection to the hub opens.*ada/base@other"):
        models.fetch(card(revision="other"))


def test_what_the_hub_s_own_client_fetched_serves_a_machine_without_a_network(
    repo: Repo, events: list[Event], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import snapshot_download

    commit = repo.branches["main"]
    snapshot_download("ada/base", cache_dir=tmp_path / "hub" / "hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert models.fetch(card(), events.append).name == commit
    assert any("not verified again" in event.text for event in events if isinstance(event, Note))


def test_a_part_that_a_kill_left_is_gone_on_with(repo: Repo, hub_here: Hub, tmp_path: Path) -> None:
    part = tmp_path / "hub" / "hub" / "models--ada--base" / "partial" / sha256(WEIGHTS)
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS[:100_000])
    folder = models.fetch(card())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "bytes=100000-" in [each.get("range") for each in hub_here.headers]
    assert not part.exists()


def test_a_connection_cut_in_the_middle_is_taken_up_where_it_broke(
    repo: Repo, hub_here: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # else 10 MB, as much as a cut loses
    hub_here.cut_down = [50_000]
    assert (models.fetch(card()) / "model.safetensors").read_bytes() == WEIGHTS
    assert [each["range"] for each in hub_here.headers if "range" in each] == ["bytes=50000-"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_other_bytes_than_its_hash_is_refused_and_not_kept(repo: Repo, hub_here: Hub, name: str) -> None:
    hub_here.garbled = {name}
    with pytest.raises(HubCorrupt, match=f"{name} of hf://ada/base@.* came with other bytes"):
        models.fetch(card())
    hub_here.garbled = set()
    assert (models.fetch(card()) / name).read_bytes() == FILES[name]


def test_a_cached_file_whose_bytes_changed_is_fetched_again(repo: Repo, hub_here: Hub) -> None:
    path = models.fetch(card()) / "model.safetensors"
    path.resolve().write_bytes(WEIGHTS[::-1])
    next((cache_folder() / "models" / "hub").glob("*/downloaded.json")).unlink()
    assert (models.fetch(card()) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub_here.count("GET", "/resolve/") == 3


def test_what_does_not_fit_on_the_disk_is_not_begun(repo: Repo, hub_here: Hub) -> None:
    hub_here.sizes = {"model.safetensors": 10**15}
    with pytest.raises(DiskFull, match=r"hf://ada/base@\w+ needs 9536\d\d\d\d\d MiB > \d+ MiB free in .*hub") as caught:
        models.fetch(card())
    assert "HF_HOME" in caught.value.remedy
    assert hub_here.count("GET", "/resolve/") == 0


def test_a_gated_repository_an_absent_one_a_wrong_token_and_a_wrong_revision_are_told_apart(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.gated = True
    with pytest.raises(HubGated, match="is gated") as gated:
        models.fetch(card())
    assert "token_env" in gated.value.remedy
    assert models.fetch(card(token_env="MY_TOKEN")).is_dir()
    monkeypatch.setenv("WRONG", "hf_wrong_wrong_wrong")
    with pytest.raises(HubRefused, match="refuses the token of WRONG") as refused:
        models.fetch(card(token_env="WRONG"))
    assert "hf_wrong" not in str(refused.value)
    with pytest.raises(HubNoRevision, match="ada/base has no revision v9"):
        models.fetch(card(revision="v9", token_env="MY_TOKEN"))
    with pytest.raises(HubNoRevision, match=f"ada/base has no revision {'0' * 40}"):
        models.fetch(card(revision="0" * 40, token_env="MY_TOKEN"))
    with pytest.raises(ToolMissing, match="NO_SUCH is not set"):
        models.fetch(card(token_env="NO_SUCH"))
    absent = card().model_copy(update={"source": HubModel(repo="ada/none")})
    with pytest.raises(HubMissing, match="the hub has no ada/none"):
        models.fetch(absent)


@pytest.mark.parametrize(
    ("part", "said", "kind"),
    [
        ("/resolve/", (403, "GatedRepo", "Access to model is restricted"), HubGated),
        ("/revision/", (429, "", "Too many"), HubSlow),
        ("/tree/", (507, "", "Broken"), HubFailed),
    ],
)
def test_a_refusal_after_the_commit_is_known_is_told_as_well(
    repo: Repo, hub_here: Hub, part: str, said: tuple[int, str, str], kind: type[HubFailed]
) -> None:
    hub_here.says = {part: said}
    with pytest.raises(kind):
        models.fetch(card())


def test_a_silent_hub_is_left_after_a_while(repo: Repo, hub_here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "_TIMEOUT_S", 0.3)
    hub_here.stalled = {"/revision/"}
    with pytest.raises(HubSlow, match="silent for too long"):
        models.fetch(card())


def request_of(repo: Repo, folder: Path, cache: Path, timeout_s: float = 20.0) -> Path:
    asked = DownloadRequest(
        repo="ada/base",
        commit=repo.branches["main"],
        leave_out=("*.bin",),
        cache=str(cache),
        token_env=None,
        timeout_s=timeout_s,
    )
    folder.mkdir()
    (folder / "request.json").write_text(asked.model_dump_json(), encoding="utf-8")
    return folder


@pytest.mark.full
def test_a_download_killed_in_the_middle_of_a_file_goes_on_there(large: Repo, hub_here: Hub, tmp_path: Path) -> None:
    hub_here.stall_down = [15_000_000]
    folder = request_of(large, tmp_path / "asked", tmp_path / "hub" / "hub")
    part = tmp_path / "hub" / "hub" / "models--ada--base" / "partial" / sha256(LARGE)
    argv = [sys.executable, "-m", "core.hub.download.worker", str(folder)]
    with subprocess.Popen(argv, cwd=ROOT, env=os.environ) as child:
        until = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < until
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    begun = part.stat().st_size
    assert (models.fetch(card()) / "model.safetensors").read_bytes() == LARGE
    assert f"bytes={begun}-" in [each.get("range") for each in hub_here.headers]


@pytest.mark.full
def test_a_disk_that_fills_up_meanwhile_is_told_with_its_place(repo: Repo, tmp_path: Path) -> None:
    folder = request_of(repo, tmp_path / "asked", tmp_path / "hub" / "hub")
    command = f"ulimit -f 100; exec {sys.executable} -m core.hub.download.worker {folder}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == DiskFull.exit_status
    assert "no space left" in (folder / "failure.json").read_text(encoding="utf-8")


@pytest.mark.full
def test_a_hub_that_falls_silent_in_the_middle_of_a_file_is_asked_again(large: Repo, hub_here: Hub, tmp_path: Path) -> None:
    hub_here.stall_down = [15_000_000]
    folder = request_of(large, tmp_path / "asked", tmp_path / "hub" / "hub")
    env = {**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    argv = [sys.executable, "-m", "core.hub.download.worker", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # it asked again, and went on where the silence began
    assert any(each.get("range", "").startswith("bytes=") for each in hub_here.headers)


@pytest.mark.full
def test_a_hub_that_stays_silent_ends_the_download_with_what_came_kept(large: Repo, hub_here: Hub, tmp_path: Path) -> None:
    hub_here.stall_down = [15_000_000, 0, 0, 0, 0, 0, 0]
    folder = request_of(large, tmp_path / "asked", tmp_path / "hub" / "hub")
    env = {**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    argv = [sys.executable, "-m", "core.hub.download.worker", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == HubSlow.exit_status
    assert "HubSlow" in (folder / "failure.json").read_text(encoding="utf-8")
    hub_here.go_on.set()
    hub_here.stall_down = []
    assert (models.fetch(card()) / "model.safetensors").read_bytes() == LARGE
    assert any(each.get("range", "bytes=0-") != "bytes=0-" for each in hub_here.headers)
