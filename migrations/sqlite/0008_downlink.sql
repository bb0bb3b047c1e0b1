-- The queue of downlinks.
CREATE TABLE downlink (
    id TEXT PRIMARY KEY,
    dev_eui INTEGER NOT NULL,
    f_port INTEGER NOT NULL,
    payload BLOB NOT NULL,
    confirmed INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    not_after_us INTEGER,
    -- NULL: none was given.
    idempotency_key TEXT,
    -- loam.v1.DownlinkState
    state INTEGER NOT NULL,
    reason TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    -- Set with the terminal state.
    finished_at_us INTEGER,
    -- The counter the payload is, or was last, sealed with.
    session_id INTEGER,
    fcnt_down INTEGER,
    attempts INTEGER NOT NULL,
    -- 1: the event log holds a record of this state.
    announced INTEGER NOT NULL,
    -- Order of creation within one microsecond, and the key of pages.
    position INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX downlink_idempotency ON downlink (dev_eui, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX downlink_by_device ON downlink (dev_eui, position);
CREATE INDEX downlink_open ON downlink (dev_eui, priority DESC, position) WHERE finished_at_us IS NULL;
CREATE INDEX downlink_leased ON downlink (session_id, fcnt_down) WHERE session_id IS NOT NULL;
CREATE INDEX downlink_deadline ON downlink (not_after_us) WHERE not_after_us IS NOT NULL AND finished_at_us IS NULL;
CREATE INDEX downlink_finished ON downlink (finished_at_us) WHERE finished_at_us IS NOT NULL;
CREATE INDEX downlink_unannounced ON downlink (position) WHERE announced = 0;
-- The highest FCntDown leased in each session: one counter seals at most one payload, ever.
CREATE TABLE downlink_lease_floor (
    session_id INTEGER PRIMARY KEY,
    dev_eui INTEGER NOT NULL,
    fcnt_down INTEGER NOT NULL
) STRICT;
CREATE INDEX downlink_lease_floor_by_device ON downlink_lease_floor (dev_eui);
