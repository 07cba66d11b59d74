-- What the store runs about owners.

-- name: owners
SELECT * FROM owners

-- name: owner
SELECT * FROM owners WHERE owner = :owner

-- name: put_owner
INSERT INTO owners (owner, share, max_running, max_gpus, max_queued)
VALUES (:owner, :share, :max_running, :max_gpus, :max_queued)
ON CONFLICT (owner) DO UPDATE SET share = :share, max_running = :max_running, max_gpus = :max_gpus,
    max_queued = :max_queued

-- name: charge_owner
INSERT INTO owners (owner, usage, usage_at) VALUES (:owner, :usage, :now)
ON CONFLICT (owner) DO UPDATE SET usage = :usage, usage_at = :now

-- name: attempt_use
SELECT jobs.owner, attempts.weight, attempts.created_at FROM attempts JOIN jobs ON jobs.id = attempts.job_id
WHERE attempts.job_id = :job_id AND attempts.number = :number

-- name: queue_full
SELECT max_queued FROM owners
WHERE owner = :owner AND max_queued <= (SELECT count(*) FROM jobs WHERE jobs.owner = :owner AND status = 'queued')

-- name: queued_by_owner
SELECT owner, count(*) AS n FROM jobs INDEXED BY jobs_queued_by_owner WHERE status = 'queued' GROUP BY owner
