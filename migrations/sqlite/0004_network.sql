-- What the network server is told about profiles, devices and gateways.
CREATE TABLE network_profile (
    id TEXT PRIMARY KEY,
    -- loam.v1.Profile
    body BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE network_device (
    dev_eui INTEGER PRIMARY KEY,
    join_eui INTEGER NOT NULL,
    profile_id TEXT NOT NULL,
    -- 1: disabled, 2: counter reset allowed; one column because a start reads every row.
    flags INTEGER NOT NULL
) STRICT;
CREATE TABLE network_gateway (
    gateway_eui INTEGER PRIMARY KEY,
    -- loam.v1.Gateway
    body BLOB NOT NULL
) STRICT;
