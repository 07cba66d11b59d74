-- API keys, and what those see that are limited to some jobs.

-- name: insert_key
INSERT INTO api_keys (id, name, role, owner, types, digest, created_at, created_by, expires_at)
VALUES (:id, :name, :role, :owner, :types, :digest, :created_at, :created_by, :expires_at)

-- name: keys
SELECT * FROM api_keys ORDER BY created_at DESC, id

-- name: revoke_key
UPDATE api_keys SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL

-- name: touch_key
UPDATE api_keys SET last_used_at = :used WHERE id = :id

-- name: events_within
SELECT events.* FROM events JOIN jobs ON jobs.id = events.job_id
WHERE events.id > :after AND (:owner IS NULL OR jobs.owner = :owner)
    AND (:types = '[]' OR jobs.type IN (SELECT value FROM json_each(:types)))
    AND (:kinds IS NULL OR EXISTS (
        SELECT 1 FROM json_each(:kinds) AS kind WHERE json_extract(kind.value, '$[0]') = events.type
        AND coalesce(json_extract(kind.value, '$[1]') = json_extract(events.data, '$.to'), json_extract(kind.value, '$[1]') IS NULL)))
ORDER BY events.id LIMIT :limit

-- name: saes_within
SELECT artifacts.* FROM artifacts JOIN jobs ON jobs.id = artifacts.job_id
WHERE artifacts.kind = 'sae' AND (:owner IS NULL OR jobs.owner = :owner)
    AND (:types = '[]' OR jobs.type IN (SELECT value FROM json_each(:types)))
ORDER BY artifacts.created_at DESC LIMIT 1000
