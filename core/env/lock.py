"""Writes exact hashed requirements of an environment, and checks an environment against them."""

from __future__ import annotations

import base64
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, Field, ValidationError

from core.contract import Contract
from core.env.installed import Distribution, Source, Survey, archive_sha256, pip_for
from core.errors import BadConfig, ProcessFailed, RepairFailed, ToolMissing
from core.events import OnEvent, ignore
from core.files import sha256_of
from core.package_index import heartbeat
from core.process import run

MAX_LOCK_BYTES = 4 << 20
_MAX_REPORT_BYTES = 256 << 20  # pip's report carries every package's whole description
_MAX_RECORD_BYTES = 64 << 20
_TIMEOUT_S = 3600.0  # without metadata on the index pip downloads each file for its hash
_INSTALLERS = {"pip", "uv"}  # they install the rest; which one does is the reader's choice
_OWN_RECORD = re.compile(r"[^/]+\.dist-info/RECORD")  # setuptools carries those of the packages inside it, too
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?:\s|$)")


class Locked(Contract):
    """One package of a lock: any of the hashes is right."""

    name: str
    version: str
    sha256: tuple[str, ...]


class Lock(Contract):
    """An environment's packages with their hashes, and those that no hash can be given for, with the reason."""

    packages: tuple[Locked, ...]
    left_out: dict[str, str]


class DifferenceKind(StrEnum):
    """How an environment differs from a lock."""

    MISSING = "missing"
    VERSION = "other version"
    ARCHIVE = "other file"
    BROKEN = "files missing"
    CHANGED = "files changed"
    EXTRA = "not locked"


class Difference(Contract):
    """One package that is not as a lock has it; what is not locked alone does not block."""

    kind: DifferenceKind
    name: str
    locked: str | None
    installed: str | None
    evidence: str

    @property
    def blocks(self) -> bool:
        """Whether the locked set is not what is installed."""
        return self.kind is not DifferenceKind.EXTRA


class _Hashes(BaseModel):
    hashes: dict[str, str] = {}


class _Download(BaseModel):
    archive_info: _Hashes | None = None


class _Item(BaseModel):
    metadata: dict[str, Any]
    download_info: _Download


class _Report(BaseModel):
    install: list[_Item] = Field(default=[])


def lock(found: Survey, source: Source, scratch: Path, on_event: OnEvent = ignore) -> Lock:
    """Return what is installed with the hash of the file each package came from.

    The hash is the one pip wrote down (direct_url.json), else that of a wheelhouse's wheel that holds exactly the
    installed files, else what the index offers for that version and this machine. RepairFailed when a version has none.
    """
    left_out, hashes = _without_hash(found), {}
    wanted = [one for one in found.distributions if one.key not in {*left_out, *_INSTALLERS}]
    for one in wanted:
        if known := archive_sha256(one):
            hashes[one.key] = known
    if source.wheelhouse:
        hashes |= _from_wheelhouse([one for one in wanted if one.key not in hashes], source.wheelhouse)
    else:
        hashes |= _from_index([one for one in wanted if one.key not in hashes], found, scratch, on_event)
    if unknown := sorted(one.key for one in wanted if one.key not in hashes):
        raise RepairFailed(
            f"{len(unknown)} of {len(wanted)} packages have no file to hash: {', '.join(unknown[:10])}",
            remedy="Name the folder or the index they came from: --wheelhouse DIR, or pip's index settings.",
        )
    packages = [Locked(name=one.key, version=one.version or "", sha256=(hashes[one.key],)) for one in wanted]
    return Lock(packages=tuple(sorted(packages, key=lambda one: one.name)), left_out=left_out)


def _without_hash(found: Survey) -> dict[str, str]:
    """Return what is installed from a folder or a repository: no file stands for it."""
    told = {}
    for one in found.distributions:
        if one.origin.get("dir_info") is not None or one.origin.get("vcs_info"):
            told[one.key] = f"installed from {one.origin.get('url', 'its source')}"
        elif not (one.has_metadata and one.has_record) or one.version is None:
            told[one.key] = "its installation is broken"
    return told


def _from_wheelhouse(wanted: Sequence[Distribution], wheelhouse: Path) -> dict[str, str]:
    """Return the hashes of the wheels whose files are exactly the installed ones; of the source archive where there is none."""
    found = {}
    for one in wanted:
        files = [path for path in sorted(wheelhouse.iterdir()) if named_by(path) == (one.key, _plain(one.version))]
        right = [path for path in files if path.suffix != ".whl" or same_files(one, path)]
        if right:
            found[one.key] = sha256_of(min(right, key=lambda path: path.suffix != ".whl"))
    return found


def _plain(version: str | None) -> str | None:
    try:
        return str(Version(version or ""))
    except InvalidVersion:
        return version


def named_by(path: Path) -> tuple[str, str] | None:
    """Return the canonical name and version in an archive's file name, None for no archive."""
    try:
        if path.suffix == ".whl":
            name, version, _, _ = parse_wheel_filename(path.name)
        else:
            name, version = parse_sdist_filename(path.name)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return str(name), str(version)


def same_files(one: Distribution, wheel: Path) -> bool:
    """Return whether every file a wheel lists is installed with the same hash, by both RECORDs."""
    try:
        here = dict(_record((Path(one.folder) / "RECORD").read_text(encoding="utf-8")))
        with zipfile.ZipFile(wheel) as archive:
            member = next(each for each in archive.infolist() if _OWN_RECORD.fullmatch(each.filename))
            if member.file_size > _MAX_RECORD_BYTES:
                return False
            listed = _record(archive.read(member).decode(errors="replace"))
    except (zipfile.BadZipFile, StopIteration, OSError):
        return False
    return all(here.get(path) == digest for path, digest in listed if digest and ".data/" not in path)


def _record(text: str) -> list[tuple[str, str]]:
    """Return path and hash of a RECORD's lines; commas in paths are quoted there and rare, such a line is passed over."""
    parts = [line.rsplit(",", 2) for line in text.splitlines()]
    return [(part[0], part[1]) for part in parts if len(part) == 3 and not part[0].startswith('"')]


def _from_index(wanted: Sequence[Distribution], found: Survey, scratch: Path, on_event: OnEvent) -> dict[str, str]:
    """Ask pip, without installing, which file it would take for each exact version."""
    if not wanted:
        return {}
    report, asked = scratch / "report.json", scratch / "exact.txt"
    report.unlink(missing_ok=True)
    asked.write_text("".join(f"{one.name}=={one.version}\n" for one in wanted), encoding="utf-8")
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--no-input", "--quiet", "--disable-pip-version-check"]
    argv = [*pip_for(found).command, "install", *options, "--report", str(report), "--requirement", str(asked)]
    try:
        run(
            argv,
            log=scratch / "lock.log",
            timeout_s=_TIMEOUT_S,
            cwd=scratch,
            on_tick=heartbeat("asking for hashes", on_event),
        )
    except ProcessFailed as error:
        raise RepairFailed(
            f"pip finds no file for what is installed: {error.problem}",
            remedy="Set up the index it came from, or name a folder with --wheelhouse DIR.",
        ) from error
    return _read_report(report)


def _read_report(path: Path) -> dict[str, str]:
    if not path.is_file() or path.stat().st_size > _MAX_REPORT_BYTES:
        raise ToolMissing(f"pip wrote no report to {path}", remedy="pip >= 22.2 is needed: pip install --upgrade pip")
    try:
        report = _Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ToolMissing(f"pip's report cannot be read: {error.errors()[0]['msg']}", remedy="Upgrade pip.") from error
    hashed = {str(item.metadata.get("name", "")): item.download_info.archive_info for item in report.install}
    return {
        str(canonicalize_name(name)): info.hashes["sha256"]
        for name, info in hashed.items()
        if info and "sha256" in info.hashes
    }


def render(locked: Lock, found: Survey) -> str:
    """Return a lock as a requirements file that `pip install --require-hashes --no-deps -r` takes."""
    markers = found.markers
    machine = f"{markers['sys_platform']} {markers['platform_machine']}"
    head = [
        "# Exact packages with hashes, written by `edgekiln env lock`; check with `edgekiln env lock --verify FILE`.",
        f"# For {markers['implementation_name']} {markers['python_version']}, {machine}: install with",
        "#   pip install --require-hashes --no-deps -r FILE",
        *(f"# without {name}: {why}" for name, why in sorted(locked.left_out.items())),
    ]
    lines = [f"{one.name}=={one.version}{''.join(f' --hash=sha256:{h}' for h in one.sha256)}" for one in locked.packages]
    return "\n".join([*head, *lines]) + "\n"


def read_lock(path: Path) -> Lock:
    """Read a requirements file with hashes; BadConfig names the line that is none."""
    if not path.is_file():
        what = "is no regular file" if path.exists() else "is not there"
        raise BadConfig(f"{path} {what}", remedy="Write a lock with `edgekiln env lock -o FILE`.")
    if path.stat().st_size > MAX_LOCK_BYTES:
        raise BadConfig(f"{path} has > {MAX_LOCK_BYTES} bytes", remedy="Name a requirements file.")
    return parse_lock(path.read_text(encoding="utf-8", errors="replace"), path.name)


def parse_lock(text: str, name: str) -> Lock:
    """Parse `name==version --hash=sha256:...` lines, a backslash continues one; BadConfig for any other line."""
    packages = []
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            packages.append(_parse_line(line, f"{name}, entry {number}"))
    if not packages:
        raise BadConfig(f"{name} locks no package", remedy="Write a lock with `edgekiln env lock -o FILE`.")
    return Lock(packages=tuple(packages), left_out={})


def _parse_line(line: str, where: str) -> Locked:
    asked, _, _ = line.partition("--hash=")
    hashes = tuple(_HASH.findall(line))
    problem = BadConfig(
        f"{where}: {line.strip()[:80]!r} is not name==version --hash=sha256:...",
        remedy="Write the lock again with `edgekiln env lock -o FILE`.",
    )
    try:
        wanted = Requirement(asked.strip())
    except InvalidRequirement:
        raise problem from None
    exact = [one.version for one in wanted.specifier if one.operator in {"==", "==="}]
    if len(exact) != 1 or len(wanted.specifier) != 1 or not hashes or exact[0].endswith(".*"):
        raise problem
    return Locked(name=str(canonicalize_name(wanted.name)), version=exact[0], sha256=hashes)


class Verified(Contract):
    """How an environment differs from a lock, the missing first; and whose archive's hash nothing here can tell."""

    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]


def verify(found: Survey, locked: Lock, wheelhouse: Path | None = None) -> Verified:
    """Compare an environment with a lock: versions, every installed file with its RECORD, archives where it can be.

    An archive's hash is the one pip wrote down, which it does for direct files alone; else the installed files are compared
    with the wheelhouse's wheel of that hash; without either it is told as unchecked.
    """
    here = {one.key: one for one in found.distributions}
    archives = _by_hash(wheelhouse) if wheelhouse else {}
    told = [difference for one in locked.packages if (difference := _differs(one, here.get(one.name), archives))]
    names = {one.name for one in locked.packages}
    wrong = {one.name for one in told}
    told += [_extra(one) for one in found.distributions if one.key not in {*names, *_INSTALLERS, *_without_hash(found)}]
    order = list(DifferenceKind)
    told.sort(key=lambda difference: (order.index(difference.kind), difference.name))
    right = [one for one in locked.packages if one.name not in wrong]
    unchecked = [one.name for one in right if not archive_sha256(here[one.name]) and not _wheels(one, archives)]
    return Verified(differences=tuple(told), unchecked=tuple(unchecked))


def _by_hash(wheelhouse: Path) -> dict[str, Path]:
    return {sha256_of(path): path for path in sorted(wheelhouse.iterdir()) if named_by(path)}


def _differs(one: Locked, here: Distribution | None, archives: Mapping[str, Path]) -> Difference | None:
    def differ(kind: DifferenceKind, evidence: str) -> Difference:
        version = here.version if here else None
        return Difference(kind=kind, name=one.name, locked=one.version, installed=version, evidence=evidence)

    if here is None:
        return differ(DifferenceKind.MISSING, "it is not installed")
    if _plain(here.version) != _plain(one.version):
        return differ(DifferenceKind.VERSION, f"{here.version} is installed")
    found = _other_content(one, here, archives)
    return differ(*found) if found else None


def _other_content(one: Locked, here: Distribution, archives: Mapping[str, Path]) -> tuple[DifferenceKind, str] | None:
    """Return how files of the right version differ."""
    if here.broken_count:
        return DifferenceKind.BROKEN, here.broken_files[0]
    came = archive_sha256(here)
    if came is not None and came not in one.sha256:
        return DifferenceKind.ARCHIVE, f"it was installed from a file with sha256 {came[:12]}"
    if changed := _changed(here):
        return DifferenceKind.CHANGED, f"{changed} is not as its RECORD has it"
    wheels = _wheels(one, archives)
    if wheels and not any(same_files(here, path) for path in wheels):
        return DifferenceKind.ARCHIVE, f"its files are not those of {wheels[0].name}"
    return None


def _wheels(one: Locked, archives: Mapping[str, Path]) -> list[Path]:
    return [archives[h] for h in one.sha256 if h in archives and archives[h].suffix == ".whl"]


def _changed(here: Distribution) -> str | None:
    """Return the first installed file whose hash is not the one RECORD tells; compiled files are made again by themselves."""
    record = Path(here.folder) / "RECORD"
    if here.editable or not record.is_file():
        return None
    for path, digest in _record(record.read_text(encoding="utf-8", errors="replace")):
        file = Path(here.folder).parent / path
        if digest.startswith("sha256=") and not path.endswith(".pyc") and _digest(file) != digest:
            return path
    return None


def _digest(path: Path) -> str | None:
    """Return a file's hash as RECORD writes it, None for one that cannot be read."""
    try:
        return f"sha256={base64.urlsafe_b64encode(bytes.fromhex(sha256_of(path))).rstrip(b'=').decode()}"
    except OSError:
        return None


def _extra(one: Distribution) -> Difference:
    return Difference(
        kind=DifferenceKind.EXTRA, name=one.key, locked=None, installed=one.version, evidence="the lock does not name it"
    )


def blocking(told: Iterable[Difference]) -> list[Difference]:
    """Return the differences that make it another set than the locked one."""
    return [difference for difference in told if difference.blocks]
