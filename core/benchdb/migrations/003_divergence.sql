-- How far each file's next tokens are from the F32 file's (llama-perplexity), in nats a token; an _error is one standard
-- error of the mean.
CREATE TABLE divergences (
    artifact_id          VARCHAR NOT NULL,
    content_digest       VARCHAR NOT NULL,
    quantisation         VARCHAR NOT NULL,
    n_ctx                INTEGER NOT NULL,
    chunks               INTEGER NOT NULL,
    perplexity           DOUBLE NOT NULL CHECK (isfinite(perplexity)),
    reference_perplexity DOUBLE NOT NULL CHECK (isfinite(reference_perplexity)),
    perplexity_ratio     DOUBLE NOT NULL CHECK (isfinite(perplexity_ratio)),
    kl_mean              DOUBLE NOT NULL CHECK (isfinite(kl_mean)),
    kl_mean_error        DOUBLE NOT NULL CHECK (isfinite(kl_mean_error)),
    kl_p99               DOUBLE NOT NULL CHECK (isfinite(kl_p99)),
    kl_max               DOUBLE NOT NULL CHECK (isfinite(kl_max)),
    same_top_share       DOUBLE NOT NULL CHECK (isfinite(same_top_share)),
    origin               VARCHAR NOT NULL CHECK (origin IN ('measured', 'emulated', 'simulated', 'vendor', 'predicted')),
    PRIMARY KEY (artifact_id, content_digest, quantisation)
);
