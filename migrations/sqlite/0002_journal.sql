-- One row per group commit: the events and session changes that became durable together.
CREATE TABLE journal (
    -- Consecutive; retention removes from the low end and never the last row.
    batch INTEGER PRIMARY KEY,
    -- Record i of the row has sequence first_seq + i; a row may hold session changes alone (count 0).
    first_seq INTEGER NOT NULL,
    count INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at_us_min INTEGER NOT NULL,
    at_us_max INTEGER NOT NULL,
    -- Bytes of all bodies ever written, this one included: what is kept is a difference of two rows.
    end_bytes INTEGER NOT NULL,
    -- loam.internal.v1.JournalBody
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX journal_by_seq ON journal (first_seq) WHERE count > 0;
