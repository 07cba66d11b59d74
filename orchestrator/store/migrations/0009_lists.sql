-- Each list is read off one index in the order in which it is shown, newest first, with the id to tell jobs of one
-- moment apart. The first also holds the name, which is searched.
DROP INDEX jobs_by_status;
DROP INDEX jobs_by_age;
DROP INDEX jobs_by_type;
DROP INDEX jobs_by_owner;
DROP INDEX jobs_by_model;
DROP INDEX jobs_by_dataset;
CREATE INDEX jobs_by_age ON jobs (created_at, id, name);
CREATE INDEX jobs_by_status ON jobs (status, created_at, id);
CREATE INDEX jobs_by_type ON jobs (type, created_at, id);
CREATE INDEX jobs_by_owner ON jobs (owner, created_at, id);
CREATE INDEX jobs_by_model ON jobs (model, created_at, id);
CREATE INDEX jobs_by_dataset ON jobs (dataset, created_at, id);
