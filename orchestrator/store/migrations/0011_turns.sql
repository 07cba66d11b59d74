-- What holding its resources for one second counts as its owner's use, in GPU seconds. Empty for attempts of before.
ALTER TABLE attempts ADD COLUMN weight REAL;

-- What the queue in memory is kept up to date with, what limits its length, and how long jobs ran.
CREATE INDEX events_of_the_queue ON events (type) WHERE type IN ('job_created', 'job_updated', 'status_changed');
CREATE INDEX jobs_queued_by_owner ON jobs (owner) WHERE status = 'queued';
CREATE INDEX jobs_completed ON jobs (completed_at) WHERE status = 'completed';
