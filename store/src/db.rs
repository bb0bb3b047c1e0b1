//! Which engine a store is open on: the seam between what the store promises and what keeps the rows.
//!
//! The promises are written once, on this side: the journal's writer, the log, how sessions follow the journal, what the retention
//! removes. An engine gives the writer a [`Medium`](crate::writer::Medium), which tries a row of the journal or a turn of table writes,
//! and methods of the same names as the others: the rows of the journal and of the sessions, and the tables of each role. `tests/shared`
//! holds every engine to the same stories.

use crate::{memory, sqlite};

/// Access to the rows of the open engine. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Db {
    Memory(memory::Db),
    Sqlite(sqlite::Db),
}

/// Runs one expression on whichever engine is open.
macro_rules! on_engine {
    ($db:expr, $name:ident => $call:expr) => {
        match $db {
            $crate::db::Db::Memory($name) => $call,
            $crate::db::Db::Sqlite($name) => $call,
        }
    };
}
pub(crate) use on_engine;

/// Access that keeps nothing open.
pub(crate) enum WeakDb {
    Memory(memory::WeakDb),
    Sqlite(sqlite::WeakDb),
}

impl Db {
    /// Completes while the store may go on: never after a crash in a simulated world.
    pub(crate) async fn alive(&self) {
        if let Self::Memory(db) = self {
            db.alive().await;
        }
    }

    pub(crate) fn downgrade(&self) -> WeakDb {
        match self {
            Self::Memory(db) => WeakDb::Memory(db.downgrade()),
            Self::Sqlite(db) => WeakDb::Sqlite(db.downgrade()),
        }
    }
}

impl WeakDb {
    /// `None`: the store is gone.
    pub(crate) fn upgrade(&self) -> Option<Db> {
        match self {
            Self::Memory(db) => db.upgrade().map(Db::Memory),
            Self::Sqlite(db) => db.upgrade().map(Db::Sqlite),
        }
    }
}
