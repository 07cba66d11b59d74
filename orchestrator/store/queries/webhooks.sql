-- What the store runs about webhooks.

-- name: insert_webhook
-- It is told of what happens from now on.
INSERT INTO webhooks (id, url, description, events, statuses, owner, tag, created_at, cursor)
VALUES (:id, :url, :description, :events, :statuses, :owner, :tag, :created_at, (SELECT coalesce(max(id), 0) FROM events))

-- name: webhooks
SELECT * FROM webhooks ORDER BY created_at, id

-- name: webhook
SELECT * FROM webhooks WHERE id = :id

-- name: delete_webhook
DELETE FROM webhooks WHERE id = :id

-- name: disable_webhook
UPDATE webhooks SET disabled = :reason WHERE id = :id AND disabled IS NULL

-- name: enable_webhook
UPDATE webhooks SET disabled = NULL, tries = 0, next_try_at = 0,
    cursor = CASE WHEN :skip THEN (SELECT coalesce(max(id), 0) FROM events) ELSE cursor END
WHERE id = :id

-- name: newest_event_id
SELECT coalesce(max(id), 0) AS id FROM events

-- name: events_for_webhook
-- kinds: [{type, to}] with "to" empty for any. The index holds nothing of the flood of figures.
SELECT events.*, jobs.name AS job_name, jobs.type AS job_type, jobs.owner AS job_owner,
    (SELECT json_group_array(tag) FROM (SELECT tag FROM job_tags WHERE job_id = jobs.id ORDER BY place)) AS job_tags
FROM events INDEXED BY events_to_tell JOIN jobs ON jobs.id = events.job_id
WHERE events.id > :after AND events.type NOT IN ('metrics', 'progress')
    AND EXISTS (
        SELECT 1 FROM json_each(:kinds) AS kind
        WHERE kind.value ->> 'type' = events.type
            AND (kind.value ->> 'to' IS NULL OR kind.value ->> 'to' = events.data ->> 'to')
    )
    AND (:statuses = '[]' OR events.type != 'status_changed'
        OR events.data ->> 'to' IN (SELECT value FROM json_each(:statuses)))
    AND (:owner IS NULL OR jobs.owner = :owner)
    AND (:tag IS NULL OR EXISTS (SELECT 1 FROM job_tags WHERE job_tags.job_id = jobs.id AND job_tags.tag = :tag))
ORDER BY events.id LIMIT :limit

-- name: webhook_leftovers
SELECT * FROM webhook_leftovers WHERE webhook_id = :webhook_id AND id > :after ORDER BY id LIMIT :limit

-- name: keep_webhook_leftovers
-- As above, of the one job.
INSERT OR IGNORE INTO webhook_leftovers
    (webhook_id, id, job_id, attempt, seq, ts, type, data, job_name, job_type, job_owner, job_tags)
SELECT :webhook_id, events.id, events.job_id, attempt, seq, ts, events.type, data, jobs.name, jobs.type, jobs.owner,
    (SELECT json_group_array(tag) FROM (SELECT tag FROM job_tags WHERE job_id = jobs.id ORDER BY place))
FROM events JOIN jobs ON jobs.id = events.job_id
WHERE events.job_id = :job_id AND events.id > :after AND events.type NOT IN ('metrics', 'progress')
    AND EXISTS (
        SELECT 1 FROM json_each(:kinds) AS kind
        WHERE kind.value ->> 'type' = events.type
            AND (kind.value ->> 'to' IS NULL OR kind.value ->> 'to' = events.data ->> 'to')
    )
    AND (:statuses = '[]' OR events.type != 'status_changed'
        OR events.data ->> 'to' IN (SELECT value FROM json_each(:statuses)))
    AND (:owner IS NULL OR jobs.owner = :owner)
    AND (:tag IS NULL OR EXISTS (SELECT 1 FROM job_tags WHERE job_tags.job_id = jobs.id AND job_tags.tag = :tag))

-- name: trim_webhook_leftovers
DELETE FROM webhook_leftovers
WHERE webhook_id = :id AND id <= (SELECT cursor FROM webhooks WHERE webhooks.id = :id)

-- name: skip_webhook_leftovers
DELETE FROM webhook_leftovers WHERE webhook_id = :id

-- name: insert_webhook_try
INSERT INTO webhook_tries (webhook_id, event_id, type, number, at, duration_s, status_code, error)
SELECT :webhook_id, :event_id, :type, :number, :at, :duration_s, :status_code, :error
WHERE EXISTS (SELECT 1 FROM webhooks WHERE id = :webhook_id)

-- name: webhook_delivered
UPDATE webhooks SET cursor = :event_id, tries = 0, next_try_at = 0 WHERE id = :id AND cursor < :event_id

-- name: webhook_failed
UPDATE webhooks SET tries = :tries, next_try_at = :next_try_at, disabled = coalesce(disabled, :disabled) WHERE id = :id

-- name: trim_webhook_tries
DELETE FROM webhook_tries WHERE webhook_id = :id AND id <= (
    SELECT id FROM webhook_tries WHERE webhook_id = :id ORDER BY id DESC LIMIT 1 OFFSET :keep
)

-- name: webhook_tries
SELECT * FROM webhook_tries WHERE webhook_id = :id ORDER BY id DESC LIMIT :limit
