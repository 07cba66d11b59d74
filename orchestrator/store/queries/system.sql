-- What the store runs about the whole of the queue, by name.

-- name: oldest_queued
SELECT min(created_at) AS since FROM jobs WHERE status = 'queued'

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
