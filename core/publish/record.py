"""What was published where: a line for each time in one append-only file of the workspace, for the artifact itself never changes."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import AwareDatetime, ValidationError

from core.contract import ArtifactId, Contract, Sha256
from core.errors import ManifestBroken
from core.files import append_line
from core.workspace import Workspace


class PublishedFile(Contract):
    """One file as it lies there."""

    path: str
    sha256: Sha256
    bytes: int


class Publication(Contract):
    """A model at an address: `revision` is the commit in a repository, `manifest_sha256` is of a prefix's `manifest.json`.

    `removed` are files of an earlier publication that were taken away with it.
    """

    at: AwareDatetime
    artifact_id: ArtifactId
    seal: Sha256
    edgekiln: str
    to: str
    revision: str | None
    manifest_sha256: Sha256 | None = None
    files: tuple[PublishedFile, ...]
    removed: tuple[str, ...] = ()

    def is_as(self, other: Publication) -> bool:
        """Say whether both tell of the same files at the same place."""
        without = {"at", "edgekiln", "removed"}
        return self.model_dump(exclude=without) == other.model_dump(exclude=without)


def record(workspace: Workspace, publication: Publication) -> None:
    """Add a line, unless the last one of that address tells the same."""
    before = [one for one in publications(workspace) if one.to == publication.to]
    if not before or not before[-1].is_as(publication):
        append_line(workspace.publications, publication.model_dump_json().encode())


def publications(workspace: Workspace) -> list[Publication]:
    """Return all publications, oldest first; ManifestBroken for a line that nobody wrote so."""
    found = []
    for number, told in _lines(workspace):
        if isinstance(told, ValidationError):
            raise ManifestBroken(
                f"{workspace.publications}, line {number}: {told.errors()[0]['msg']}",
                remedy="Take that line out of the file.",
            ) from told
        found.append(told)
    return found


def readable_publications(workspace: Workspace) -> list[Publication]:
    """Return the publications, oldest first, for what must not end at a broken line; `edgekiln models` tells of one."""
    return [told for _, told in _lines(workspace) if isinstance(told, Publication)]


def _lines(workspace: Workspace) -> Iterator[tuple[int, Publication | ValidationError]]:
    path = workspace.publications
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield number, Publication.model_validate_json(line)
        except ValidationError as error:
            yield number, error
