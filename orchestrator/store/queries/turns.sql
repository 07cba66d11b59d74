-- What decides whose turn it is.

-- name: queue
SELECT id, owner, priority, created_at, type, resources, not_before, sweep FROM jobs WHERE status = 'queued'

-- name: queue_length
SELECT count(*) AS n FROM jobs WHERE status = 'queued'

-- name: queue_events
SELECT id, job_id FROM events
WHERE type IN ('job_created', 'job_updated', 'status_changed') AND id > :after

-- name: queued_of
-- The plus keeps SQLite from going through all of the queue.
SELECT id, owner, priority, created_at, type, resources, not_before, sweep FROM jobs
WHERE +status = 'queued' AND id IN (SELECT value FROM json_each(:ids))

-- name: holdings
SELECT attempts.job_id, attempts.gpus, attempts.gpu_memory_mb, attempts.cpus, attempts.memory_mb, attempts.weight,
    coalesce(attempts.peak_gpu_memory_mb, 0) AS peak_gpu_memory_mb, attempts.created_at, attempts.ended_at, jobs.owner, jobs.priority, jobs.type, jobs.status, jobs.intent, jobs.sweep,
    json_extract(jobs.resources, '$.timeout_s') AS timeout_s, json_extract(jobs.progress, '$.eta_s') AS eta_s,
    (SELECT max(checkpoints.created_at) FROM checkpoints
     WHERE checkpoints.job_id = attempts.job_id AND checkpoints.attempt = attempts.number
         AND checkpoints.reason <> 'anomaly') AS saved_at
FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE attempts.released_at IS NULL ORDER BY attempts.created_at

-- name: durations
SELECT type, owner, (
    SELECT sum(attempts.ended_at - attempts.started_at) FROM attempts
    WHERE attempts.job_id = jobs.id AND attempts.started_at IS NOT NULL AND attempts.ended_at IS NOT NULL
) AS ran_s
FROM jobs INDEXED BY jobs_completed WHERE status = 'completed' ORDER BY completed_at DESC LIMIT :limit
