-- What the store runs about pipelines and schedules, by name.

-- name: insert_pipeline
INSERT OR IGNORE INTO pipelines (id, name, owner, tags, created_at) VALUES (:id, :name, :owner, :tags, :created_at)

-- name: insert_step
INSERT OR IGNORE INTO pipeline_steps (pipeline, name, place, spec) VALUES (:pipeline, :name, :place, :spec)

-- name: pipeline
SELECT * FROM pipelines WHERE id = :id

-- name: pipelines
-- Of one owner and with steps of some types only, where these are given. A step keeps its type as it was asked for.
SELECT * FROM pipelines
WHERE (:owner IS NULL OR owner = :owner) AND (:types = '[]' OR NOT EXISTS (
    SELECT 1 FROM pipeline_steps WHERE pipeline = pipelines.id
    AND replace(json_extract(spec, '$.type'), '-', '_') NOT IN (SELECT value FROM json_each(:types))))
ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset

-- name: pipeline_steps
SELECT * FROM pipeline_steps WHERE pipeline = :pipeline ORDER BY place

-- name: waiting_pipelines
SELECT DISTINCT pipeline FROM pipeline_steps WHERE state = 'waiting'

-- name: settle_step
UPDATE pipeline_steps SET state = :state, job_id = :job_id, detail = :detail
WHERE pipeline = :pipeline AND name = :name AND state = 'waiting'

-- name: insert_schedule
INSERT INTO schedules (id, name, owner, cron, timezone, what, overlap, created_at, next_at)
VALUES (:id, :name, :owner, :cron, :timezone, :what, :overlap, :created_at, :next_at)

-- name: schedule
SELECT * FROM schedules WHERE id = :id

-- name: schedules
SELECT * FROM schedules ORDER BY created_at DESC, id DESC

-- name: due_schedules
SELECT * FROM schedules WHERE enabled AND next_at <= :now ORDER BY next_at

-- name: next_schedule
SELECT min(next_at) AS next_at FROM schedules WHERE enabled

-- name: advance_schedule
UPDATE schedules SET next_at = :next_at, last_at = :last_at, made = coalesce(:made, made), detail = :detail
WHERE id = :id AND next_at = :expected

-- name: enable_schedule
UPDATE schedules SET enabled = :enabled, next_at = :next_at WHERE id = :id

-- name: delete_schedule
DELETE FROM schedules WHERE id = :id
