-- Jobs in steps. A step's job comes into being once the steps that it needs have ended. spec: the step as it was asked
-- for, templates included.
CREATE TABLE pipelines (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    owner       TEXT NOT NULL,
    tags        TEXT NOT NULL,
    created_at  REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pipelines_by_age ON pipelines (created_at);

-- Not a foreign key to the job: a purged one has still been.
CREATE TABLE pipeline_steps (
    pipeline    TEXT NOT NULL REFERENCES pipelines (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    place       INTEGER NOT NULL,
    spec        TEXT NOT NULL,
    state       TEXT NOT NULL DEFAULT 'waiting',
    job_id      TEXT,
    detail      TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (pipeline, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX pipeline_steps_waiting ON pipeline_steps (pipeline) WHERE state = 'waiting';

-- Jobs and pipelines that are submitted again and again. what: JSON {"kind": "job" or "pipeline", "submission": ...}.
-- made: the one submitted last.
CREATE TABLE schedules (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    owner       TEXT NOT NULL,
    cron        TEXT NOT NULL,
    timezone    TEXT NOT NULL,
    what        TEXT NOT NULL,
    overlap     TEXT NOT NULL,
    enabled     INTEGER NOT NULL DEFAULT 1,
    created_at  REAL NOT NULL,
    next_at     REAL NOT NULL,
    last_at     REAL,
    made        TEXT,
    detail      TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (next_at) WHERE enabled;
