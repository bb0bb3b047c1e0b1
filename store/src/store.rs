//! Opening and closing the store, and what it hands out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::db::{Db, on_engine};
use crate::shared::Shared;
use crate::{
    BridgeTables, EventLog, Faults, JoinTables, Journal, MemoryDisk, NetworkTables, Sealer, StoreError,
    StoreMetrics, housekeeping, memory, sqlite,
};

/// How the store behaves; the defaults suit a farm box and a 10,000 uplinks/s server alike.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreOptions {
    /// Events older than this are removed, seconds.
    pub retention_max_age_s: u64,
    /// The oldest events are removed when the journal takes more than this, bytes.
    pub retention_max_bytes: u64,
    /// A commit under load starts as soon as so many submissions wait.
    pub group_max_steps: usize,
    /// Commits under load start no closer than this, milliseconds; 0: each at once.
    pub group_max_delay_ms: u64,
    /// How often the session table follows the journal, seconds. The longer, the more changes of a session and of its neighbours on a
    /// page become one write; and the more a start has to read.
    pub checkpoint_period_s: u64,
    /// Memory for the newest events, bytes.
    pub tail_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retention_max_age_s: 7 * 24 * 3600,
            retention_max_bytes: 2 << 30,
            group_max_steps: 256,
            group_max_delay_ms: 5,
            checkpoint_period_s: 60,
            tail_bytes: 4 << 20,
        }
    }
}

/// Where the database is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// A data directory of its own; it is made when it does not exist.
    Directory(PathBuf),
    /// Nowhere: gone with the process. For tests and demonstrations.
    Memory,
}

/// Whether what is accepted can be made durable at the moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Readiness {
    /// The database refuses writes. What was taken waits and is tried again; nothing new should be acknowledged.
    NotReady {
        /// What the database said.
        reason: String,
        /// True when space is what is missing.
        disk_full: bool,
    },
    /// Commits work.
    Ready,
}

impl Readiness {
    /// True for [`Self::Ready`].
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// The open store. Cheap to clone.
///
/// Call [`Self::close`] to end it; when it is only dropped, the writer finishes its queue in the background.
#[derive(Clone)]
pub struct Store {
    db: Db,
    inner: Arc<Inner>,
}

struct Inner {
    sealer: Sealer,
    transport_key: Zeroizing<[u8; 16]>,
    housekeeping: AbortHandle,
    /// Set by the first call of `close`.
    closed: Mutex<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.housekeeping.abort();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("directory", &self.directory()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, makes it on the first start, and takes it over from the previous owner.
    ///
    /// Refuses a directory in use, a newer schema, missing or wrong keys, and a database from an older time or another directory;
    /// then nothing was changed.
    pub async fn open(location: Location, options: StoreOptions) -> Result<Self, StoreError> {
        let (database, directory) = match location {
            Location::Directory(path) => (sqlite::directory(&path).await?, Some(path)),
            Location::Memory => (sqlite::memory().await?, None),
        };
        let (sealer, transport_key) = (database.sealer.clone(), database.transport_key.clone());
        let db = sqlite::Db::start(database, directory.as_deref(), &options)?;
        Ok(Self::start(Db::Sqlite(db), sealer, transport_key, options))
    }

    /// Opens a store on a disk of a simulated world, and takes the disk over from the previous owner, which is fenced from then on.
    ///
    /// It needs a runtime and no thread: everything happens in tasks, in tokio's time, by what `faults` says.
    pub async fn open_in_memory(
        disk: &MemoryDisk,
        options: StoreOptions,
        faults: Arc<dyn Faults>,
    ) -> Result<Self, StoreError> {
        let (db, keys) = memory::Db::open(disk, &options, faults).await?;
        Ok(Self::start(Db::Memory(db), keys.sealer, keys.transport_key, options))
    }

    fn start(db: Db, sealer: Sealer, transport_key: Zeroizing<[u8; 16]>, options: StoreOptions) -> Self {
        let housekeeping = tokio::spawn(housekeeping::run(db.downgrade(), options)).abort_handle();
        let inner = Inner { sealer, transport_key, housekeeping, closed: Mutex::new(false) };
        Self { db, inner: Arc::new(inner) }
    }

    /// Commits what was submitted, brings the session checkpoint up to date, stamps, and frees the directory.
    ///
    /// Afterwards every handle answers [`StoreError::Closed`]. An error says what was not written. Later calls have nothing to do.
    pub async fn close(&self) -> Result<(), StoreError> {
        if std::mem::replace(&mut *self.inner.closed.lock(), true) {
            return Ok(());
        }
        self.inner.housekeeping.abort();
        // It only shortens the next start, so that it may not hold up this stop.
        let checkpoint = tokio::time::timeout(CHECKPOINT_AT_CLOSE, housekeeping::checkpoint_all(&self.db));
        if self.readiness().borrow().is_ready() && !matches!(checkpoint.await, Ok(Ok(()))) {
            tracing::info!("closed before the session checkpoint was up to date; the next start does it");
        }
        on_engine!(&self.db, db => db.close().await)
    }

    /// Brings the session checkpoint up to date with the journal. It follows by itself; after many changes at once, this waits for it.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        housekeeping::checkpoint_all(&self.db).await
    }

    /// Where decisions are made durable.
    pub fn journal(&self) -> Journal {
        Journal { db: self.db.clone() }
    }

    /// Where events are read.
    pub fn log(&self) -> EventLog {
        EventLog { db: self.db.clone() }
    }

    /// The network server's tables.
    pub fn network(&self) -> NetworkTables {
        NetworkTables { db: self.db.clone() }
    }

    /// The join server's tables.
    pub fn join(&self) -> JoinTables {
        JoinTables { db: self.db.clone() }
    }

    /// The app-bridge's tables.
    pub fn bridge(&self) -> BridgeTables {
        BridgeTables { db: self.db.clone() }
    }

    /// Seals keys for the tables.
    pub fn sealer(&self) -> Sealer {
        self.inner.sealer.clone()
    }

    /// The key that wraps AppSKeys between the join server and the app-bridge (file `app-kek`).
    pub fn transport_key(&self) -> Zeroizing<[u8; 16]> {
        self.inner.transport_key.clone()
    }

    /// The data directory; `None` in memory.
    pub fn directory(&self) -> Option<&Path> {
        match &self.db {
            Db::Memory(_) => None,
            Db::Sqlite(db) => db.directory.as_deref(),
        }
    }

    /// How often the database was opened, this time included.
    pub fn epoch(&self) -> u64 {
        self.shared().epoch
    }

    /// Whether commits work, and each change of it.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared().readiness.subscribe()
    }

    /// The counters as of now.
    pub fn metrics(&self) -> StoreMetrics {
        let queued = on_engine!(&self.db, db => db.queued());
        self.shared().metrics.snapshot(queued as u64, self.shared().journal_bytes())
    }

    /// Writes a copy of the database as of now into a new file, while everything goes on; returns its size in bytes.
    ///
    /// The key-encryption key is not in it. The copy is marked, so that it is never taken for the database itself: its counters are old.
    pub async fn backup(&self, path: &Path) -> Result<u64, StoreError> {
        match self.directory() {
            Some(directory) => sqlite::backup(directory, path).await,
            None => Err(StoreError::io(
                path,
                std::io::Error::new(std::io::ErrorKind::Unsupported, "a store in memory has no file to copy"),
            )),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        on_engine!(&self.db, db => db.shared())
    }

    #[cfg(test)]
    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    #[cfg(test)]
    pub(crate) fn sqlite(&self) -> &sqlite::Db {
        match &self.db {
            Db::Sqlite(db) => db,
            Db::Memory(_) => panic!("this store is not on SQLite"),
        }
    }
}

const CHECKPOINT_AT_CLOSE: Duration = Duration::from_secs(3);
