-- Many jobs from one request. varied: JSON list of the parameters that differ between them.
CREATE TABLE sweeps (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    type        TEXT NOT NULL,
    owner       TEXT NOT NULL,
    varied      TEXT NOT NULL,
    max_running INTEGER,
    created_at  REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sweeps_by_age ON sweeps (created_at);

ALTER TABLE jobs ADD COLUMN sweep TEXT REFERENCES sweeps (id);
CREATE INDEX jobs_by_sweep ON jobs (sweep, created_at) WHERE sweep IS NOT NULL;
