"""The commit that a branch or tag of the hub stands for: asked once a process, and remembered for a machine without a network."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from core.config import environment_variables, hub_cache, secret
from core.contract import Contract
from core.errors import HubUnreachable
from core.files import confine, write_atomic
from core.hub.failures import Asked, client, needed, recognised

COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0


class Pin(Contract):
    """The commit of a revision. `how` it is known: the revision is one, the hub was asked, or it is of an earlier time.

    `before` is what the revision stood for then, None where nobody asked.
    """

    commit: str
    how: Literal["named", "asked", "remembered"]
    before: str | None = None


def pin(repo: str, revision: str, token_env: str | None) -> Pin:
    """Return the commit of a revision, fetching no file.

    A hub that is out of reach is no failure where the revision was asked for before: what it stood for then is taken. HubFailed,
    PathEscapes, ToolMissing without huggingface_hub or the token's variable.
    """
    if COMMIT.fullmatch(revision):
        return Pin(commit=revision, how="named")
    endpoint = environment_variables(["HF_ENDPOINT"]).get("HF_ENDPOINT")
    return _asked(endpoint, repo, revision, token_env)


def _remembered(repo: str, revision: str) -> str | None:
    """Return what a revision stood for when it was last asked for, by us or by the hub's own client; None for never."""
    kept = _kept(repo, revision)
    commit = kept.read_text(encoding="utf-8").strip() if kept.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else None


def _kept(repo: str, revision: str) -> Path:
    """Return the file of the hub's own cache that keeps a revision's commit: who looks there finds what was fetched."""
    return confine(hub_cache() / f"models--{repo.replace('/', '--')}" / "refs", revision)


@cache
def _asked(endpoint: str | None, repo: str, revision: str, token_env: str | None) -> Pin:
    needed(repo)
    before = _remembered(repo, revision)
    token = secret(token_env) if token_env else None
    try:
        with recognised(Asked(repo, revision, token_env, hub_cache())):
            info = client(_TIMEOUT_S, endpoint).model_info(repo, revision=revision, timeout=_TIMEOUT_S, token=token)
    except HubUnreachable:
        if before is None:
            raise
        return Pin(commit=before, how="remembered", before=before)
    commit = str(info.sha)
    if commit != before:
        write_atomic(_kept(repo, revision), commit.encode())
    return Pin(commit=commit, how="asked", before=before)
