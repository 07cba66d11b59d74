-- When an ended job was archived: its log packed, its checkpoints but the last removed, and itself left out of lists.
ALTER TABLE jobs ADD COLUMN archived_at REAL;
CREATE INDEX jobs_by_source ON jobs (restarted_from) WHERE restarted_from IS NOT NULL;

-- cursor: id of the last event dealt with. tries: of the one after it, so far; the next one is not before next_try_at.
-- The secret that signs is in no database, and in no copy of one.
CREATE TABLE webhooks (
    id              TEXT PRIMARY KEY,
    url             TEXT NOT NULL,
    description     TEXT NOT NULL,
    events          TEXT NOT NULL,
    statuses        TEXT NOT NULL,
    owner           TEXT,
    tag             TEXT,
    created_at      REAL NOT NULL,
    disabled        TEXT,
    cursor          INTEGER NOT NULL,
    tries           INTEGER NOT NULL DEFAULT 0,
    next_try_at     REAL NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- One row per try; event_id is empty for a ping.
CREATE TABLE webhook_tries (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id  TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id    INTEGER,
    type        TEXT NOT NULL,
    number      INTEGER NOT NULL,
    at          REAL NOT NULL,
    duration_s  REAL NOT NULL,
    status_code INTEGER,
    error       TEXT
) STRICT;
CREATE INDEX webhook_tries_by_hook ON webhook_tries (webhook_id, id);

-- What is left of the events without the flood of figures, which no webhook is told of.
CREATE INDEX events_to_tell ON events (id) WHERE type NOT IN ('metrics', 'progress');
