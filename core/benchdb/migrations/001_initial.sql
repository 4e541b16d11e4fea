-- The first schema. Keys are natural: hashes of what a row says, or ids that artifacts already have, so that the order
-- in which runs are ingested does not matter and the whole database can be made again from the artifacts.

CREATE TABLE artifacts (
    artifact_id    VARCHAR NOT NULL,
    content_digest VARCHAR NOT NULL,
    stage          VARCHAR NOT NULL CHECK (stage IN ('env', 'data', 'label', 'train', 'export', 'bench', 'ingest')),
    identity       VARCHAR NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    manifest       JSON NOT NULL,
    PRIMARY KEY (artifact_id, content_digest)
);

-- An edge keeps the digests, because an artifact made again with --force has its old id and other content.
CREATE TABLE lineage (
    child_id      VARCHAR NOT NULL,
    child_digest  VARCHAR NOT NULL,
    parent_id     VARCHAR NOT NULL,
    parent_digest VARCHAR NOT NULL,
    PRIMARY KEY (child_id, child_digest, parent_id, parent_digest)
);

-- host_id is the hash of the facts: a machine keeps its fingerprint when its kernel or RAM limit changes.
CREATE TABLE hosts (
    host_id     VARCHAR PRIMARY KEY,
    fingerprint VARCHAR NOT NULL,
    arch        VARCHAR NOT NULL,
    os          VARCHAR NOT NULL,
    cpu_model   VARCHAR,
    board_model VARCHAR,
    cpus_usable INTEGER NOT NULL CHECK (cpus_usable >= 1),
    ram_bytes   BIGINT,
    facts       JSON NOT NULL
);

CREATE TABLE memory_configs (
    memory_id       VARCHAR PRIMARY KEY,
    known           BOOLEAN NOT NULL,
    total_bytes     BIGINT,
    modules         INTEGER NOT NULL,
    configured_mts  INTEGER,
    theoretical_gbs DOUBLE,
    evidence        VARCHAR NOT NULL,
    facts           JSON NOT NULL
);

CREATE TABLE models (
    model_id         VARCHAR PRIMARY KEY,
    kind             VARCHAR NOT NULL CHECK (kind IN ('teacher', 'student', 'gguf')),
    name             VARCHAR NOT NULL,
    identity         VARCHAR,
    parameters       BIGINT,
    licence          VARCHAR NOT NULL,
    artifact_id      VARCHAR,
    quantisation     VARCHAR,
    file_bytes       BIGINT,
    bits_per_weight  DOUBLE,
    fallback_tensors INTEGER,
    accepted         BOOLEAN,
    CHECK (identity IS NOT NULL OR accepted IS FALSE), -- a rejected file is not kept, so nothing fixes its bytes
    CHECK ((kind = 'gguf') = (artifact_id IS NOT NULL AND quantisation IS NOT NULL))
);

-- A failed measurement is a row with its error and no number. origin has no default on purpose.
CREATE TABLE results (
    result_id          VARCHAR PRIMARY KEY,
    artifact_id        VARCHAR NOT NULL,
    device             VARCHAR NOT NULL,
    device_fingerprint VARCHAR NOT NULL,
    host_id            VARCHAR NOT NULL REFERENCES hosts (host_id),
    memory_id          VARCHAR NOT NULL REFERENCES memory_configs (memory_id),
    model_id           VARCHAR REFERENCES models (model_id),
    quantisation       VARCHAR NOT NULL,
    test               VARCHAR NOT NULL,
    n_prompt           INTEGER NOT NULL,
    n_gen              INTEGER NOT NULL,
    n_depth            INTEGER NOT NULL,
    threads            INTEGER NOT NULL,
    origin             VARCHAR NOT NULL CHECK (origin IN ('measured', 'emulated', 'simulated', 'vendor', 'predicted')),
    median_tps         DOUBLE CHECK (isfinite(median_tps) AND median_tps > 0),
    error              VARCHAR,
    raw                JSON NOT NULL,
    measured_at        TIMESTAMPTZ NOT NULL,
    CHECK ((error IS NULL) = (median_tps IS NOT NULL))
);

-- process_start is NULL where the raw records do not tell which start a sample came from.
CREATE TABLE samples (
    result_id     VARCHAR NOT NULL REFERENCES results (result_id),
    sample_index  INTEGER NOT NULL,
    process_start INTEGER,
    tps           DOUBLE NOT NULL CHECK (isfinite(tps)),
    PRIMARY KEY (result_id, sample_index)
);

-- Losses are mean cross-entropy in nats per completion token on the held-out rows.
CREATE TABLE quality (
    artifact_id    VARCHAR NOT NULL,
    content_digest VARCHAR NOT NULL,
    subject        VARCHAR NOT NULL CHECK (subject IN ('base', 'adapter', 'merged', 'quantisation')),
    quantisation   VARCHAR NOT NULL,
    held_out_loss  DOUBLE NOT NULL CHECK (isfinite(held_out_loss)),
    origin         VARCHAR NOT NULL CHECK (origin IN ('measured', 'emulated', 'simulated', 'vendor', 'predicted')),
    PRIMARY KEY (artifact_id, content_digest, subject, quantisation),
    CHECK ((subject = 'quantisation') = (quantisation <> ''))
);

CREATE TABLE ingests (
    artifact_id    VARCHAR NOT NULL,
    content_digest VARCHAR NOT NULL,
    results        INTEGER NOT NULL,
    failed         INTEGER NOT NULL,
    PRIMARY KEY (artifact_id, content_digest)
);
