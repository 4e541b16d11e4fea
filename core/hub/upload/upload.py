"""Sends files to a repository of the hub as one commit, by a process of its own: a reader sees the old files or all of the new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.config import secret
from core.contract import Contract, Sha256
from core.events import OnEvent
from core.hub.failures import needed
from core.worker_process import call

_TIMEOUT_S = 48 * 3600.0


class Outgoing(Contract):
    """A file to send: its path in the repository, where it lies, and what it is."""

    path: str
    source: str
    sha256: Sha256
    bytes: int


class UploadRequest(Contract):
    """What goes where. `checksums` is the file in `sha256sum` form: what an earlier one there lists and this one does not is removed.

    An earlier one is of ours where it lists `mark`: a stranger's checksums remove nothing.
    `timeout_s` is the hub's longest silence; `token_env` is told in errors only, the token itself is in the environment.
    """

    repo: str
    branch: str
    message: str
    files: tuple[Outgoing, ...]
    checksums: str
    mark: str
    token_env: str | None
    timeout_s: float
    dry_run: bool


class Uploaded(Contract):
    """What was done, or with `dry_run` would be; `commit` is the branch's head now. Paths are in the repository."""

    commit: str
    sent: tuple[str, ...]
    there: tuple[str, ...]
    removed: tuple[str, ...]


def upload(request: UploadRequest, scratch: Path, on_event: OnEvent) -> Uploaded:
    """Send what is not there yet and commit; ToolMissing without huggingface_hub or the token's variable, HubFailed."""
    needed(request.repo)
    token = {"HF_TOKEN": secret(request.token_env)} if request.token_env else {}
    env = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", **token}
    return call("core.hub.upload.worker", request, Uploaded, scratch, on_event, timeout_s=_TIMEOUT_S, env=env)


def total_bytes(files: Sequence[Outgoing]) -> int:
    """Return how much there is to send."""
    return sum(file.bytes for file in files)
