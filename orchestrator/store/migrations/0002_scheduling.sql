-- Retries: how a job wants them, how many it had in a row, and when the next one may start.
ALTER TABLE jobs ADD COLUMN retry TEXT NOT NULL DEFAULT '{}';
ALTER TABLE jobs ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN not_before REAL;

-- What an attempt was granted beside GPUs and cores. gpu_memory_mb: of a GPU it shares; empty when its GPUs are its own.
ALTER TABLE attempts ADD COLUMN memory_mb INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN gpu_memory_mb INTEGER;

-- One row per GPU and attempt that holds it. memory_mb is empty when it holds all of it: the trigger makes it impossible
-- that another one does, too.
CREATE TABLE new_leases (
    gpu         TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    memory_mb   INTEGER,
    PRIMARY KEY (gpu, job_id, attempt),
    FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number)
) STRICT, WITHOUT ROWID;
INSERT INTO new_leases (gpu, job_id, attempt) SELECT gpu, job_id, attempt FROM leases;
DROP TABLE leases;
ALTER TABLE new_leases RENAME TO leases;
CREATE INDEX leases_by_attempt ON leases (job_id, attempt);
CREATE TRIGGER leases_are_alone_or_shared BEFORE INSERT ON leases
WHEN EXISTS (SELECT 1 FROM leases WHERE gpu = NEW.gpu AND (memory_mb IS NULL OR NEW.memory_mb IS NULL))
BEGIN
    SELECT RAISE(ABORT, 'GPU is leased already');
END;

-- share: weight against other owners. usage: what the owner used up to usage_at, in weighted GPU seconds, decayed.
CREATE TABLE owners (
    owner       TEXT PRIMARY KEY,
    share       REAL NOT NULL DEFAULT 1,
    max_running INTEGER,
    max_gpus    INTEGER,
    max_queued  INTEGER,
    usage       REAL NOT NULL DEFAULT 0,
    usage_at    REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
