-- Whether a later step waits for what a job left, asked at every purge and for every job that is archived.
CREATE INDEX pipeline_steps_by_job ON pipeline_steps (job_id) WHERE job_id IS NOT NULL;
