-- Requests for sweeps and pipelines by their idempotency keys. made: the sweep's or the pipeline's id.
CREATE TABLE batch_submissions (
    idempotency_key TEXT PRIMARY KEY,
    request_digest  TEXT NOT NULL,
    made            TEXT NOT NULL
) STRICT, WITHOUT ROWID;
