//! Which engine a store is open on.
//!
//! Everything the store promises lives above this line: the journal's writer ([`crate::writer`]), the log, how sessions follow the
//! journal, what retention removes. An engine keeps rows. It gives a [`crate::writer::Medium`] that tries a journal row or a turn of
//! table writes, and methods of these names: the rows of the journal, of the sessions, and the tables of each role. `tests/shared`
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
