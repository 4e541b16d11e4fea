-- The RAM each file needs with a KV cache of n_ctx tokens: a row for what its header says (predicted), another for the peak
-- that was measured and where.
CREATE TABLE memory_needs (
    artifact_id    VARCHAR NOT NULL,
    content_digest VARCHAR NOT NULL,
    quantisation   VARCHAR NOT NULL,
    n_ctx          INTEGER NOT NULL CHECK (n_ctx >= 1),
    origin         VARCHAR NOT NULL CHECK (origin IN ('measured', 'emulated', 'simulated', 'vendor', 'predicted')),
    bytes          BIGINT NOT NULL CHECK (bytes > 0),
    measured_on    VARCHAR,
    PRIMARY KEY (artifact_id, content_digest, quantisation, origin),
    CHECK ((origin = 'predicted') = (measured_on IS NULL))
);
