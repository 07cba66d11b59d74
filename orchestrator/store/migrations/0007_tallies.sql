-- Counts for monitoring. They only ever grow: what is purged has happened all the same.
CREATE TABLE tallies (
    name    TEXT NOT NULL,
    label   TEXT NOT NULL,
    value   REAL NOT NULL,
    PRIMARY KEY (name, label)
) STRICT, WITHOUT ROWID;

-- attempts: how many lasted at most ``le`` seconds.
CREATE TABLE attempt_durations (
    le          REAL PRIMARY KEY,
    attempts    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO attempt_durations (le) VALUES (1), (10), (60), (300), (1800), (7200), (28800), (86400), (604800), (9e999);

CREATE INDEX attempts_by_begin ON attempts (created_at);
CREATE INDEX attempts_by_end ON attempts (ended_at) WHERE ended_at IS NOT NULL;

-- What happened before this migration counts too.
INSERT INTO tallies SELECT 'jobs_submitted', type, count(*) FROM jobs GROUP BY type;
INSERT INTO tallies SELECT 'jobs_ended', status, count(*) FROM jobs
    WHERE status IN ('completed', 'stopped', 'failed', 'cancelled') GROUP BY status;
INSERT INTO tallies SELECT 'attempts_begun', executor, count(*) FROM attempts GROUP BY executor;
INSERT INTO tallies SELECT 'attempts_ended', coalesce(end_reason, 'lost'), count(*) FROM attempts
    WHERE ended_at IS NOT NULL GROUP BY coalesce(end_reason, 'lost');
INSERT INTO tallies SELECT 'attempt_seconds', '', coalesce(sum(max(0, ended_at - coalesce(started_at, created_at))), 0.0)
    FROM attempts WHERE ended_at IS NOT NULL;
UPDATE attempt_durations SET attempts = (
    SELECT count(*) FROM attempts WHERE ended_at - coalesce(started_at, created_at) <= le
);

CREATE TRIGGER tally_submitted AFTER INSERT ON jobs
BEGIN
    INSERT INTO tallies VALUES ('jobs_submitted', NEW.type, 1) ON CONFLICT DO UPDATE SET value = value + 1;
END;

CREATE TRIGGER tally_job_ended AFTER UPDATE OF status ON jobs
WHEN NEW.status IN ('completed', 'stopped', 'failed', 'cancelled') AND NEW.status <> OLD.status
BEGIN
    INSERT INTO tallies VALUES ('jobs_ended', NEW.status, 1) ON CONFLICT DO UPDATE SET value = value + 1;
END;

CREATE TRIGGER tally_begun AFTER INSERT ON attempts
BEGIN
    INSERT INTO tallies VALUES ('attempts_begun', NEW.executor, 1) ON CONFLICT DO UPDATE SET value = value + 1;
END;

CREATE TRIGGER tally_attempt_ended AFTER UPDATE OF ended_at ON attempts
WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
BEGIN
    INSERT INTO tallies VALUES ('attempts_ended', coalesce(NEW.end_reason, 'lost'), 1)
        ON CONFLICT DO UPDATE SET value = value + 1;
    INSERT INTO tallies VALUES ('attempt_seconds', '', max(0, NEW.ended_at - coalesce(NEW.started_at, NEW.created_at)))
        ON CONFLICT DO UPDATE SET value = value + excluded.value;
    UPDATE attempt_durations SET attempts = attempts + 1
        WHERE le >= NEW.ended_at - coalesce(NEW.started_at, NEW.created_at);
END;
