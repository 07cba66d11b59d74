-- What the store runs about sweeps, by name.

-- name: insert_sweep
INSERT INTO sweeps (id, name, type, owner, varied, max_running, created_at)
VALUES (:id, :name, :type, :owner, :varied, :max_running, :created_at)

-- name: sweep
SELECT * FROM sweeps WHERE id = :id

-- name: sweeps
-- Of one owner and some types only, where these are given.
SELECT * FROM sweeps
WHERE (:owner IS NULL OR owner = :owner) AND (:types = '[]' OR type IN (SELECT value FROM json_each(:types)))
ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset

-- name: set_max_running
UPDATE sweeps SET max_running = :max_running WHERE id = :id

-- name: count_sweep
SELECT status, count(*) AS n FROM jobs WHERE sweep = :id GROUP BY status

-- name: sweep_limits
SELECT id, max_running FROM sweeps
WHERE max_running IS NOT NULL AND EXISTS (SELECT 1 FROM jobs WHERE jobs.sweep = sweeps.id AND jobs.status = 'queued')
