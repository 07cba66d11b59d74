-- What the store reads of events, by name. A filter is a JSON list of [type, status that it tells of or null].

-- name: events
SELECT * FROM events WHERE id > :after AND (:kinds IS NULL OR EXISTS (
    SELECT 1 FROM json_each(:kinds) AS kind WHERE json_extract(kind.value, '$[0]') = events.type
    AND coalesce(json_extract(kind.value, '$[1]') = json_extract(events.data, '$.to'), json_extract(kind.value, '$[1]') IS NULL)))
ORDER BY id LIMIT :limit

-- name: job_events
SELECT * FROM events WHERE job_id = :job_id AND id > :after AND (:kinds IS NULL OR EXISTS (
    SELECT 1 FROM json_each(:kinds) AS kind WHERE json_extract(kind.value, '$[0]') = events.type
    AND coalesce(json_extract(kind.value, '$[1]') = json_extract(events.data, '$.to'), json_extract(kind.value, '$[1]') IS NULL)))
ORDER BY id LIMIT :limit

-- name: thin_events
-- The newest of those that only tell how far a job is stay; what they measured is in the metrics. Of messages those stay
-- too that a webhook is still to be told of.
DELETE FROM events WHERE job_id = :job_id AND type IN ('metrics', 'progress', 'message') AND id < (
    SELECT id FROM events WHERE job_id = :job_id AND type IN ('metrics', 'progress', 'message')
    ORDER BY id DESC LIMIT 1 OFFSET :keep - 1)
    AND (type <> 'message' OR NOT EXISTS (
        SELECT 1 FROM webhooks WHERE cursor < events.id AND 'message' IN (SELECT value FROM json_each(webhooks.events))
            AND (owner IS NULL OR owner = (SELECT jobs.owner FROM jobs WHERE jobs.id = :job_id))
            AND (tag IS NULL OR tag IN (SELECT job_tags.tag FROM job_tags WHERE job_tags.job_id = :job_id))))
