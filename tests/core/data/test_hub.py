"""Datasets of the hub: names, the choice of files, and the real client against an HTTP server that has two datasets."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from core.data.hub import HubName, choose, fetch, parse
from core.data.readers import open_sources, read_lines
from core.errors import BadConfig, EdgekilnError, ServiceError, SourceMissing, ToolMissing

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "default/train/0000.jsonl": b'{"user": "train"}\n',
    "default/test/0000.jsonl": b'{"user": "test"}\n',
    "README.md": b"# a dataset\n",
}
SEVERAL = {f"{name}/train/0000.jsonl": b'{"user": "a"}\n' for name in ("fr", "en")}
SETS = {"ginette/recettes": FILES, "ginette/langues": SEVERAL}


class _Hub(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        info = re.fullmatch(r"/api/datasets/([\w-]+/[\w-]+)/revision/(.+)", self.path)
        file = re.fullmatch(rf"/datasets/([\w-]+/[\w-]+)/resolve/{COMMIT}/(.+)", self.path)
        if info and info[1] in SETS and info[2] in {"refs%2Fconvert%2Fparquet", "main"}:
            siblings = [{"rfilename": name} for name in SETS[info[1]]]
            self._send(json.dumps({"id": info[1], "sha": COMMIT, "siblings": siblings}).encode())
        elif file and file[2] in SETS.get(file[1], {}):
            self._send(SETS[file[1]][file[2]])
        else:
            self.send_response(404)
            known = info is not None and info[1] in SETS
            self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:a/b", ("a/b", None, None, None)),
        ("hf:a/b:c", ("a/b", "c", None, None)),
        ("hf:a/b:c:test", ("a/b", "c", "test", None)),
        ("hf:a/b:c:test@v1.0", ("a/b", "c", "test", "v1.0")),
        ("hf:a/b@refs/pr/1", ("a/b", None, None, "refs/pr/1")),
    ],
)
def test_a_name_says_repository_config_split_and_revision(name: str, expected: tuple[str | None, ...]) -> None:
    repo, config, split, revision = expected
    assert repo is not None
    assert parse(name) == HubName(repo=repo, config=config, split=split, revision=revision)


@given(st.text(max_size=20))
def test_any_other_name_is_a_mistake_in_the_configuration(text: str) -> None:
    try:
        repo = parse(f"hf:{text}").repo
    except BadConfig:
        return
    assert repo in text


@pytest.mark.parametrize(
    ("config", "split", "expected"),
    [
        (None, None, ["data/train-00000-of-00002.parquet", "fr/train/0000.parquet"]),
        (None, "test", ["data/test-00000-of-00001.parquet"]),
        ("fr", None, ["fr/train/0000.parquet"]),
        ("fr", "test", []),
        ("train", "validation", []),
    ],
)
def test_files_are_chosen_by_folder_and_by_word(config: str | None, split: str | None, expected: list[str]) -> None:
    files = [
        ".gitattributes",
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00002.parquet",
        "fr/train/0000.parquet",
        "trainer/notes.json",
    ]

    assert choose(files, config, split) == expected
    assert choose(["all.jsonl"], None, None) == ["all.jsonl"]


def test_a_dataset_of_the_hub_is_read_as_its_files(hub: None) -> None:
    (source,) = open_sources(["hf:ginette/recettes"], 8)

    assert source.name == "hf:ginette/recettes@0123456789ab/default/train/0000.jsonl"
    assert source.sha256 == hashlib.sha256(b'{"user": "train"}\n').hexdigest()
    assert [line.record for line in read_lines(source, 8000)] == [{"user": "train"}]
    (tested,) = open_sources(["hf:ginette/recettes:default:test@main"], 8)
    assert tested.name.endswith("/default/test/0000.jsonl")


def test_what_the_hub_does_not_have_is_named(hub: None) -> None:
    with pytest.raises(SourceMissing, match="has 2 configs") as caught:
        fetch("hf:ginette/langues")
    assert "en, fr" in caught.value.remedy
    assert [name for _, name in fetch("hf:ginette/langues:fr")] == ["hf:ginette/langues@0123456789ab/fr/train/0000.jsonl"]
    for name in ("hf:ginette/rien", "hf:ginette/recettes@gone", "hf:ginette/recettes:default:validation"):
        with pytest.raises(SourceMissing, match=re.escape(name)):
            fetch(name)


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="does not give hf:ginette/recettes") as caught:
        fetch("hf:ginette/recettes")
    assert "name its files instead" in caught.value.remedy
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EdgekilnError, match="does not give"):
        fetch("hf:ginette/recettes")


def test_without_the_hubs_client_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ToolMissing, match="huggingface_hub is not installed"):
        fetch("hf:ginette/recettes")
