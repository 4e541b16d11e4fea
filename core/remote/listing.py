"""What a manifest says of its folder's files, read with suspicion: it may come from another machine."""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, ValidationError

from core.contract import FileRef
from core.errors import ManifestBroken
from core.remote.keys import key_of
from core.workspace import MANIFEST, MAX_MANIFEST_BYTES

MAX_FILES = 100_000


class _Manifest(BaseModel):
    """The part that artifacts and checkpoints share; a checkpoint's lies one level deeper, beside its hash."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    files: tuple[FileRef, ...] = Field(validation_alias=AliasChoices("files", AliasPath("manifest", "files")))


def files_of(manifest: bytes, where: str) -> tuple[FileRef, ...]:
    """Return the files a manifest names; ManifestBroken, or PathEscapes for one outside of its folder."""
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise _broken(where, f"it has > {MAX_MANIFEST_BYTES} bytes")
    try:
        files = _Manifest.model_validate_json(manifest).files
    except ValidationError as error:
        first = error.errors()[0]
        raise _broken(where, f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
    if len(files) > MAX_FILES:
        raise _broken(where, f"it names {len(files)} files > {MAX_FILES}")
    for ref in files:
        key_of("", ref.path)
    _refuse_overlap({ref.path for ref in files}, len(files), where)
    return files


def _refuse_overlap(paths: set[str], count: int, where: str) -> None:
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if len(paths) < count or paths & folders or MANIFEST in paths | folders:
        raise _broken(where, "it names a file twice, as a folder, or itself")


def _broken(where: str, why: str) -> ManifestBroken:
    return ManifestBroken(f"the manifest of {where}: {why}", remedy="Take the folder before it, or push it again.")
