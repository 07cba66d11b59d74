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
