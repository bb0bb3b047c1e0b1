//! What happens beside the journal: the session checkpoint, the retention, the WAL, the stamp.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection, SqlitePool};

use crate::checkpoint::{self, Haste, Progress};
use crate::db::Db;
use crate::retention::AgeClock;
use crate::writer::{Shared, WriterHandle};
use crate::{StoreError, StoreOptions, open, retention, sql};

/// Runs until the store is gone. It holds the writer weakly: housekeeping alone keeps nothing open.
pub(crate) async fn run(
    writer: Weak<WriterHandle>,
    readers: Option<SqlitePool>,
    directory: Option<PathBuf>,
    options: StoreOptions,
) {
    let store = WeakDb { writer, readers };
    let wal = directory.as_deref().map(|directory| Wal {
        path: directory.join(open::WAL_FILE),
        options: open::wal_options(directory),
        connection: None,
    });
    // Side by side: a long checkpoint of the sessions must not hold up the WAL.
    tokio::join!(follow(&store, &options), probe(&store), move_wal(&store, wal), stamp(&store));
}

struct WeakDb {
    writer: Weak<WriterHandle>,
    readers: Option<SqlitePool>,
}

impl WeakDb {
    fn upgrade(&self) -> Result<Db, StoreError> {
        let writer = self.writer.upgrade().ok_or(StoreError::Closed)?;
        Ok(Db { writer, readers: self.readers.clone() })
    }
}

/// Says a failure once, until it is over; breaks when the store is closed.
#[derive(Default)]
struct Troubles {
    told: bool,
}

impl Troubles {
    fn note(&mut self, outcome: Result<(), StoreError>) -> ControlFlow<()> {
        match outcome {
            Err(StoreError::Closed) => return ControlFlow::Break(()),
            // A full disk says it through the readiness as well.
            Err(error) if !self.told => {
                tracing::warn!(error = %error.with_source(), "housekeeping of the store is behind; it tries again");
                self.told = true;
            }
            Err(_) => {}
            Ok(()) => self.told = false,
        }
        ControlFlow::Continue(())
    }
}

async fn follow(store: &WeakDb, options: &StoreOptions) {
    let mut troubles = Troubles::default();
    let age_max = Duration::from_secs(options.retention_max_age_s);
    let mut clock = AgeClock::new(age_max, sql::now_us(), Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(options.checkpoint_period_s)).await;
        let now_us = clock.now_us(sql::now_us(), Instant::now());
        let round = async {
            let db = store.upgrade()?;
            while checkpoint::pass(&db, Haste::Gentle).await? == Progress::More {}
            while retention::pass(&db, options, now_us).await? > 0 {}
            Ok(())
        };
        if troubles.note(round.await).is_break() {
            return;
        }
    }
}

/// While nothing is acknowledged nothing is submitted, so somebody has to try whether writing works again.
async fn probe(store: &WeakDb) {
    let mut troubles = Troubles::default();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let round = async {
            let db = store.upgrade()?;
            if db.writer.shared().readiness.borrow().is_ready() {
                return Ok(());
            }
            // Takes new pages, which is what a full disk refuses, and gives them back.
            let query = sqlx::query(
                "CREATE TABLE probe (body BLOB); INSERT INTO probe VALUES (zeroblob(65536)); DROP TABLE probe",
            );
            db.execute("try a write", query).await.map(drop)
        };
        if troubles.note(round.await).is_break() {
            return;
        }
    }
}

async fn move_wal(store: &WeakDb, wal: Option<Wal>) {
    let Some(mut wal) = wal else { return };
    let mut troubles = Troubles::default();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let round = async { wal.checkpoint(store.upgrade()?.writer.shared()).await };
        if troubles.note(round.await).is_break() {
            return;
        }
    }
}

async fn stamp(store: &WeakDb) {
    let mut troubles = Troubles::default();
    let mut stamped = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let round = async {
            let db = store.upgrade()?;
            let now = db.writer.shared().standing();
            if stamped.as_ref() != Some(&now) {
                let shared = Arc::clone(db.writer.shared());
                seam::crash_point("store.stamp.before_write");
                let written = tokio::task::spawn_blocking(move || shared.write_stamp());
                written.await.map_err(|_| StoreError::Closed)??;
                stamped = Some(now);
                seam::crash_point("store.stamp.written");
            }
            Ok(())
        };
        if troubles.note(round.await).is_break() {
            return;
        }
    }
}

/// Brings the session table up to the journal.
pub(crate) async fn checkpoint_all(db: &Db) -> Result<(), StoreError> {
    while checkpoint::pass(db, Haste::AtOnce).await? == Progress::More {}
    Ok(())
}

/// Moves the WAL into the database beside the committing connection.
struct Wal {
    path: PathBuf,
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
}

impl Wal {
    async fn checkpoint(&mut self, shared: &Arc<Shared>) -> Result<(), StoreError> {
        let len = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        if shared.wal_frames.load(Ordering::Relaxed) < WAL_FRAMES && len < WAL_BYTES_MAX {
            return Ok(());
        }
        shared.wal_frames.store(0, Ordering::Relaxed);
        let failed = || StoreError::sql("move the WAL into the database");
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => empty.insert(self.options.connect().await.map_err(failed())?),
        };
        seam::crash_point("store.wal.before_move");
        // Each round leaves less behind: what was committed while it worked.
        let mut before = 0;
        for _ in 0..4 {
            let (_, total, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
                .fetch_one(&mut *connection)
                .await
                .map_err(failed())?;
            if total - before <= WAL_FRAMES_REST {
                break;
            }
            before = total;
        }
        seam::crash_point("store.wal.moved");
        // The little that is left is moved between two commits; the next one then starts the WAL over.
        shared.wal_rest.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Pages written to the WAL before it is moved, about: 16 MiB.
const WAL_FRAMES: u64 = 4096;
/// However the pages were counted, a file of this size is moved. SQLite keeps as much of it, because writing over old pages is cheaper
/// than growing a file.
pub(crate) const WAL_BYTES_MAX: u64 = 64 << 20;
const WAL_FRAMES_REST: i64 = 256;
