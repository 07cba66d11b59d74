-- What the store runs about jobs, by name.

-- name: insert_job
INSERT INTO jobs (id, type, name, owner, priority, params, inputs, secrets, resources, retry, status, created_at, restarted_from, resume_from, sweep)
VALUES (:id, :type, :name, :owner, :priority, :params, :inputs, :secrets, :resources, :retry, 'queued', :created_at, :restarted_from, :resume_from, :sweep)

-- name: insert_tag
INSERT OR IGNORE INTO job_tags (job_id, tag, place) VALUES (:job_id, :tag, :place)

-- name: insert_submission
INSERT INTO submissions (idempotency_key, request_digest, job_id) VALUES (:key, :digest, :job_id)

-- name: submission
SELECT request_digest, job_id FROM submissions WHERE idempotency_key = :key

-- name: insert_batch_submission
INSERT INTO batch_submissions (idempotency_key, request_digest, made) VALUES (:key, :digest, :made)

-- name: batch_submission
SELECT request_digest, made FROM batch_submissions WHERE idempotency_key = :key

-- name: job
SELECT jobs.*, (SELECT json_group_array(tag) FROM (SELECT tag FROM job_tags WHERE job_id = jobs.id ORDER BY place)) AS tags
FROM jobs WHERE id = :id

-- name: jobs
-- Clause and order are put together by the store from fixed texts. The page is found in an index, then its rows are read.
SELECT jobs.*, (SELECT json_group_array(tag) FROM (SELECT tag FROM job_tags WHERE job_id = jobs.id ORDER BY place)) AS tags
FROM jobs WHERE id IN (SELECT id FROM jobs WHERE {where} ORDER BY {order} LIMIT :limit OFFSET :offset) ORDER BY {order}

-- name: count_jobs
SELECT count(*) AS n FROM jobs WHERE {where}

-- name: newest_event
SELECT coalesce(max(id), 0) AS id FROM events

-- name: count_by_status
SELECT status, count(*) AS n FROM jobs GROUP BY status

-- name: set_status
UPDATE jobs SET status = :to, intent = :intent, phase = :phase,
    started_at = coalesce(started_at, CASE WHEN :to = 'running' THEN :now END),
    completed_at = CASE WHEN :terminal THEN :now END,
    -- While it is tried again, what failed it the last time stays to be seen.
    failure = CASE WHEN :to IN ('starting', 'running', 'pausing', 'stopping') THEN failure ELSE :failure END,
    resume_from = coalesce(:resume_from, resume_from),
    retries = coalesce(:retries, retries),
    not_before = :not_before
WHERE id = :id AND status = :expected

-- name: update_job
UPDATE jobs SET name = :name, priority = :priority, resources = :resources, retry = :retry
WHERE id = :id AND status = :expected

-- name: delete_tags
DELETE FROM job_tags WHERE job_id = :job_id

-- name: set_intent
UPDATE jobs SET intent = :intent, phase = :phase WHERE id = :id AND status = :expected

-- name: set_phase
UPDATE jobs SET phase = :phase WHERE id = :id AND status IN ('starting', 'running', 'pausing', 'stopping')

-- name: count_attempt
UPDATE jobs SET attempts = attempts + 1 WHERE id = :id RETURNING attempts

-- name: insert_attempt
INSERT INTO attempts (job_id, number, executor, gpus, gpu_memory_mb, cpus, memory_mb, weight, resume_from, created_at)
VALUES (:job_id, :number, :executor, :gpus, :gpu_memory_mb, :cpus, :memory_mb, :weight, :resume_from, :now)

-- name: insert_lease
INSERT INTO leases (gpu, job_id, attempt, memory_mb) VALUES (:gpu, :job_id, :attempt, :memory_mb)

-- name: leases
SELECT gpu, job_id, attempt FROM leases

-- name: free_leases
DELETE FROM leases WHERE job_id = :job_id AND attempt = :attempt

-- name: attempt
SELECT * FROM attempts WHERE job_id = :job_id AND number = :number

-- name: attempts
SELECT * FROM attempts WHERE job_id = :job_id ORDER BY number

-- name: live_attempts
SELECT * FROM attempts WHERE released_at IS NULL ORDER BY created_at

-- name: live_jobs
SELECT jobs.*, (SELECT json_group_array(tag) FROM (SELECT tag FROM job_tags WHERE job_id = jobs.id ORDER BY place)) AS tags
FROM jobs WHERE id IN (SELECT job_id FROM attempts WHERE released_at IS NULL)

-- name: unreleased
SELECT number FROM attempts WHERE job_id = :id AND released_at IS NULL LIMIT 1

-- name: release
UPDATE attempts SET released_at = :now WHERE job_id = :job_id AND number = :number AND released_at IS NULL

-- name: attach
UPDATE attempts SET handle = :handle, started_at = coalesce(started_at, :now) WHERE job_id = :job_id AND number = :number

-- name: end_attempt
UPDATE attempts SET ended_at = :now, exit_code = :exit_code, end_reason = :end_reason, detail = :detail
WHERE job_id = :job_id AND number = :number AND ended_at IS NULL

-- name: advance
UPDATE attempts SET events_offset = :offset WHERE job_id = :job_id AND number = :number AND events_offset <= :offset

-- name: insert_event
INSERT INTO events (job_id, attempt, seq, ts, type, data) VALUES (:job_id, :attempt, :seq, :ts, :type, :data)
ON CONFLICT (job_id, attempt, seq) DO NOTHING

-- name: event_seqs
SELECT seq FROM events WHERE job_id = :job_id AND attempt = :attempt AND seq BETWEEN :low AND :high

-- name: last_finished
SELECT data, ts, seq FROM events WHERE job_id = :job_id AND attempt = :attempt AND type = 'finished' ORDER BY id DESC LIMIT 1

-- name: latest
UPDATE jobs SET progress = coalesce(:progress, progress),
    metrics = CASE WHEN :metrics IS NULL THEN metrics ELSE json_patch(coalesce(metrics, '{}'), :metrics) END,
    results = coalesce(:results, results), phase = coalesce(:phase, phase) WHERE id = :id

-- name: put_checkpoint
INSERT OR REPLACE INTO checkpoints (job_id, attempt, name, step, loss, held_out_loss, size_bytes, digest, reason, created_at)
VALUES (:job_id, :attempt, :name, :step, :loss, :held_out_loss, :size_bytes, :digest, :reason, :ts)

-- name: delete_checkpoint
DELETE FROM checkpoints WHERE job_id = :job_id AND attempt = :attempt AND name = :name

-- name: checkpoints
-- Nothing is to continue from one that is being deleted.
SELECT * FROM checkpoints WHERE job_id = :job_id AND deleting_at IS NULL ORDER BY attempt DESC, step DESC

-- name: put_artifact
INSERT OR REPLACE INTO artifacts (job_id, attempt, path, kind, size_bytes, digest, created_at)
VALUES (:job_id, :attempt, :path, :kind, :size_bytes, :digest, :ts)

-- name: artifacts
SELECT * FROM artifacts WHERE job_id = :job_id ORDER BY attempt DESC, path

-- name: saes
SELECT * FROM artifacts WHERE kind = 'sae' ORDER BY created_at DESC LIMIT 1000

-- name: insert_command
INSERT INTO commands (id, job_id, attempt, body, requested_at) VALUES (:id, :job_id, :attempt, :body, :ts)

-- name: commands
SELECT * FROM commands WHERE job_id = :job_id ORDER BY requested_at, id

-- name: settle_command
UPDATE commands SET status = :status, settled_at = :ts, detail = :detail, step = :step WHERE id = :id AND status = 'requested'

-- name: expire_commands
UPDATE commands SET status = 'expired', settled_at = :now, detail = 'the attempt ended first'
WHERE job_id = :job_id AND attempt = :attempt AND status = 'requested'

-- name: continuing_from
SELECT id FROM jobs WHERE resume_from = :path AND status NOT IN ('completed', 'stopped', 'failed', 'cancelled')
UNION SELECT job_id FROM attempts WHERE resume_from = :path AND released_at IS NULL

-- name: insert_source
INSERT OR IGNORE INTO job_sources (job_id, source, path) VALUES (:job_id, :source, :path)

-- name: readers_of
-- Jobs that read files of this one and have not ended, or whose container may still be there, with what they read.
SELECT job_sources.job_id, job_sources.path FROM job_sources JOIN jobs ON jobs.id = job_sources.job_id
WHERE source = :source AND (jobs.status NOT IN ('completed', 'stopped', 'failed', 'cancelled')
    OR EXISTS (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id AND released_at IS NULL))
ORDER BY jobs.created_at, jobs.id

-- name: pipeline_waiting_for
SELECT waiting.pipeline, waiting.name FROM pipeline_steps AS done
JOIN pipeline_steps AS waiting ON waiting.pipeline = done.pipeline AND waiting.state = 'waiting'
WHERE done.job_id = :id LIMIT 1

-- name: purging
SELECT status, purging_at FROM jobs WHERE id = :id

-- name: mark_purging
UPDATE jobs SET purging_at = coalesce(purging_at, :now), phase = 'being purged' WHERE id = :id

-- name: jobs_being_purged
SELECT id FROM jobs WHERE purging_at IS NOT NULL ORDER BY purging_at

-- name: checkpoint_kept
SELECT deleting_at IS NULL AS kept FROM checkpoints WHERE job_id = :job_id AND attempt = :attempt AND name = :name

-- name: mark_checkpoint
UPDATE checkpoints SET deleting_at = coalesce(deleting_at, :now)
WHERE job_id = :job_id AND attempt = :attempt AND name = :name

-- name: checkpoints_being_deleted
SELECT * FROM checkpoints WHERE deleting_at IS NOT NULL ORDER BY deleting_at

-- name: purge
DELETE FROM jobs WHERE id = :id
