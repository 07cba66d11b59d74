-- Lists leave archived jobs out, so each index that a list is read off tells which they are.
DROP INDEX jobs_by_age;
DROP INDEX jobs_by_status;
DROP INDEX jobs_by_type;
DROP INDEX jobs_by_owner;
DROP INDEX jobs_by_model;
DROP INDEX jobs_by_dataset;
CREATE INDEX jobs_by_age ON jobs (created_at, id, name, archived_at);
CREATE INDEX jobs_by_status ON jobs (status, created_at, id, archived_at);
CREATE INDEX jobs_by_type ON jobs (type, created_at, id, archived_at);
CREATE INDEX jobs_by_owner ON jobs (owner, created_at, id, archived_at);
CREATE INDEX jobs_by_model ON jobs (model, created_at, id, archived_at);
CREATE INDEX jobs_by_dataset ON jobs (dataset, created_at, id, archived_at);
