"""What the hub client's exceptions mean: each known failure becomes an error of its own with a remedy; none repeats a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.errors import (
    EdgekilnError,
    HubCorrupt,
    HubFailed,
    HubFull,
    HubGated,
    HubMissing,
    HubMoved,
    HubNoRevision,
    HubRefused,
    HubSlow,
    HubUnreachable,
    ToolMissing,
)
from core.files import disk_full

AGAIN = "Run the same command again; what is there already is not sent again."
_MAX_TEXT = 200
_SECRET = re.compile(r"\bhf_\w+|(?<=[?&=])[^\s&=]{16,}|//[^/\s@]*@")
_QUOTA = re.compile(r"storage|quota|limit", re.I)
_BUSY = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Asked:
    """What is asked of the hub, as it may be told; `place` takes what comes from it, None when something is sent."""

    repo: str
    revision: str
    token_env: str | None
    place: Path | None = None

    @property
    def what(self) -> str:
        """Return the repository with its revision."""
        return f"hf://{self.repo}@{self.revision}"

    @property
    def token(self) -> str:
        """Say where the token is from."""
        return f"the token of {self.token_env}" if self.token_env else "the token that huggingface_hub finds by itself"


@contextmanager
def recognised(asked: Asked) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into errors of ours."""
    from huggingface_hub import errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library the client uses
    try:
        yield
    except (OSError, ValueError, RuntimeError, http_error) as error:
        raise meant(error, asked) from None  # its text holds signed addresses


def meant(error: BaseException, asked: Asked) -> EdgekilnError:
    """Return the error of ours for an exception of the client, or for what it was raised from."""
    for one in _chain(error):
        for read in (_of_disk, _of_response, _of_connection):
            if (found := read(one, asked)) is not None:
                return found
    cause = list(_chain(error))[-1]
    text = _plain(str(cause))
    if text.startswith("Consistency check failed"):
        return HubCorrupt(f"{asked.what} gave other bytes than it promised: {text}", remedy="Run the same command again.")
    if text.startswith("LFS batch API") and _QUOTA.search(text):
        return _full(asked, text)
    return HubFailed(f"{asked.what}: {text} ({type(cause).__name__})", remedy="Mend what it names.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _of_disk(error: BaseException, asked: Asked) -> EdgekilnError | None:
    if isinstance(error, OSError) and error.errno in {ENOSPC, EDQUOT, EFBIG} and asked.place is not None:
        return disk_full(asked.place)
    return None


def _of_response(error: BaseException, asked: Asked) -> EdgekilnError | None:
    from huggingface_hub import errors

    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status = error.response.status_code
    said = _plain(error.server_message or "") or f"status {status}"
    if isinstance(error, errors.GatedRepoError):
        return _gated(asked, said)
    if isinstance(error, errors.RevisionNotFoundError):
        return _no_revision(asked)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return _missing(asked, said)
    return _of_status(status, said, asked)


def _of_status(status: int, said: str, asked: Asked) -> EdgekilnError:
    if status in {413, 507} or (status == 403 and _QUOTA.search(said)):
        return _full(asked, said)
    if status in {401, 403}:
        needs = "read access to that repository" if asked.place else "write access to that repository"
        return HubRefused(
            f"{asked.what} refuses {asked.token} ({status}): {said}",
            remedy=f"Make a token with {needs} (huggingface.co/settings/tokens), and put it into the variable.",
        )
    if status in {409, 412}:
        return HubMoved(f"{asked.what} was changed meanwhile ({status}): {said}", remedy=AGAIN)
    if status in _BUSY:
        return HubSlow(f"{asked.what}: the hub is overloaded ({status}): {said}", remedy=f"Wait a while. {AGAIN}")
    return HubFailed(f"{asked.what} ({status}): {said}", remedy="Mend what the hub names.")


def _gated(asked: Asked, said: str) -> HubGated:
    return HubGated(
        f"{asked.what} is gated, and {asked.token} has no access: {said}",
        remedy=f"Accept its terms at huggingface.co/{asked.repo}, and name the variable with your token: token_env.",
    )


def _missing(asked: Asked, said: str) -> HubMissing:
    make = "" if asked.place else f" Make a new one: hf repos create {asked.repo}"
    return HubMissing(
        f"the hub has no {asked.repo}, or does not show it to {asked.token}: {said}",
        remedy=f"Correct the repository's name; a private one needs a token: name its variable with token_env.{make}",
    )


def _no_revision(asked: Asked) -> HubNoRevision:
    make = "" if asked.place else f" Make the branch: hf repos branch create {asked.repo} {asked.revision}"
    return HubNoRevision(
        f"{asked.repo} has no revision {asked.revision}", remedy=f"Name a branch, tag or commit it has.{make}"
    )


def _full(asked: Asked, said: str) -> HubFull:
    return HubFull(
        f"the hub has no space left for {asked.what}: {said}",
        remedy=f"Free space in the account, or publish to another. {AGAIN}",
    )


def _of_connection(error: BaseException, asked: Asked) -> EdgekilnError | None:
    name = type(error).__name__
    if name == "OfflineModeIsEnabled":
        return HubUnreachable(f"{asked.what} is not asked: HF_HUB_OFFLINE is set", remedy="Unset HF_HUB_OFFLINE.")
    if name in {"ReadTimeout", "WriteTimeout", "PoolTimeout"}:
        return HubSlow(f"{asked.what}: the hub was silent for too long ({name})", remedy=f"Look after the network. {AGAIN}")
    if name.endswith(("ConnectTimeout", "ConnectError", "ReadError", "WriteError", "ProtocolError", "ProxyError")):
        return HubUnreachable(
            f"no connection to the hub opens, or it breaks, for {asked.what}: {name} {_plain(str(error))}".rstrip(),
            remedy=f"Bring the network up, or mend HF_ENDPOINT and HTTPS_PROXY. {AGAIN}",
        )
    return None


def _plain(text: str) -> str:
    """Return the beginning of a stranger's text without what may be a token or a signature."""
    return _SECRET.sub("<hidden>", " ".join(text.split()))[:_MAX_TEXT]


def needed(repo: str) -> None:
    """Raise ToolMissing where huggingface_hub is not installed."""
    if find_spec("huggingface_hub") is None:
        raise ToolMissing(
            f"hf://{repo} needs huggingface_hub, which is not installed",
            remedy='Install it: pip install "edgekiln[train]"',
        )


def client(timeout_s: float, endpoint: str | None = None) -> Any:
    """Return the hub's client for this process: it waits for an answer only so long and logs no address."""
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils import logging
    from huggingface_hub.utils._http import default_client_factory

    def patient() -> Any:
        made = default_client_factory()
        made.timeout = timeout_s
        return made

    set_client_factory(patient)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # its functions say no return type
    return HfApi(endpoint=endpoint)
