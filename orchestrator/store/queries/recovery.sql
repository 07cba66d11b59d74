-- What the store runs to take over what run directories tell and it does not know.

-- name: known_attempts
SELECT jobs.id AS job_id, jobs.status, attempts.number, attempts.ended_at IS NOT NULL AS ended
FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id

-- name: any_job
SELECT 1 FROM jobs LIMIT 1

-- name: rebuild_attempt
UPDATE attempts SET ended_at = :ended_at, released_at = :ended_at, exit_code = :exit_code, end_reason = :end_reason,
    detail = :detail, started_at = coalesce(started_at, :started_at)
WHERE job_id = :job_id AND number = :number

-- name: rebuild_job
UPDATE jobs SET status = :status, intent = :intent, phase = '', attempts = :attempts,
    started_at = coalesce(started_at, :started_at), completed_at = :completed_at, failure = :failure,
    resume_from = coalesce(:resume_from, resume_from), retries = coalesce(:retries, retries), not_before = :not_before
WHERE id = :id

-- name: take_lease
DELETE FROM leases WHERE gpu = :gpu AND (memory_mb IS NULL OR :memory_mb IS NULL)

-- name: shares_history
-- An event of the orchestrator's own under the same id and at the same moment: one of the two was a copy of the other.
SELECT 1 FROM main.events AS ours JOIN replaced.events AS theirs ON theirs.id = ours.id
WHERE ours.type = 'job_created' AND theirs.type = 'job_created' AND theirs.job_id = ours.job_id AND theirs.ts = ours.ts LIMIT 1

-- name: find_ended_meanwhile
-- Jobs that wait or run here, and had ended there in no later attempt, or were purged there.
CREATE TEMP TABLE ended_meanwhile AS
SELECT ours.id, ours.status AS before, coalesce(theirs.status, 'cancelled') AS status,
    coalesce(theirs.completed_at, :now) AS completed_at
FROM main.jobs AS ours LEFT JOIN replaced.jobs AS theirs ON theirs.id = ours.id
WHERE ours.status NOT IN ('completed', 'stopped', 'failed', 'cancelled')
    AND (theirs.id IS NULL OR (theirs.attempts <= ours.attempts
        AND theirs.status IN ('completed', 'stopped', 'failed', 'cancelled')))

-- name: tell_ended_meanwhile
INSERT INTO main.events (job_id, ts, type, data)
SELECT id, :now, 'status_changed', json_object('from', before, 'to', status, 'reason', 'it had ended before the backup was put back')
FROM ended_meanwhile

-- name: end_attempts_meanwhile
UPDATE main.attempts SET ended_at = coalesce(ended_at, :now), released_at = :now, end_reason = coalesce(end_reason, 'lost')
WHERE released_at IS NULL AND job_id IN (SELECT id FROM ended_meanwhile)

-- name: free_meanwhile
DELETE FROM main.leases WHERE job_id IN (SELECT id FROM ended_meanwhile)

-- name: end_meanwhile
UPDATE main.jobs SET phase = '', not_before = NULL,
    status = (SELECT status FROM ended_meanwhile WHERE ended_meanwhile.id = jobs.id),
    intent = CASE (SELECT status FROM ended_meanwhile WHERE ended_meanwhile.id = jobs.id)
        WHEN 'cancelled' THEN 'cancel' WHEN 'stopped' THEN 'stop' ELSE intent END,
    completed_at = (SELECT completed_at FROM ended_meanwhile WHERE ended_meanwhile.id = jobs.id)
WHERE id IN (SELECT id FROM ended_meanwhile)
