-- What was published where; made again from audit/publications.jsonl of the workspace. A repository has a commit (revision),
-- a prefix of a bucket a manifest.json, whose hash is manifest_sha256 (NULL for a publication of an edgekiln that kept none).
CREATE TABLE publications (
    publication_id  VARCHAR PRIMARY KEY,
    artifact_id     VARCHAR NOT NULL,
    seal            VARCHAR NOT NULL,
    place           VARCHAR NOT NULL,
    revision        VARCHAR,
    manifest_sha256 VARCHAR,
    edgekiln        VARCHAR NOT NULL,
    removed         JSON NOT NULL,
    published_at    TIMESTAMPTZ NOT NULL,
    CHECK (revision IS NULL OR manifest_sha256 IS NULL)
);

CREATE TABLE publication_files (
    publication_id VARCHAR NOT NULL REFERENCES publications (publication_id),
    path           VARCHAR NOT NULL,
    sha256         VARCHAR NOT NULL,
    bytes          BIGINT NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (publication_id, path)
);
