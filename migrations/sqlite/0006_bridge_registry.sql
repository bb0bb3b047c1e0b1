-- The registry the API serves.
CREATE TABLE application (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE profile (
    id TEXT PRIMARY KEY,
    -- loam.v1.Profile
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE device (
    dev_eui INTEGER PRIMARY KEY,
    join_eui INTEGER NOT NULL,
    application_id TEXT NOT NULL REFERENCES application (id),
    profile_id TEXT NOT NULL REFERENCES profile (id),
    name TEXT NOT NULL,
    -- A map<string, string> in protobuf.
    tags BLOB NOT NULL,
    codec_id TEXT NOT NULL,
    -- 1: disabled, 2: counter reset allowed, 4: network and join server know the row.
    flags INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL
) STRICT;
CREATE INDEX device_by_application ON device (application_id, dev_eui);
CREATE INDEX device_by_profile ON device (profile_id);
CREATE INDEX device_unprovisioned ON device (dev_eui) WHERE flags & 4 = 0;
CREATE TABLE codec (
    id TEXT PRIMARY KEY,
    script TEXT NOT NULL,
    revision INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE api_key (
    name TEXT PRIMARY KEY,
    -- SHA-256 of the key.
    hash BLOB NOT NULL UNIQUE,
    created_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
