//! What a simulated world decides for each step of a store.

use std::time::Duration;

/// Decides what each step of one store meets. A simulation implements it; every call is one step.
pub trait Faults: Send + Sync {
    /// Asked once for each write transaction, when it is tried.
    fn write(&self, what: WriteKind) -> WriteFate;

    /// Asked for each read of the disk. The newest events are in memory and cost none.
    fn read(&self) -> ReadFate;

    /// Whether the machine was switched off meanwhile, which is a crash at any moment: asked before anything of the store goes on.
    fn is_off(&self) -> bool {
        false
    }
}

/// A write transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteKind {
    /// One row of the journal: a group commit.
    Journal {
        /// The submissions in it.
        submissions: usize,
    },
    /// An opening that takes the disk over.
    Open,
    /// One turn of table writes; the session checkpoint and the retention come with these.
    Tables {
        /// The writes in it.
        writes: usize,
    },
}

/// What becomes of a write transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WriteFate {
    /// How long it takes; the change happens at the end of it.
    pub takes: Duration,
    /// What happens then.
    pub outcome: WriteOutcome,
}

/// How a write transaction ends.
///
/// After a crash nothing of this store does anything any more: its futures never complete, no effect runs, and the disk keeps what was
/// applied. Other stores on the disk go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteOutcome {
    /// The process ends right after it was applied, before anybody hears.
    CrashAfter,
    /// The process ends before it is applied.
    CrashBefore,
    /// It is applied.
    Done,
    /// It is applied, and reported as failed.
    DoneButReportedFailed,
    /// Nothing of it is applied.
    Refused {
        /// Space is what is missing.
        disk_full: bool,
    },
}

/// What becomes of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadFate {
    /// The process ends.
    Crash,
    /// It sees the disk as it is at the end of the time it takes.
    Done {
        /// How long it takes.
        takes: Duration,
    },
    /// It is answered with an error.
    Failed,
}

impl WriteFate {
    /// Done at once.
    pub const DONE: Self = Self { takes: Duration::ZERO, outcome: WriteOutcome::Done };
}

impl ReadFate {
    /// Done at once.
    pub const DONE: Self = Self::Done { takes: Duration::ZERO };
}
