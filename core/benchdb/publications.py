"""What the database says about what was published where: rows by table. No SQL, no connection."""

from __future__ import annotations

from collections.abc import Mapping

from core.benchdb.projection import Row
from core.files import canonical_json, digest_of
from core.publish.record import Publication

TABLES = ("publications", "publication_files")
"""In the order in which rows may be inserted."""


def rows_of(publication: Publication) -> Mapping[str, list[Row]]:
    """Return a publication's rows by table; its key is the hash of all it says."""
    publication_id = digest_of(publication.model_dump(mode="json"))
    row = {
        "publication_id": publication_id,
        **publication.model_dump(include={"artifact_id", "seal", "revision", "manifest_sha256", "edgekiln"}),
        "place": publication.to,
        "removed": canonical_json(list(publication.removed)).decode(),
        "published_at": publication.at,
    }
    files = [{"publication_id": publication_id, **file.model_dump()} for file in publication.files]
    return {"publications": [row], "publication_files": files}
