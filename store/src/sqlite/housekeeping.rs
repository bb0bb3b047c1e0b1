//! What SQLite needs beside the journal: its WAL moved into the database, and the stamp beside the file.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use super::writer::File;
use super::{WeakDb, open};
use crate::StoreError;
use crate::housekeeping::Troubles;

/// Runs until the store is gone.
pub(crate) async fn housekeeping(store: &WeakDb) {
    tokio::join!(move_wal(store), stamp(store));
}

async fn move_wal(store: &WeakDb) {
    let Some(directory) = store.directory() else { return };
    let mut wal =
        Wal { path: directory.join(open::WAL_FILE), options: open::wal_options(directory), connection: None };
    let mut troubles = Troubles::default();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let round = async {
            let db = store.upgrade().ok_or(StoreError::Closed)?;
            wal.checkpoint(&db.writer.file).await
        };
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
            let db = store.upgrade().ok_or(StoreError::Closed)?;
            let now = db.writer.standing();
            if stamped.as_ref() != Some(&now) {
                let writer = Arc::clone(&db.writer);
                seam::crash_point("store.stamp.before_write");
                let written = tokio::task::spawn_blocking(move || writer.write_stamp());
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

/// Moves the WAL into the database beside the committing connection.
struct Wal {
    path: PathBuf,
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
}

impl Wal {
    async fn checkpoint(&mut self, file: &File) -> Result<(), StoreError> {
        let len = std::fs::metadata(&self.path).map_or(0, |wal| wal.len());
        if file.wal_frames.load(Ordering::Relaxed) < WAL_FRAMES && len < WAL_BYTES_MAX {
            return Ok(());
        }
        file.wal_frames.store(0, Ordering::Relaxed);
        let failed = || StoreError::sql("move the WAL into the database");
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => empty.insert(self.options.connect().await.map_err(failed())?),
        };
        seam::crash_point("store.wal.before_move");
        // Each round leaves less behind: what was committed while it worked.
        let mut before = 0_i64;
        for _ in 0..4 {
            let (_, total, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
                .fetch_one(&mut *connection)
                .await
                .map_err(failed())?;
            if total.saturating_sub(before) <= WAL_FRAMES_REST {
                break;
            }
            before = total;
        }
        seam::crash_point("store.wal.moved");
        // The little that is left is moved between two commits; the next one then starts the WAL over.
        file.wal_rest.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Pages written to the WAL before it is moved, about: 16 MiB.
const WAL_FRAMES: u64 = 4096;
/// However the pages were counted, a file of this size is moved. SQLite keeps as much of it, because writing over old pages is cheaper
/// than growing a file.
pub(super) const WAL_BYTES_MAX: u64 = 64 << 20;
const WAL_FRAMES_REST: i64 = 256;
