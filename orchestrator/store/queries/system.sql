-- What the store runs about the whole of the queue, by name.

-- name: oldest_queued
SELECT min(created_at) AS since FROM jobs WHERE status = 'queued'

-- name: jobs_within
SELECT status, count(*) AS n, min(created_at) AS since FROM jobs
WHERE (:owner IS NULL OR owner = :owner) AND (:types = '[]' OR type IN (SELECT value FROM json_each(:types)))
GROUP BY status

-- name: attempts_within
SELECT count(*) FILTER (WHERE attempts.created_at >= :since) AS begun,
    count(*) FILTER (WHERE attempts.ended_at >= :since) AS ended,
    count(*) FILTER (WHERE attempts.released_at IS NULL AND attempts.ended_at IS NULL) AS running
FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE (attempts.created_at >= :since OR attempts.ended_at >= :since OR attempts.released_at IS NULL)
    AND (:owner IS NULL OR jobs.owner = :owner)
    AND (:types = '[]' OR jobs.type IN (SELECT value FROM json_each(:types)))

-- name: attempts_begun_since
SELECT count(*) AS n FROM attempts WHERE created_at >= :since

-- name: attempts_ended_since
SELECT count(*) AS n FROM attempts WHERE ended_at >= :since

-- name: count_running_attempts
SELECT count(*) AS n FROM attempts WHERE released_at IS NULL AND ended_at IS NULL

-- name: tallies
SELECT name, label, value FROM tallies ORDER BY name, label

-- name: attempt_durations
SELECT le, attempts FROM attempt_durations ORDER BY le

-- name: events_ever
SELECT seq FROM sqlite_sequence WHERE name = 'events'
