"""Fetches a commit's files: looks what is missing and whether it fits, resumes what a kill left, verifies each; download.py is its client.

The hub's own client keeps no part of a file that was not fetched whole, so the large ones are fetched here, into its cache.
"""

from __future__ import annotations

import hashlib
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.errors import DiskFull, HubCorrupt, HubMissing, HubUnreachable
from core.events import Note, OnEvent
from core.files import sha256_of
from core.hub.download.download import Downloaded, DownloadRequest
from core.hub.failures import AGAIN, Asked, client, recognised
from core.remote.telling import Telling
from core.worker_process import main

_RESERVE_BYTES = 64 << 20
_LARGEST_BYTES = 50 * 10**9  # over plain HTTP; larger ones come by the client's own protocol, which begins them anew
_MIB = 1 << 20


def work(request: DownloadRequest, _folder: Path, on_event: OnEvent) -> Downloaded:
    """Fetch and verify; without a network what lies in the cache is taken if it is whole."""
    asked = Asked(request.repo, request.commit, request.token_env, Path(request.cache))
    try:
        with recognised(asked):
            api = client(request.timeout_s)
            entries = _wanted(api, request)
    except HubUnreachable:
        return _without_network(request, asked, on_event)
    if not entries:
        raise HubMissing(f"{asked.what} has no file to fetch", remedy="Name a repository with safetensors weights.")
    with recognised(asked):
        return _fetch(request, asked, entries, on_event)


def _wanted(api: Any, request: DownloadRequest) -> list[Any]:
    # asked once without the retries of the list below, which wait 20 s for a network that is not there
    api.model_info(request.repo, revision=request.commit, timeout=request.timeout_s)
    found = api.list_repo_tree(request.repo, revision=request.commit, recursive=True)
    files = (entry for entry in found if hasattr(entry, "blob_id"))
    return [file for file in files if not any(fnmatch(file.path, pattern) for pattern in request.leave_out)]


def _store(request: DownloadRequest) -> Path:
    return Path(request.cache) / f"models--{request.repo.replace('/', '--')}"


def _fetch(request: DownloadRequest, asked: Asked, entries: list[Any], on_event: OnEvent) -> Downloaded:
    snapshot = _store(request) / "snapshots" / request.commit
    missing = [entry for entry in entries if not _is_cached(snapshot / entry.path, entry)]
    _refuse_too_large(request, asked, missing)
    total = sum(entry.size for entry in missing)
    telling = Telling(f"fetching {request.repo}", total, None, on_event)
    for entry in missing:
        _bring(request, asked, entry, telling)
    telling.tell(last=True)
    return Downloaded(folder=str(snapshot), files={entry.path: entry.size for entry in entries})


def _is_cached(path: Path, entry: Any) -> bool:
    """Say whether a file lies in the cache with the bytes it must have; one with others is taken away."""
    if not path.is_file():
        return False
    if path.stat().st_size == entry.size and _is_right(path, entry):
        return True
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    return False


def _is_right(path: Path, entry: Any) -> bool:
    if entry.lfs is not None:
        return bool(sha256_of(path) == entry.lfs.sha256)
    data = path.read_bytes()
    return bool(hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == entry.blob_id)


def _refuse_too_large(request: DownloadRequest, asked: Asked, missing: list[Any]) -> None:
    begun = sum(part.stat().st_size for entry in missing if (part := _part(request, entry)).is_file())
    needed = sum(entry.size for entry in missing) - begun + _RESERVE_BYTES
    place = next(folder for folder in (Path(request.cache), *Path(request.cache).parents) if folder.is_dir())
    if missing and (free := shutil.disk_usage(place).free) < needed:
        raise DiskFull(
            f"{asked.what} needs {needed // _MIB} MiB > {free // _MIB} MiB free in {request.cache}",
            remedy="Free some space there, or name another folder with HF_HOME; nothing was fetched.",
        )


def _part(request: DownloadRequest, entry: Any) -> Path:
    digest: str = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    return _store(request) / "partial" / digest


def _bring(request: DownloadRequest, asked: Asked, entry: Any, telling: Telling) -> None:
    from huggingface_hub import hf_hub_download

    by_parts = entry.lfs is not None and 0 < entry.size <= _LARGEST_BYTES
    if by_parts:
        _fetch_large(request, asked, entry, telling)
    path = Path(hf_hub_download(request.repo, entry.path, revision=request.commit, cache_dir=request.cache))
    if not by_parts:
        telling.add(entry.size)
        telling.tell()
        if not _is_cached(path, entry):
            raise _corrupt(asked, entry)


def _fetch_large(request: DownloadRequest, asked: Asked, entry: Any, telling: Telling) -> None:
    """Fetch a file's missing part, verify the whole, and put it where the hub's client looks for it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    part, blob = _part(request, entry), _store(request) / "blobs" / entry.lfs.sha256
    part.parent.mkdir(parents=True, exist_ok=True)
    blob.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(request.repo, entry.path, revision=request.commit)
    location = get_hf_file_metadata(url, timeout=request.timeout_s).location
    headers = build_hf_headers()
    if urlsplit(location).netloc != urlsplit(url).netloc:  # its address is signed, and the token is not for it
        headers.pop("authorization", None)
    with part.open("ab") as stream:
        begun = min(stream.tell(), entry.size)
        telling.add(begun)
        http_get(
            location,
            stream,
            resume_size=begun,
            headers=headers,
            expected_size=entry.size,
            tqdm_class=_counting(telling),
        )
    if not _is_right(part, entry):
        part.unlink()
        raise _corrupt(asked, entry)
    part.replace(blob)


def _corrupt(asked: Asked, entry: Any) -> HubCorrupt:
    return HubCorrupt(
        f"{entry.path} of {asked.what} came with other bytes than its hash says; it is not kept",
        remedy=f"Look after the network and the disk. {AGAIN}",
    )


def _counting(telling: Telling) -> type[Any]:
    """Return a progress bar in the client's form that tells in place of drawing."""
    from huggingface_hub.utils.tqdm import tqdm

    class Counts(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            telling.add(int(n or 0))
            telling.tell()
            return None

    return Counts


def _without_network(request: DownloadRequest, asked: Asked, on_event: OnEvent) -> Downloaded:
    """Return what lies in the cache where an earlier list of the commit's files says that it is whole; else HubUnreachable."""
    from huggingface_hub import snapshot_download

    with recognised(asked):
        folder = Path(
            snapshot_download(
                request.repo,
                revision=request.commit,
                cache_dir=request.cache,
                ignore_patterns=list(request.leave_out),
                local_files_only=True,
            )
        )
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    text = f"the hub is out of reach; {asked.what} is taken from its cache, whole but not verified again"
    on_event(Note(stage=None, text=text, level="warning"))
    return Downloaded(folder=str(folder), files=files)


if __name__ == "__main__":
    main(DownloadRequest, work)
