"""Folders sent to a real S3 server and fetched again: whole, verified, resumed, the newest that is not broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import (
    ArtifactError,
    ArtifactMissing,
    DiskFull,
    EdgekilnError,
    FileTampered,
    ManifestBroken,
    RemoteDiffers,
    UsageError,
)
from core.events import Event, Note, Progress
from core.files import sha256_of
from core.remote.pull import folders, pull, pull_newest
from core.remote.push import Stopped, push
from core.remote.store import Store
from core.train import sealed
from tests.core.remote.conftest import Place
from tests.core.remote.proxy import Proxy

Make = Callable[..., Path]
ROOM = 1 << 30
NAME = "checkpoints/run/step-00000010"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was_and_the_manifest_is_sent_last(place: Place, folder: Make, tmp_path: Path) -> None:
    here = folder()
    pushed = push(place.store(), here, NAME)
    assert (pushed.files_sent, pushed.files_there) == (4, 0)
    puts = [path for method, path, _ in place.manners.asked if method == "PUT" and ".probe" not in path]
    assert puts[-1].endswith("manifest.json")
    there = pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM)
    assert tree(there) == tree(here)
    sealed.check(there)
    assert not list(tmp_path.glob(".*pull"))


def test_what_is_there_with_the_same_hash_is_not_sent_again(place: Place, folder: Make) -> None:
    here = folder()
    store = place.store()
    push(store, here, NAME)
    again = push(store, here, NAME)
    assert (again.files_sent, again.files_there, again.bytes_sent) == (0, 4, 0)
    place.client.delete_object(Bucket=place.bucket, Key=f"kiln/{NAME}/manifest.json")
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}/state/rng.bin", Body=b"x" * 300)
    mended = push(store, here, NAME)
    assert (mended.files_sent, mended.files_there) == (2, 2)


def test_a_large_file_goes_in_parts(place: Place, folder: Make, tmp_path: Path) -> None:
    here = folder(big=12 << 20)
    push(place.store(), here, NAME)
    sizes = sorted(size for method, path, size in place.manners.asked if method == "PUT" and path.endswith("/big"))
    assert sizes == [2 << 20, 5 << 20, 5 << 20]
    assert tree(pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM)) == tree(here)


def test_a_part_that_arrives_with_a_changed_bit_is_sent_again(place: Place, folder: Make, tmp_path: Path) -> None:
    here, store = folder(big=6 << 20, small=90_000), place.store()
    store.traits()
    place.manners.garble = 2
    push(store, here, NAME)
    assert place.manners.garble == 0
    assert tree(pull(store, NAME, tmp_path / "there", max_bytes=ROOM)) == tree(here)


@pytest.mark.parametrize("sums", ["ignored", "refused"])
def test_a_store_without_checksums_gets_signed_bodies_and_our_own_hash(
    place: Place, folder: Make, tmp_path: Path, sums: str
) -> None:
    place.manners.sums = sums
    here, store = folder(big=6 << 20, small=90_000), place.store()
    assert not store.traits().checks_sha256
    place.manners.garble = 1
    push(store, here, NAME)
    assert tree(pull(store, NAME, tmp_path / "there", max_bytes=ROOM)) == tree(here)


def test_a_file_that_is_not_what_its_manifest_says_is_not_sent(place: Place, folder: Make) -> None:
    here = folder()
    (here / "empty").write_bytes(b"1")
    with pytest.raises(FileTampered, match="1 bytes, its manifest says 0"):
        push(place.store(), here, NAME)
    (here / "empty").write_bytes(b"")
    (here / "model.safetensors").write_bytes(b"x" * 70_000)
    with pytest.raises(FileTampered, match="sha256"):
        push(place.store(), here, NAME)
    (here / "model.safetensors").unlink()
    with pytest.raises(FileTampered, match="is missing"):
        push(place.store(), here, NAME)
    (here / "manifest.json").unlink()
    with pytest.raises(ArtifactMissing, match="never finished"):
        push(place.store(), here, NAME)
    assert not [key for key in place.names() if key.endswith(("manifest.json", "model.safetensors"))]


def test_a_file_in_parts_that_is_not_what_its_manifest_says_never_becomes_an_object(place: Place, folder: Make) -> None:
    here = folder(big=12 << 20)
    (here / "big").write_bytes(b"x" * (12 << 20))
    with pytest.raises(FileTampered, match="sha256"):
        push(place.store(), here, NAME)
    assert not [key for key in place.names() if NAME in key]
    assert not place.client.list_multipart_uploads(Bucket=place.bucket).get("Uploads")


def test_parts_are_put_together_only_after_the_files_hash_is_known(
    place: Place, folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, store = folder(big=12 << 20), place.store()
    arrived: list[int] = []
    objects: list[str] = []

    def slowly(path: Path) -> str:
        until = time.monotonic() + 10
        while place.manners.sent("PUT", "/big") < 3 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)  # for the request that puts them together, if it came now
        arrived.append(place.manners.sent("PUT", "/big"))
        objects.extend(key for key in place.names() if key.endswith("/big"))
        return sha256_of(path)

    monkeypatch.setattr("core.remote.push.sha256_of", slowly)
    push(store, here, NAME)
    assert (arrived[0], objects) == (3, [])
    assert [key for key in place.names() if key.endswith("/big")]


def test_a_name_is_written_once(place: Place, folder: Make) -> None:
    push(place.store(), folder(), NAME)
    with pytest.raises(RemoteDiffers, match="another folder"):
        push(place.store(), folder("other", seed=2), NAME)


def test_two_machines_may_push_the_same_folder_at_once(place: Place, folder: Make, tmp_path: Path) -> None:
    here = folder(a=200_000, b=12 << 20, c=200_000)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with Store(place.config()) as store:
                push(store, here, NAME)
        except EdgekilnError as error:
            errors.append(error)

    both = [threading.Thread(target=work) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert not errors
    assert tree(pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM)) == tree(here)


def test_progress_is_told_and_ends_at_the_whole(place: Place, folder: Make, tmp_path: Path) -> None:
    told: list[Event] = []
    push(place.store(), folder(big=12 << 20), NAME, on_event=told.append)
    steps = [event for event in told if isinstance(event, Progress)]
    assert steps[-1].done == steps[-1].total == 12
    pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM, on_event=told.append)
    assert isinstance(told[-1], Progress)
    assert told[-1].done == told[-1].total == 12


def test_a_push_that_is_told_to_stop_stops_and_leaves_no_manifest(place: Place, folder: Make) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        push(place.store(), folder(), NAME, stop=stop)
    assert not [key for key in place.names() if key.endswith("manifest.json")]


@pytest.mark.parametrize(
    ("spoiled", "how"),
    [
        ("model.safetensors", "bit"),
        ("model.safetensors", "short"),
        ("state/rng.bin", "gone"),
        ("manifest.json", "bit"),
        ("manifest.json", "gone"),
    ],
)
def test_the_newest_that_is_whole_is_taken_and_the_broken_one_is_told(
    place: Place, folder: Make, tmp_path: Path, spoiled: str, how: str
) -> None:
    store = place.store()
    older, newer = folder("step-00000010"), folder("step-00000020", seed=2)
    push(store, older, "runs/r/step-00000010")
    push(store, newer, "runs/r/step-00000020")
    key = f"kiln/runs/r/step-00000020/{spoiled}"
    data = place.client.get_object(Bucket=place.bucket, Key=key)
    body, told_as = data["Body"].read(), data["Metadata"]
    changed = {"bit": bytes([body[0] ^ 1]) + body[1:], "short": body[:-1]}.get(how)
    if changed is None:
        place.client.delete_object(Bucket=place.bucket, Key=key)
    else:
        place.client.put_object(Bucket=place.bucket, Key=key, Body=changed, Metadata=told_as)
    told: list[Event] = []
    found = pull_newest(store, "runs/r", tmp_path / "got", max_bytes=ROOM, on_event=told.append)
    assert [path.name for path in (tmp_path / "got").iterdir()] == [found.name] == ["step-00000010"]
    assert tree(found) == tree(older)
    warned = [event.text for event in told if isinstance(event, Note)]
    unfinished = (spoiled, how) == ("manifest.json", "gone")
    assert len(warned) == (0 if unfinished else 1)
    assert all("step-00000020" in text for text in warned)


def test_no_whole_folder_is_an_error_that_counts_the_broken_ones(place: Place, folder: Make, tmp_path: Path) -> None:
    store = place.store()
    with pytest.raises(ArtifactMissing, match="0 broken"):
        pull_newest(store, "runs/r", tmp_path / "got", max_bytes=ROOM)
    push(store, folder(), "runs/r/step-00000010")
    place.client.delete_object(Bucket=place.bucket, Key="kiln/runs/r/step-00000010/empty")
    with pytest.raises(ArtifactMissing, match="1 broken"):
        pull_newest(store, "runs/r", tmp_path / "got", max_bytes=ROOM)
    assert not (tmp_path / "got" / "step-00000010").exists()


def test_only_folders_right_below_a_name_count(place: Place, folder: Make) -> None:
    store = place.store()
    push(store, folder(), "runs/r/step-00000010")
    push(store, folder("x", seed=2), "runs/r/deeper/step-00000020")
    push(store, folder("y", seed=3), "runs/r-other/step-00000030")
    assert [each.name for each in folders(store, "runs/r")] == ["runs/r/step-00000010"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ('[{"path":"../x","sha256":"%s","bytes":1}]', "no path below"),
        ('[{"path":"/etc/x","sha256":"%s","bytes":1}]', "no path below"),
        ('[{"path":"a","sha256":"%s","bytes":1},{"path":"a","sha256":"%s","bytes":1}]', "twice"),
        ('[{"path":"a","sha256":"%s","bytes":1},{"path":"a/b","sha256":"%s","bytes":1}]', "twice"),
        ('[{"path":"manifest.json","sha256":"%s","bytes":1}]', "itself"),
        ('[{"path":"a","sha256":"%s","bytes":99999999999}]', "the most that is fetched"),
        ('[{"path":"a","sha256":"zz","bytes":1}]', "pattern"),
        ("7", "files"),
    ],
)
def test_a_strangers_manifest_cannot_write_outside_or_without_end(
    place: Place, tmp_path: Path, files: str, why: str
) -> None:
    body = ('{"about":{},"files":' + files.replace("%s", "0" * 64) + "}").encode()
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}/manifest.json", Body=body)
    with pytest.raises(ArtifactError, match=why):
        pull(place.store(), NAME, tmp_path / "in" / "there", max_bytes=ROOM)
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "in" / "there").exists()


def test_a_file_larger_than_its_manifest_says_is_not_read(place: Place, folder: Make, tmp_path: Path) -> None:
    push(place.store(), folder(), NAME)
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}/empty", Body=b"x" * 9)
    with pytest.raises(ArtifactError, match="has 9 bytes > 0"):
        pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM)


def test_a_folder_larger_than_the_disk_is_refused_before_its_first_byte(place: Place, tmp_path: Path) -> None:
    body = ('{"files":[{"path":"a","sha256":"' + "0" * 64 + '","bytes":' + str(1 << 60) + "}]}").encode()
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}/manifest.json", Body=body)
    with pytest.raises(DiskFull):
        pull(place.store(), NAME, tmp_path / "there", max_bytes=1 << 61)
    assert not place.manners.sent("GET", "/a")


def test_what_a_killed_pull_had_fetched_is_not_fetched_again(place: Place, folder: Make, tmp_path: Path) -> None:
    here = folder()
    push(place.store(), here, NAME)
    scratch = tmp_path / ".there.pull"
    scratch.mkdir()
    (scratch / "model.safetensors").write_bytes((here / "model.safetensors").read_bytes())
    (scratch / "left-from-another").write_bytes(b"x")
    (scratch / "state").symlink_to(tmp_path)
    assert tree(pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM)) == tree(here)
    assert place.manners.sent("GET", "model.safetensors") == 0


def test_a_folder_that_is_here_already_is_kept_when_whole_and_refused_when_not(
    place: Place, folder: Make, tmp_path: Path
) -> None:
    here, store = folder(), place.store()
    push(store, here, NAME)
    assert pull(store, NAME, here, max_bytes=ROOM) == here
    assert not place.manners.sent("GET", "model.safetensors")
    (here / "empty").write_bytes(b"1")
    with pytest.raises(UsageError, match="exists and is not checkpoints/run"):
        pull(store, NAME, here, max_bytes=ROOM)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError):
        pull(store, NAME, tmp_path / "other", max_bytes=ROOM)


def test_a_manifest_that_is_no_manifest_is_told(place: Place, tmp_path: Path) -> None:
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}/manifest.json", Body=b"\xff{")
    with pytest.raises(ManifestBroken):
        pull(place.store(), NAME, tmp_path / "there", max_bytes=ROOM)


def test_a_bandwidth_limit_bounds_all_files_together(place: Place, folder: Make) -> None:
    here = folder(a=1_000_000, b=1_000_000, c=500_000)
    store = place.store(max_mbs=2.5)
    store.traits()
    assert push(store, here, NAME).seconds > 0.7  # unbounded: 0.1 s


@pytest.mark.full
def test_a_slow_line_is_no_failure_while_bytes_move(place: Place, proxy: Proxy, folder: Make, tmp_path: Path) -> None:
    here, store = folder(a=6 << 20, b=100_000), place.store(proxy.port, timeout_s=3.0, attempts=1, threads=1)
    store.traits()
    proxy.faults.up_bytes_s = 1_500_000
    assert push(store, here, NAME).seconds > 2
    proxy.faults.up_bytes_s, proxy.faults.down_bytes_s = 0, 1_500_000
    assert tree(pull(store, NAME, tmp_path / "there", max_bytes=ROOM)) == tree(here)
