"""Sends files to the hub: looks what is there, sends each missing one, commits once, looks whether it is there; upload.py is its client."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import HubCorrupt
from core.events import OnEvent, Progress
from core.hub.failures import AGAIN, Asked, client, recognised
from core.hub.upload.upload import Outgoing, Uploaded, UploadRequest, total_bytes
from core.worker_process import main

_MAX_CHECKSUMS_BYTES = 1 << 20
_MIB = 1 << 20


def work(request: UploadRequest, folder: Path, on_event: OnEvent) -> Uploaded:
    """Send and commit; nothing is written where all is there, or nothing is to be done but look."""
    asked = Asked(request.repo, request.branch, request.token_env)
    with recognised(asked):
        api = client(request.timeout_s)
        head = str(api.model_info(request.repo, revision=request.branch, timeout=request.timeout_s).sha)
        there = _tree(api, request.repo, head)
        missing = [file for file in request.files if not _is_same(file, there.get(file.path))]
        removed = _left_over(api, request, head, there, folder)
        if (missing or removed) and not request.dry_run:
            head = _commit(api, request, head, _send(api, request, missing, on_event), removed)
            _prove(_tree(api, request.repo, head), request, asked)
    sent = tuple(file.path for file in missing)
    found = tuple(file.path for file in request.files if file.path not in sent)
    return Uploaded(commit=head, sent=sent, there=found, removed=removed)


def _tree(api: Any, repo: str, revision: str) -> dict[str, Any]:
    entries = api.list_repo_tree(repo, revision=revision, recursive=True)
    return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}


def _is_same(file: Outgoing, there: Any) -> bool:
    """Say whether a file there has these bytes: large ones are known by their sha256, others as git knows them."""
    if there is None or there.size != file.bytes:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file.sha256)
    data = Path(file.source).read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def _left_over(api: Any, request: UploadRequest, head: str, there: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the files that an earlier publication sent and this one does not: they belong to another model."""
    listed = there.get(request.checksums)
    if listed is None or listed.size > _MAX_CHECKSUMS_BYTES:
        return ()
    path = api.hf_hub_download(request.repo, request.checksums, revision=head, local_dir=folder / "before")
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    before = {line[66:] for line in lines if line[64:66] == "  "}
    if request.mark not in before:
        return ()
    return tuple(sorted((before & there.keys()) - {file.path for file in request.files}))


def _commit(api: Any, request: UploadRequest, head: str, additions: Sequence[Any], removed: Sequence[str]) -> str:
    from huggingface_hub import CommitOperationDelete

    made = api.create_commit(
        request.repo,
        [*additions, *(CommitOperationDelete(path) for path in removed)],
        commit_message=request.message,
        revision=request.branch,
        parent_commit=head,
    )
    return str(made.oid)


def _send(api: Any, request: UploadRequest, missing: Sequence[Outgoing], on_event: OnEvent) -> list[Any]:
    """Send the large files one after the other, so that each that arrived stays for the next try; the others go with the commit."""
    from huggingface_hub import CommitOperationAdd

    done, total, additions = 0, total_bytes(missing), []
    for file in missing:
        task = f"uploading {file.path} to hf://{request.repo}"
        on_event(Progress(stage=None, task=task, done=done / _MIB, total=total / _MIB, unit="MiB"))
        addition = CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=file.source)
        addition.upload_info.sha256 = bytes.fromhex(file.sha256)
        api.preupload_lfs_files(request.repo, [addition], revision=request.branch, free_memory=False)
        additions.append(addition)
        done += file.bytes
    on_event(
        Progress(stage=None, task=f"uploading to hf://{request.repo}", done=total / _MIB, total=total / _MIB, unit="MiB")
    )
    return additions


def _prove(there: dict[str, Any], request: UploadRequest, asked: Asked) -> None:
    wrong = [file.path for file in request.files if not _is_same(file, there.get(file.path))]
    if wrong:
        raise HubCorrupt(
            f"{asked.what} does not hold what was committed: {', '.join(wrong)}",
            remedy=f"Look whether its .gitignore leaves them out. {AGAIN}",
        )


if __name__ == "__main__":
    main(UploadRequest, work)
