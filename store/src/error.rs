//! What can go wrong on our side of a stored thing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the store could not do what it was asked.
///
/// What a caller may have done wrong (a duplicate, an unknown device) is not here: each table answers that with a type of its own.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum StoreError {
    /// The store was closed, or its writer ended.
    #[error("the store is closed")]
    Closed,
    /// The database is older than what this directory has seen; its counters and nonces would be used a second time.
    #[error(
        "the database {path} was copied back from an older time ({detail}); counters and nonces it has forgotten would be used again. Put the newest loam.db of this directory back, or start with an empty directory"
    )]
    CopiedBack { path: PathBuf, detail: String },
    /// A row does not decode: the file is damaged or was written by something else.
    #[error("{what} in the database cannot be read; the file may be damaged")]
    Damaged { what: &'static str },
    /// A file of the data directory cannot be read or written.
    #[error("{path} cannot be read or written")]
    Io { path: PathBuf, source: Arc<io::Error> },
    /// The key-encryption key, or the transport key, is gone while the database still needs it.
    #[error(
        "the key file {path} is missing but the database needs it; put it back from where your keys are kept"
    )]
    KekMissing { path: PathBuf },
    /// The key file is there and is not the one the database was sealed with.
    #[error(
        "the key file {path} does not open this database; it belongs to another one or was changed. Put the right one back"
    )]
    KekWrong { path: PathBuf },
    /// Another server runs on the directory.
    #[error("another loam{} already uses {directory}; stop it or choose another data directory", pid_words(*.pid))]
    Locked { directory: PathBuf, pid: Option<u32> },
    /// The database was written by a later version.
    #[error(
        "the database has schema version {found} and this loam knows up to {known}; install the newer loam again"
    )]
    NewerSchema { found: i64, known: i64 },
    /// Another owner has opened the database since; this one must not write any more.
    #[error("another owner has taken over the database (its epoch is above {epoch})")]
    Fenced { epoch: u64 },
    /// The database is not the one the directory's stamp was made for.
    #[error(
        "the database {path} is not the one this directory belongs to (expected {expected}, found {found}); put the right loam.db back, or use an empty directory"
    )]
    OtherDatabase { path: PathBuf, expected: String, found: String },
    /// The system gave the writer no thread.
    #[error("the writer of the store cannot start")]
    Start { source: Arc<io::Error> },
    /// SQLite refused.
    #[error("the database refused to {doing}")]
    Sql { doing: &'static str, source: Arc<sqlx::Error> },
    /// Submissions that were never committed, because the database refused them until the store was closed.
    #[error("{submissions} accepted steps were not written before the store closed")]
    Unwritten { submissions: usize },
    /// What was sealed does not open: other key, other owner, or changed bytes.
    #[error(
        "the sealed {purpose} of {id:016x} does not open; its bytes were changed or the key is another one"
    )]
    Unseal { purpose: String, id: u64 },
}

impl StoreError {
    /// True when no space is left (on the disk, or under a limit set for the database): nothing is lost, and it goes on by itself once
    /// there is space.
    pub fn is_disk_full(&self) -> bool {
        self.disk_trouble() == Some(DiskTrouble::Full)
    }

    /// True when the disk, and not a statement, is what failed: reading, writing or flushing. Nothing that was accepted is lost, and it
    /// goes on by itself once the disk does.
    pub fn is_disk_trouble(&self) -> bool {
        self.disk_trouble().is_some()
    }

    fn disk_trouble(&self) -> Option<DiskTrouble> {
        match self {
            Self::Sql { source, .. } => match sqlite_code(source)? {
                SQLITE_FULL => Some(DiskTrouble::Full),
                SQLITE_CANTOPEN | SQLITE_IOERR | SQLITE_READONLY => Some(DiskTrouble::Other),
                _ => None,
            },
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(DiskTrouble::Full),
            Self::Io { .. } => Some(DiskTrouble::Other),
            Self::Closed
            | Self::CopiedBack { .. }
            | Self::Damaged { .. }
            | Self::Fenced { .. }
            | Self::KekMissing { .. }
            | Self::KekWrong { .. }
            | Self::Locked { .. }
            | Self::NewerSchema { .. }
            | Self::OtherDatabase { .. }
            | Self::Start { .. }
            | Self::Unseal { .. }
            | Self::Unwritten { .. } => None,
        }
    }

    /// The error with its source in one line, for a log or a readiness answer.
    pub fn with_source(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }

    /// For `map_err`: names what the statement was for.
    pub(crate) fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Sql { doing, source: Arc::new(source) }
    }

    pub(crate) fn is_unique_violation(&self) -> bool {
        let Self::Sql { source, .. } = self else {
            return false;
        };
        source.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
    }
}

/// What a disk failed by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DiskTrouble {
    Full,
    Other,
}

const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;

/// The primary result code, without the extension in the upper bits.
fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

fn pid_words(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
