"""Fetches a repository's files at one commit into the hub's own cache, by a process of its own: resumed, verified, asked for once."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from core import package_index
from core.config import cache_folder, hub_cache, secret
from core.contract import Contract
from core.events import OnEvent
from core.files import write_atomic
from core.hub.failures import needed
from core.worker_process import call

_TIMEOUT_S = 48 * 3600.0
_SILENCE_S = 30.0


class DownloadRequest(Contract):
    """What to fetch: every file of a commit but those that `leave_out` matches. `cache` is the hub's own cache folder.

    `timeout_s` is the hub's longest silence; `token_env` is told in errors only, the token itself is in the environment.
    """

    repo: str
    commit: str
    leave_out: tuple[str, ...]
    cache: str
    token_env: str | None
    timeout_s: float


class Downloaded(Contract):
    """Where the files lie, each with its size in bytes; all of them were held against the hub's hashes."""

    folder: str
    files: dict[str, int]


def download(
    repo: str,
    commit: str,
    *,
    leave_out: tuple[str, ...],
    token_env: str | None,
    on_event: OnEvent,
    timeout_s: float = _SILENCE_S,
) -> Path:
    """Return the folder of a commit's files, fetching what is missing; one that was fetched and verified before needs no network.

    HubFailed, DiskFull before anything is fetched that does not fit, ToolMissing without huggingface_hub or the token's variable.
    """
    token = {"HF_TOKEN": secret(token_env)} if token_env else {}
    kept = cache_folder() / "models" / "hub" / f"{repo.replace('/', '--')}-{commit}"
    with package_index.hold(kept):
        if (folder := _verified_before(kept / "downloaded.json")) is not None:
            return folder
        needed(repo)
        request = DownloadRequest(
            repo=repo,
            commit=commit,
            leave_out=leave_out,
            cache=str(hub_cache()),
            token_env=token_env,
            timeout_s=timeout_s,
        )
        silence = {"HF_HUB_DOWNLOAD_TIMEOUT": str(max(1, round(timeout_s)))}
        env = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", **silence, **token}
        made = call("core.hub.download.worker", request, Downloaded, kept, on_event, timeout_s=_TIMEOUT_S, env=env)
        write_atomic(kept / "downloaded.json", made.model_dump_json(indent=1).encode())
    return Path(made.folder)


def _verified_before(path: Path) -> Path | None:
    try:
        made = Downloaded.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    folder = Path(made.folder)
    there = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in made.files.items())
    return folder if there else None
