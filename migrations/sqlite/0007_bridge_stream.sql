-- What the streams need: the keys of each session and how far each reader came.
CREATE TABLE app_session (
    session_id INTEGER PRIMARY KEY,
    dev_eui INTEGER NOT NULL,
    sealed_key BLOB NOT NULL,
    started_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX app_session_by_device ON app_session (dev_eui, started_at_us);
CREATE TABLE consumer (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    acknowledged_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- The sequence up to which the queue and the keys follow the event log.
CREATE TABLE follower (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL
) STRICT;
INSERT INTO follower (id, seq) VALUES (1, 0);
