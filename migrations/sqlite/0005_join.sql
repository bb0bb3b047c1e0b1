-- What the join server knows: root keys (sealed), nonces, and the last answer to each device.
CREATE TABLE join_device (
    dev_eui INTEGER PRIMARY KEY,
    join_eui INTEGER NOT NULL,
    -- loam.v1.MacVersion
    mac_version INTEGER NOT NULL,
    sealed_app_key BLOB,
    sealed_nwk_key BLOB,
    -- The last JoinNonce handed out; 0: none.
    join_nonce INTEGER NOT NULL,
    -- The last DevNonce accepted under this JoinEUI, by any rule.
    last_dev_nonce INTEGER,
    -- The highest DevNonce accepted under the rule that they rise.
    dev_nonce_floor INTEGER,
    nonces_used INTEGER NOT NULL
) STRICT;
CREATE TABLE join_nonce_used (
    dev_eui INTEGER NOT NULL,
    join_eui INTEGER NOT NULL,
    dev_nonce INTEGER NOT NULL,
    PRIMARY KEY (dev_eui, join_eui, dev_nonce)
) STRICT, WITHOUT ROWID;
CREATE TABLE join_answer (
    dev_eui INTEGER PRIMARY KEY,
    request_hash BLOB NOT NULL,
    answer BLOB NOT NULL
) STRICT;
-- Outlives the device: a device that is registered again, perhaps with its old keys, never sees a JoinNonce twice.
CREATE TABLE join_nonce_floor (
    dev_eui INTEGER PRIMARY KEY,
    join_nonce INTEGER NOT NULL
) STRICT;
