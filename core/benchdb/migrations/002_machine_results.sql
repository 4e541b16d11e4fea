-- What a machine itself can do (`edgekiln env bench`): no model, no artifact. The files below machine-benchmarks/ of the
-- workspace are what these rows are made again from. A failed measurement is a row with its error and no number.
CREATE TABLE machine_results (
    result_id   VARCHAR PRIMARY KEY,
    run_id      VARCHAR NOT NULL,
    host_id     VARCHAR NOT NULL REFERENCES hosts (host_id),
    fingerprint VARCHAR NOT NULL,
    test        VARCHAR NOT NULL,
    device      VARCHAR NOT NULL,
    detail      VARCHAR NOT NULL,
    unit        VARCHAR NOT NULL,
    origin      VARCHAR NOT NULL CHECK (origin IN ('measured', 'emulated', 'simulated', 'vendor', 'predicted')),
    value       DOUBLE CHECK (isfinite(value) AND value > 0),
    error       VARCHAR,
    raw         JSON NOT NULL,
    measured_at TIMESTAMPTZ NOT NULL,
    CHECK ((error IS NULL) = (value IS NOT NULL))
);
