-- One row that says what this database is and who may write to it.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- 32 hexadecimal digits, drawn when the database was made; the stamp file beside it bears the same.
    database_id TEXT NOT NULL,
    -- Raised by each opening; a journal row is refused from anyone but the latest owner.
    epoch INTEGER NOT NULL,
    -- Raised by each transaction that is not a journal row.
    writes INTEGER NOT NULL,
    -- Sessions hold everything up to this row of the journal.
    checkpoint_batch INTEGER NOT NULL,
    -- A constant sealed with the key-encryption key.
    kek_check BLOB NOT NULL,
    -- 1 in the file a backup has written.
    is_backup INTEGER NOT NULL DEFAULT 0,
    created_at_us INTEGER NOT NULL
) STRICT;
