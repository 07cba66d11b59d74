-- What the store runs to put ended jobs aside.

-- name: to_archive
-- Ended before the given time, nothing of them runs, and nothing that may still run reads their files.
SELECT id FROM jobs
WHERE archived_at IS NULL AND purging_at IS NULL
    AND status IN ('completed', 'stopped', 'failed', 'cancelled') AND completed_at < :before
    AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id AND released_at IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM job_sources JOIN jobs AS readers ON readers.id = job_sources.job_id
        WHERE job_sources.source = jobs.id AND readers.status NOT IN ('completed', 'stopped', 'failed', 'cancelled')
    )
ORDER BY completed_at LIMIT :limit OFFSET :offset

-- name: count_to_archive
SELECT count(*) AS n FROM jobs
WHERE archived_at IS NULL AND purging_at IS NULL
    AND status IN ('completed', 'stopped', 'failed', 'cancelled') AND completed_at < :before
    AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id AND released_at IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM job_sources JOIN jobs AS readers ON readers.id = job_sources.job_id
        WHERE job_sources.source = jobs.id AND readers.status NOT IN ('completed', 'stopped', 'failed', 'cancelled')
    )

-- name: continued_from
-- Checkpoints of a job that any job was to continue from.
SELECT DISTINCT resume_from FROM jobs WHERE resume_from >= :folder AND resume_from < :after

-- name: archive_job
UPDATE jobs SET archived_at = :now
WHERE id = :id AND archived_at IS NULL AND status IN ('completed', 'stopped', 'failed', 'cancelled')

-- name: all_job_ids
SELECT id FROM jobs
