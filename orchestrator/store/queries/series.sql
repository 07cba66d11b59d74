-- What the store runs about measurements, by name.

-- name: put_sample
-- Measured again, the newest value of each name stands.
INSERT INTO samples (job_id, kind, step, ts, vals) VALUES (:job_id, :kind, :step, :ts, :vals)
ON CONFLICT (job_id, kind, step) DO UPDATE SET ts = excluded.ts, vals = json_patch(vals, excluded.vals)

-- name: samples
SELECT step, ts, vals FROM samples WHERE job_id = :job_id AND kind = :kind ORDER BY step

-- name: drop_samples
DELETE FROM samples WHERE job_id = :job_id AND kind = :kind AND step >= :step

-- name: head
SELECT attempt, unsealed, revision FROM series_heads WHERE job_id = :job_id AND kind = :kind

-- name: advance_head
INSERT INTO series_heads (job_id, kind, attempt, unsealed) VALUES (:job_id, :kind, :attempt, :added)
ON CONFLICT (job_id, kind) DO UPDATE
SET attempt = max(attempt, excluded.attempt), unsealed = unsealed + excluded.unsealed, revision = revision + 1

-- name: claim_sealing
UPDATE series_heads SET unsealed = 0, revision = revision + 1
WHERE job_id = :job_id AND kind = :kind AND revision = :revision

-- name: series
SELECT id, name FROM series WHERE job_id = :job_id AND kind = :kind

-- name: put_series
INSERT OR IGNORE INTO series (job_id, kind, name) VALUES (:job_id, :kind, :name)

-- name: drop_empty_series
DELETE FROM series WHERE job_id = :job_id AND kind = :kind AND NOT EXISTS (SELECT 1 FROM chunks WHERE series = series.id)

-- name: chunk_stats
SELECT number, first_step, last_step, stats FROM chunks
WHERE series = :series AND last_step >= :start AND first_step <= :end ORDER BY number

-- name: last_chunk
SELECT number, last_step FROM chunks WHERE series = :series ORDER BY number DESC LIMIT 1

-- name: chunk_columns
SELECT number, first_step, last_step, steps, times, vals FROM chunks
WHERE series = :series AND number BETWEEN :low AND :high ORDER BY number

-- name: put_chunk
INSERT OR REPLACE INTO chunks (series, number, first_step, last_step, stats, steps, times, vals)
VALUES (:series, :number, :first_step, :last_step, :stats, :steps, :times, :vals)

-- name: drop_chunks
DELETE FROM chunks WHERE series = :series AND number >= :number

-- name: chunk_with
-- The first chunk with a point from this step on.
SELECT number FROM chunks WHERE series = :series AND last_step >= :step ORDER BY number LIMIT 1

-- name: chunk_edges
-- Where the chunks of the job's longest series begin.
SELECT first_step FROM chunks WHERE series = (
    SELECT series FROM chunks JOIN series ON series.id = chunks.series
    WHERE job_id = :job_id AND kind = :kind GROUP BY series ORDER BY count(*) DESC, series LIMIT 1
) AND last_step >= :start AND first_step <= :end ORDER BY number

-- name: raise_peaks
UPDATE attempts SET
    peak_memory_mb = coalesce(max(peak_memory_mb, :memory_mb), peak_memory_mb, :memory_mb),
    peak_gpu_memory_mb = coalesce(max(peak_gpu_memory_mb, :gpu_memory_mb), peak_gpu_memory_mb, :gpu_memory_mb)
WHERE job_id = :job_id AND number = :attempt

-- name: newest_event_of_job
SELECT coalesce(max(id), 0) AS id FROM events WHERE job_id = :job_id
