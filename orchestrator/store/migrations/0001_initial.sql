-- Times are seconds since the epoch. JSON columns hold what the domain parses; nothing else reads them.

CREATE TABLE jobs (
    id              TEXT PRIMARY KEY,
    type            TEXT NOT NULL,
    name            TEXT NOT NULL,
    owner           TEXT NOT NULL,
    priority        INTEGER NOT NULL,
    params          TEXT NOT NULL,
    inputs          TEXT,
    resources       TEXT NOT NULL,
    status          TEXT NOT NULL,
    intent          TEXT NOT NULL DEFAULT 'run',
    phase           TEXT NOT NULL DEFAULT '',
    created_at      REAL NOT NULL,
    started_at      REAL,
    completed_at    REAL,
    failure         TEXT,
    restarted_from  TEXT,
    resume_from     TEXT,
    attempts        INTEGER NOT NULL DEFAULT 0,
    progress        TEXT,
    metrics         TEXT,
    results         TEXT,
    model           TEXT GENERATED ALWAYS AS (json_extract(params, '$.model')) VIRTUAL,
    dataset         TEXT GENERATED ALWAYS AS (json_extract(params, '$.dataset')) VIRTUAL
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, priority DESC, created_at);
CREATE INDEX jobs_by_age ON jobs (created_at);
CREATE INDEX jobs_by_type ON jobs (type, created_at);
CREATE INDEX jobs_by_owner ON jobs (owner, created_at);
CREATE INDEX jobs_by_model ON jobs (model, created_at);
CREATE INDEX jobs_by_dataset ON jobs (dataset, created_at);

CREATE TABLE job_tags (
    job_id  TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    tag     TEXT NOT NULL,
    place   INTEGER NOT NULL,
    PRIMARY KEY (tag, job_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_tags_by_job ON job_tags (job_id);

CREATE TABLE submissions (
    idempotency_key TEXT PRIMARY KEY,
    request_digest  TEXT NOT NULL,
    job_id          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX submissions_by_job ON submissions (job_id);

-- released_at: when its container was seen gone. Until then somebody has to look after it.
CREATE TABLE attempts (
    job_id          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number          INTEGER NOT NULL,
    executor        TEXT NOT NULL,
    handle          TEXT,
    gpus            TEXT NOT NULL,
    cpus            REAL NOT NULL,
    resume_from     TEXT,
    created_at      REAL NOT NULL,
    started_at      REAL,
    ended_at        REAL,
    released_at     REAL,
    exit_code       INTEGER,
    end_reason      TEXT,
    detail          TEXT,
    events_offset   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_unreleased ON attempts (created_at) WHERE released_at IS NULL;

-- One row per leased GPU: the primary key makes a double lease impossible.
CREATE TABLE leases (
    gpu     TEXT PRIMARY KEY,
    job_id  TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_attempt ON leases (job_id, attempt);

-- attempt and seq are empty for the orchestrator's own events. AUTOINCREMENT: an id is never given twice.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id  TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt INTEGER,
    seq     INTEGER,
    ts      REAL NOT NULL,
    type    TEXT NOT NULL,
    data    TEXT NOT NULL,
    UNIQUE (job_id, attempt, seq)
) STRICT;
CREATE INDEX events_by_job ON events (job_id, id);

CREATE TABLE metrics (
    job_id  TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step    INTEGER NOT NULL,
    ts      REAL NOT NULL,
    vals    TEXT NOT NULL,
    PRIMARY KEY (job_id, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    job_id      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt     INTEGER NOT NULL,
    name        TEXT NOT NULL,
    step        INTEGER NOT NULL,
    loss        REAL,
    size_bytes  INTEGER NOT NULL,
    digest      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    created_at  REAL NOT NULL,
    PRIMARY KEY (job_id, attempt, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    job_id      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt     INTEGER NOT NULL,
    path        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    digest      TEXT NOT NULL,
    created_at  REAL NOT NULL,
    PRIMARY KEY (job_id, attempt, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE commands (
    id              TEXT PRIMARY KEY,
    job_id          TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt         INTEGER NOT NULL,
    body            TEXT NOT NULL,
    requested_at    REAL NOT NULL,
    status          TEXT NOT NULL DEFAULT 'requested',
    settled_at      REAL,
    detail          TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX commands_by_job ON commands (job_id, requested_at);
