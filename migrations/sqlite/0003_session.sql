-- The sessions as of meta.checkpoint_batch; the journal behind it holds the rest.
-- 64-bit identifiers are stored with the top bit flipped, so that SQLite's signed order is the order as printed.
CREATE TABLE session (
    dev_eui INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    sealed_keys BLOB NOT NULL,
    state BLOB,
    fcnt_up_plus_1 INTEGER,
    n_fcnt_down INTEGER,
    a_fcnt_down INTEGER,
    PRIMARY KEY (dev_eui, session_id)
) STRICT, WITHOUT ROWID;
