-- What is on its way out: marked before its first file goes, forgotten once the last has. What a crash left marked is
-- finished at the next start, and nobody begins to read it meanwhile.
ALTER TABLE jobs ADD COLUMN purging_at REAL;
ALTER TABLE checkpoints ADD COLUMN deleting_at REAL;
CREATE INDEX jobs_purging ON jobs (purging_at) WHERE purging_at IS NOT NULL;
CREATE INDEX checkpoints_deleting ON checkpoints (deleting_at) WHERE deleting_at IS NOT NULL;

-- Which files of another job, the source, a job reads: what it continues from and its inputs. Not a foreign key to the
-- source: a path may lie in a directory that only looks like a run's.
CREATE TABLE job_sources (
    job_id      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    source      TEXT NOT NULL,
    path        TEXT NOT NULL,
    PRIMARY KEY (source, job_id, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_sources_by_job ON job_sources (job_id);
INSERT OR IGNORE INTO job_sources (job_id, source, path)
    SELECT id, substr(resume_from, instr(resume_from, '/runs/') + 6, 36), resume_from FROM jobs
    WHERE resume_from LIKE '%/runs/%' AND substr(resume_from, instr(resume_from, '/runs/') + 6, 36) <> id;
INSERT OR IGNORE INTO job_sources (job_id, source, path)
    SELECT jobs.id, substr(input.value, instr(input.value, '/runs/') + 6, 36), input.value
    FROM jobs, json_each(jobs.inputs) AS input WHERE jobs.inputs LIKE '%/runs/%' AND input.value LIKE '%/runs/%';

-- Events of purged jobs that a webhook is still to be told of.
CREATE TABLE webhook_leftovers (
    webhook_id  TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    id          INTEGER NOT NULL,
    job_id      TEXT NOT NULL,
    attempt     INTEGER,
    seq         INTEGER,
    ts          REAL NOT NULL,
    type        TEXT NOT NULL,
    data        TEXT NOT NULL,
    job_name    TEXT NOT NULL,
    job_type    TEXT NOT NULL,
    job_owner   TEXT NOT NULL,
    job_tags    TEXT NOT NULL,
    PRIMARY KEY (webhook_id, id)
) STRICT, WITHOUT ROWID;
