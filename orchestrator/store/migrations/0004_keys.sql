-- API keys. digest: SHA-256 of the key; the key itself is shown once and kept nowhere. types: JSON list.
CREATE TABLE api_keys (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL,
    role            TEXT NOT NULL,
    owner           TEXT,
    types           TEXT NOT NULL DEFAULT '[]',
    digest          TEXT NOT NULL,
    created_at      REAL NOT NULL,
    created_by      TEXT NOT NULL,
    expires_at      REAL,
    revoked_at      REAL,
    last_used_at    REAL
) STRICT, WITHOUT ROWID;

-- Names of the secrets a job finds as files; their values are in no table.
ALTER TABLE jobs ADD COLUMN secrets TEXT NOT NULL DEFAULT '[]';
