"""Datasets of the Hugging Face hub: `hf:owner/name[:config][:split][@revision]` to files in the hub's own cache.

Without a revision the hub's own conversion to Parquet is read, which lies in folders config/split; with one, the files of
the dataset's repository at that revision. Their bytes are the identity, as with any file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from core.contract import Contract
from core.data.formats.recognise import is_known
from core.errors import BadConfig, ServiceError, SourceMissing, ToolMissing

PREFIX = "hf:"
_FORM = re.compile(r"hf:([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?::([\w.-]+))?(?:@([\w./-]+))?", re.ASCII)
_CONVERTED = "refs/convert/parquet"
_WORD = re.compile(r"[0-9A-Za-z]+")


class HubName(Contract):
    """What a name of the hub says."""

    repo: str
    config: str | None
    split: str | None
    revision: str | None


def parse(name: str) -> HubName:
    """Read `hf:owner/name[:config][:split][@revision]`; BadConfig when it is not of this form."""
    found = _FORM.fullmatch(name)
    if found is None:
        raise BadConfig(
            f"data.sources: {name!r} is no dataset of the hub",
            remedy="Write hf:owner/name, hf:owner/name:config, hf:owner/name:config:split, each with @revision if wanted.",
        )
    repo, config, split, revision = found.groups()
    return HubName(repo=repo, config=config, split=split, revision=revision)


def fetch(name: str) -> list[tuple[Path, str]]:
    """Fetch a dataset's files into the hub's cache and return each with the name it is told by, commit included.

    ToolMissing without huggingface_hub, ServiceError without the network, SourceMissing when the hub has no such thing.
    """
    wanted = parse(name)
    try:
        from huggingface_hub import HfApi, errors
    except ImportError as error:
        raise ToolMissing(
            f"{name} comes from the Hugging Face hub, but huggingface_hub is not installed",
            remedy='Install it: pip install "edgekiln[train]"',
        ) from error
    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library the client uses
    api = HfApi()
    try:
        return _files(api, name, wanted)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise SourceMissing(
            f"the hub has no {name}: {_first_line(error)}",
            remedy="Correct the dataset's name or its revision; for one that is private or gated, log in with `hf auth login`.",
        ) from error
    except (OSError, ValueError, http_error) as error:
        raise ServiceError(
            f"the Hugging Face hub does not give {name}: {_first_line(error)}",
            remedy="Check the network, or fetch the dataset elsewhere and name its files instead.",
        ) from error


def _files(api: Any, name: str, wanted: HubName) -> list[tuple[Path, str]]:
    info = api.dataset_info(wanted.repo, revision=wanted.revision or _CONVERTED)
    files = sorted(file.rfilename for file in info.siblings or ())
    config = wanted.config
    if wanted.revision is None and config is None:
        config = _only_config(name, files)
    chosen = choose(files, config, wanted.split)
    if not chosen:
        raise SourceMissing(
            f"{name} has no file of records for that config and split",
            remedy=f"Name a config and a split it has; its files are {', '.join(files[:8])}",
        )
    return [
        (
            Path(api.hf_hub_download(wanted.repo, file, repo_type="dataset", revision=info.sha)),
            f"{PREFIX}{wanted.repo}@{info.sha[:12]}/{file}",
        )
        for file in chosen
    ]


def _only_config(name: str, files: Sequence[str]) -> str | None:
    """Return the config to read when none is named: the one there is, or `default`."""
    configs = sorted({PurePosixPath(file).parts[0] for file in files if is_known(Path(file))})
    if len(configs) > 1 and "default" not in configs:
        raise SourceMissing(f"{name} has {len(configs)} configs", remedy=f"Name one: {', '.join(configs[:20])}.")
    return "default" if len(configs) > 1 else next(iter(configs), None)


def choose(files: Sequence[str], config: str | None, split: str | None) -> list[str]:
    """Return the files of records of a config and a split; without a split those for training, where names tell them.

    A config is a folder's name. A split is a word of the path below it, as the hub reads `data/train-00000-of-00001.parquet`.
    """
    known = sorted(file for file in files if is_known(Path(file)) and not file.startswith("."))
    if config is not None:
        known = [file for file in known if config in PurePosixPath(file).parts[:-1]]
    named = [file for file in known if (split or "train") in _words(file, config)]
    return named if split is not None or named else known


def _words(file: str, config: str | None) -> set[str]:
    parts = [part for part in PurePosixPath(file).parts if part != config]
    return {word for part in parts for word in (part, *_WORD.findall(part))}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
