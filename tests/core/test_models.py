"""Model files: unpacked from a wheel by hash, asked of a hub, or taken where they lie."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import catalogue, models, package_index
from core.catalogue import EndpointModel, HubModel, LocalModel, ModelCard, PackagedGguf, Source
from core.config import cache_folder
from core.errors import BadConfig, DownloadCorrupt, ToolMissing
from core.events import Event, Progress, ignore
from core.files import sha256_of
from tests.core.wheels import make_wheel, use_only

ROOT = Path(__file__).parents[2]
GGUF = b"GGUF" + bytes(3 << 20)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = b'{"model_type": "llama"}'


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see, with one wheel that holds a model; the cache is empty."""
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    make_wheel(tmp_path / "index", "tinymodel", {"tinymodel/tiny.gguf": GGUF, "tinymodel/__init__.py": b""})
    use_only(tmp_path / "index", monkeypatch)
    return tmp_path / "index"


def card(source: Source) -> ModelCard:
    return ModelCard(
        name="tiny",
        roles=("student",),
        source=source,
        parameters=7,
        hidden_size=None,
        licence="MIT",
        chat_template="",
        memory_mib=None,
    )


def packaged(index: Path, **other: str) -> ModelCard:
    wheel = next(index.glob("*.whl"))
    facts = {
        "package": "tinymodel",
        "version": "1.0",
        "wheel_sha256": sha256_of(wheel),
        "member": "tinymodel/tiny.gguf",
        "gguf_sha256": hashlib.sha256(GGUF).hexdigest(),
    }
    return card(PackagedGguf(**{**facts, **other}))


def files_in_cache() -> list[str]:
    names = [path.relative_to(cache_folder()).as_posix() for path in cache_folder().rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith("logs/") and not name.endswith(".lock"))


def test_only_the_gguf_of_a_wheel_is_kept_and_it_is_fetched_once(index: Path, events: list[Event]) -> None:
    tiny = packaged(index)
    path = models.fetch(tiny, events.append)
    assert path.read_bytes() == GGUF
    assert files_in_cache() == [path.relative_to(cache_folder()).as_posix()]
    told = [event for event in events if isinstance(event, Progress) and event.unit == "bytes"]
    assert (told[-1].done, told[-1].total) == (len(GGUF), len(GGUF))
    assert any(event.task == "fetching tinymodel==1.0" for event in events if isinstance(event, Progress))
    next(index.glob("*.whl")).unlink()
    assert models.fetch(tiny, events.append) == path


def test_a_cached_model_that_was_cut_short_is_fetched_again(index: Path) -> None:
    path = models.fetch(packaged(index))
    path.write_bytes(GGUF[:100])
    assert models.fetch(packaged(index)).read_bytes() == GGUF


def test_what_a_killed_fetch_left_is_removed_by_the_next(index: Path) -> None:
    path = models.fetch(packaged(index))
    path.unlink()
    left = path.parent.parent / f".{path.parent.name}-killed" / "half.gguf"
    left.parent.mkdir()
    left.write_bytes(GGUF[:100])
    assert models.fetch(packaged(index)) == path
    assert not left.parent.exists()


def test_a_wheel_with_another_hash_is_refused_and_not_kept(index: Path) -> None:
    with pytest.raises(DownloadCorrupt, match="sha256 of what came"):
        models.fetch(packaged(index, wheel_sha256="0" * 64))
    assert files_in_cache() == []


def test_a_member_with_another_hash_or_no_member_is_refused(index: Path) -> None:
    with pytest.raises(DownloadCorrupt, match=r"tiny\.gguf has sha256 [0-9a-f]{12} != 000000000000"):
        models.fetch(packaged(index, gguf_sha256="0" * 64))
    with pytest.raises(DownloadCorrupt, match=r"other\.gguf cannot be read"):
        models.fetch(packaged(index, member="tinymodel/other.gguf"))
    assert not [name for name in files_in_cache() if name.startswith("models/")]


def test_a_package_that_pip_cannot_bring_is_an_error_with_the_log(index: Path) -> None:
    with pytest.raises(ToolMissing, match=r"pip could not bring tinymodel==2\.0") as caught:
        models.fetch(packaged(index, version="2.0"))
    assert "download-tinymodel.log" in caught.value.remedy


def test_a_kept_archive_is_not_fetched_again_unless_it_was_changed(index: Path) -> None:
    wheel = next(index.glob("*.whl"))
    digest = sha256_of(wheel)
    kept = package_index.fetch("tinymodel==1.0", digest, ignore)
    kept.write_bytes(b"changed")
    assert sha256_of(package_index.fetch("tinymodel==1.0", digest, ignore)) == digest
    wheel.unlink()
    assert package_index.fetch("tinymodel==1.0", digest, ignore) == kept


def test_a_local_file_or_folder_is_taken_where_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(GGUF)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    assert models.fetch(card(LocalModel(path=str(file)))) == file
    assert models.fetch(card(LocalModel(path=str(folder)))) == folder
    assert models.identity(card(LocalModel(path=str(file)))) == f"sha256:{sha256_of(file)}"
    before = models.identity(card(LocalModel(path=str(folder))))
    (folder / "config.json").write_bytes(CONFIG + b" ")
    assert models.identity(card(LocalModel(path=str(folder)))) != before


def test_a_local_path_without_a_model_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"model tiny: .* is neither"):
        models.fetch(card(LocalModel(path=str(tmp_path))))


def test_a_model_behind_an_endpoint_has_no_files() -> None:
    remote = card(EndpointModel(model="qwen3"))
    with pytest.raises(BadConfig, match="lives behind an endpoint"):
        models.fetch(remote)
    assert models.ref(remote).identity == "endpoint:qwen3"


def test_a_reference_keeps_what_fixes_the_bytes(index: Path) -> None:
    found = models.ref(packaged(index))
    assert (found.name, found.identity) == ("tiny", f"sha256:{hashlib.sha256(GGUF).hexdigest()}")
    assert (found.parameters, found.licence) == (7, "MIT")
    assert models.identity(card(HubModel(repo="a/b", revision=COMMIT))) == f"hub:a/b@{COMMIT}"


def test_a_gated_model_needs_the_named_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ToolMissing, match="EDGEKILN_TEST_ABSENT is not set"):
        models.fetch(card(HubModel(repo="a/b", token_env="EDGEKILN_TEST_ABSENT")))


def test_a_machine_without_the_hub_library_is_told_which_extra_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from core import catalogue, models\n"
        "card = catalogue.model('smollm2-135m-instruct')\n"
        "models.fetch(card.model_copy(update={'source': catalogue.HubModel(repo='a/b')}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "EDGEKILN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "[env-tool-missing]" in done.stderr
    assert 'pip install "edgekiln[train]"' in done.stderr


@pytest.mark.model
def test_the_default_model_has_the_pinned_hash(default_gguf: Path) -> None:
    shipped = catalogue.model("smollm2-135m-instruct")
    assert models.identity(shipped) == f"sha256:{sha256_of(default_gguf)}"
    assert default_gguf.read_bytes()[:4] == b"GGUF"
