-- What jobs measured. Fresh points are rows, one a step; from some number on they are sealed into chunks, one series each.
-- kind: 'metrics' by optimiser step, 'resources' by milliseconds since the epoch.
CREATE TABLE samples (
    job_id  TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind    TEXT NOT NULL,
    step    INTEGER NOT NULL,
    ts      REAL NOT NULL,
    vals    TEXT NOT NULL,
    PRIMARY KEY (job_id, kind, step)
) STRICT, WITHOUT ROWID;

-- attempt: the newest that measured. unsealed: at least as many samples wait to be sealed. revision: rises with every change.
CREATE TABLE series_heads (
    job_id      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind        TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    unsealed    INTEGER NOT NULL,
    revision    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE series (
    id      INTEGER PRIMARY KEY,
    job_id  TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    UNIQUE (job_id, kind, name)
) STRICT;

-- The n-th chunk of a series holds its points from 1024 n on. Columns are packed little-endian: steps as 64 bit integers
-- (empty where they are evenly spaced), times and values as doubles.
CREATE TABLE chunks (
    series      INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    first_step  INTEGER NOT NULL,
    last_step   INTEGER NOT NULL,
    stats       BLOB NOT NULL,
    steps       BLOB,
    times       BLOB NOT NULL,
    vals        BLOB NOT NULL,
    PRIMARY KEY (series, number)
) STRICT;

INSERT INTO samples (job_id, kind, step, ts, vals) SELECT job_id, 'metrics', step, ts, vals FROM metrics;
INSERT INTO series_heads (job_id, kind, attempt, unsealed)
SELECT job_id, 'metrics', (SELECT max(attempts) FROM jobs WHERE id = job_id), count(*) FROM metrics GROUP BY job_id;
DROP TABLE metrics;

-- The most an attempt was seen to use: of memory, and of the memory of one GPU.
ALTER TABLE attempts ADD COLUMN peak_memory_mb INTEGER;
ALTER TABLE attempts ADD COLUMN peak_gpu_memory_mb INTEGER;
