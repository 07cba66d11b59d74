-- Which jobs continue from a checkpoint, asked at every purge and for every job that is archived; and all trained SAEs.
CREATE INDEX jobs_by_origin ON jobs (resume_from) WHERE resume_from IS NOT NULL;
CREATE INDEX artifacts_by_kind ON artifacts (kind, created_at);
