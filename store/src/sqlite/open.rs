//! Opening: the right file, the right keys, a schema we know, and a new epoch.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use zeroize::Zeroizing;

use super::housekeeping::WAL_BYTES_MAX;
use super::lock::DirectoryLock;
use super::sql;
use super::stamp::Stamp;
use crate::row::ROW_OVERHEAD;
use crate::seal::{Absent, KEK_LEN, Sealer, key_file, random_key};
use crate::shared::Opened;
use crate::{StoreError, files};

/// A database that is ours to write.
pub(crate) struct Database {
    pub(crate) connection: SqliteConnection,
    pub(crate) opened: Opened,
    pub(crate) database_id: String,
    /// meta.writes.
    pub(crate) writes: u64,
    pub(crate) sealer: Sealer,
    pub(crate) transport_key: Zeroizing<[u8; 16]>,
    pub(crate) lock: Option<DirectoryLock>,
}

pub(crate) async fn directory(directory: &Path) -> Result<Database, StoreError> {
    make_directory(directory)?;
    let lock = DirectoryLock::take(directory)?;
    let path = directory.join(DATABASE_FILE);
    let exists = path.metadata().is_ok_and(|file| file.len() > 0);
    let seen = match Stamp::read(directory)? {
        // The stamp comes before the database, so that a database without one was brought here.
        None if exists => {
            return Err(StoreError::CopiedBack {
                path,
                detail: "the file stamp that belongs to it is not here".into(),
            });
        }
        None => {
            let id = hex::encode(seam::random::<[u8; 16]>());
            let stamp = Stamp { database_id: id, epoch: 0, head_seq: 0, writes: 0 };
            stamp.write(directory)?;
            stamp
        }
        Some(stamp) if !exists && stamp.epoch > 0 => {
            let found = "no database".into();
            return Err(StoreError::OtherDatabase { path, expected: stamp.database_id, found });
        }
        Some(stamp) => stamp,
    };
    let absent = if exists && seen.epoch > 0 { Absent::Refuse } else { Absent::Make };
    let kek_path = directory.join(KEK_FILE);
    let sealer = Sealer::new(&*key_file::<KEK_LEN>(&kek_path, absent)?);
    let transport_key = key_file::<16>(&directory.join(TRANSPORT_KEY_FILE), absent)?;
    files::sync_directory(directory)?;
    seam::crash_point("store.open.keys_made");

    make_private(&path)?;
    let mut connection = writer_options(&path).connect().await.map_err(StoreError::sql("open"))?;
    if let Err(refusal) = recognise(&mut connection, &path, &seen, &sealer, &kek_path).await {
        // Gone for good before anyone hears of it: it must not tidy up what is put in place of the file.
        let _ = connection.close().await;
        return Err(refusal);
    }
    let (opened, stamp) = take_over(&mut connection, &seen.database_id, &sealer).await?;
    stamp.write(directory)?;
    seam::crash_point("store.open.stamped");
    let Stamp { database_id, writes, .. } = stamp;
    Ok(Database { connection, opened, database_id, writes, sealer, transport_key, lock: Some(lock) })
}

/// Whether this is the database the stamp was written for, no older than it, and sealed with our key. Changes nothing.
async fn recognise(
    connection: &mut SqliteConnection,
    path: &Path,
    seen: &Stamp,
    sealer: &Sealer,
    kek_path: &Path,
) -> Result<(), StoreError> {
    refuse_newer_schema(connection).await?;
    let path = path.to_owned();
    let expected = seen.database_id.clone();
    let Some(found) = standing(connection).await? else {
        // The stamp of an opening comes after its commit, so that the tables must be there: a young database whose WAL was left
        // behind is empty.
        if seen.epoch > 0 {
            let found = "an empty database; is loam.db-wal missing?".into();
            return Err(StoreError::OtherDatabase { path, expected, found });
        }
        return Ok(());
    };
    if found.stamp.database_id != seen.database_id {
        return Err(StoreError::OtherDatabase { path, expected, found: found.stamp.database_id });
    }
    if found.is_backup {
        return Err(StoreError::CopiedBack { path, detail: "it is a file written by `loam backup`".into() });
    }
    if let Some(detail) = found.stamp.behind(seen) {
        return Err(StoreError::CopiedBack { path, detail });
    }
    if !sealer.opens_check(&found.kek_check) {
        return Err(StoreError::KekWrong { path: kek_path.to_owned() });
    }
    Ok(())
}

pub(crate) async fn memory() -> Result<Database, StoreError> {
    let mut connection = tuned(SqliteConnectOptions::new().filename(":memory:"), 2048)
        .connect()
        .await
        .map_err(StoreError::sql("open"))?;
    let sealer = Sealer::new(&random_key());
    let (opened, Stamp { database_id, writes, .. }) = take_over(&mut connection, "memory", &sealer).await?;
    let transport_key = random_key();
    Ok(Database { connection, opened, database_id, writes, sealer, transport_key, lock: None })
}

/// Options of a connection that reads.
pub(crate) fn reader_options(directory: &Path) -> SqliteConnectOptions {
    tuned(SqliteConnectOptions::new().filename(directory.join(DATABASE_FILE)), 512)
        .pragma("query_only", "ON")
        .row_buffer_size(256)
}

/// Options of the connection that moves the WAL into the database.
pub(crate) fn wal_options(directory: &Path) -> SqliteConnectOptions {
    tuned(SqliteConnectOptions::new().filename(directory.join(DATABASE_FILE)), 64)
}

/// Writes a copy of the database of a directory into a new file; returns its size in bytes.
pub(crate) async fn backup(directory: &Path, path: &Path) -> Result<u64, StoreError> {
    let exists = path.metadata().is_ok_and(|file| file.len() > 0);
    if exists {
        return Err(StoreError::io(path, std::io::ErrorKind::AlreadyExists.into()));
    }
    make_private(path)?;
    let written = write_backup(directory, path).await;
    if written.is_err() {
        // Half a copy is worse than none; the error below says why there is none.
        let _ = std::fs::remove_file(path);
    }
    written
}

async fn write_backup(directory: &Path, path: &Path) -> Result<u64, StoreError> {
    let failed = || StoreError::sql("write the backup");
    let target =
        path.to_str().ok_or_else(|| StoreError::io(path, std::io::ErrorKind::InvalidFilename.into()))?;
    // A connection of its own, since `query_only` of the readers forbids the statement.
    let mut connection = wal_options(directory).connect().await.map_err(failed())?;
    sqlx::query("VACUUM INTO ?1").bind(target).execute(&mut connection).await.map_err(failed())?;
    connection.close().await.map_err(failed())?;
    mark_backup(path).await?;
    path.metadata().map(|file| file.len()).map_err(|e| StoreError::io(path, e))
}

/// Marks the file a backup has written, so that it is never taken for the database itself.
async fn mark_backup(path: &Path) -> Result<(), StoreError> {
    let failed = || StoreError::sql("finish the backup");
    let options = tuned(SqliteConnectOptions::new().filename(path), 64).journal_mode(SqliteJournalMode::Delete);
    let mut connection = options.connect().await.map_err(failed())?;
    sqlx::query("UPDATE meta SET is_backup = 1").execute(&mut connection).await.map_err(failed())?;
    connection.close().await.map_err(failed())
}

/// Makes an empty file that only its owner reads; SQLite gives its companions the same rights.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).map_err(|e| StoreError::io(path, e))
}

fn make_directory(directory: &Path) -> Result<(), StoreError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|e| StoreError::io(directory, e))
}

fn writer_options(path: &PathBuf) -> SqliteConnectOptions {
    tuned(SqliteConnectOptions::new().filename(path), 2048)
        .journal_mode(SqliteJournalMode::Wal)
        // The WAL is moved by housekeeping, beside this connection.
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", WAL_BYTES_MAX.to_string())
        .busy_timeout(std::time::Duration::from_millis(100))
}

fn tuned(options: SqliteConnectOptions, cache_kib: u32) -> SqliteConnectOptions {
    options
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("cache_size", format!("-{cache_kib}"))
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging()
}

async fn refuse_newer_schema(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let failed = || StoreError::sql("read the schema version");
    let managed: bool =
        sqlx::query_scalar("SELECT count(*) > 0 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed())?;
    if !managed {
        return Ok(());
    }
    let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
        .map_err(failed())?;
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    match found {
        Some(found) if found > known => Err(StoreError::NewerSchema { found, known }),
        _ => Ok(()),
    }
}

struct Standing {
    stamp: Stamp,
    kek_check: Vec<u8>,
    is_backup: bool,
}

/// What the database says of itself; `None` while it is being made.
async fn standing(connection: &mut SqliteConnection) -> Result<Option<Standing>, StoreError> {
    let failed = || StoreError::sql("read what the database is");
    let made: bool = sqlx::query_scalar(
        "SELECT count(*) = 2 FROM sqlite_schema WHERE type = 'table' AND name IN ('meta', 'journal')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed())?;
    if !made {
        return Ok(None);
    }
    let row = sqlx::query(
        "SELECT database_id, epoch, writes, kek_check, is_backup, \
         coalesce((SELECT first_seq + count - 1 FROM journal ORDER BY batch DESC LIMIT 1), 0) FROM meta WHERE id = 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(failed())?;
    let Some(row) = row else {
        return Ok(None);
    };
    Ok(Some(Standing {
        stamp: Stamp {
            database_id: row.get(0),
            epoch: sql::uint(row.get(1)),
            head_seq: sql::computed(&row, 5, LAST_ROW)?,
            writes: sql::uint(row.get(2)),
        },
        kek_check: row.get(3),
        is_backup: row.get(4),
    }))
}

/// Brings the schema up to date, takes the next epoch and reads where the journal stands.
async fn take_over(
    connection: &mut SqliteConnection,
    database_id: &str,
    sealer: &Sealer,
) -> Result<(Opened, Stamp), StoreError> {
    MIGRATIONS.run_direct(None, &mut *connection, false).await.map_err(|error| StoreError::Sql {
        doing: "bring the schema up to date",
        source: std::sync::Arc::new(error.into()),
    })?;
    seam::crash_point("store.open.migrated");
    let failed = || StoreError::sql("take the database over");
    sqlx::query(
        "INSERT INTO meta (id, database_id, epoch, writes, checkpoint_batch, kek_check, created_at_us) \
         VALUES (1, ?1, 1, 0, 0, ?2, ?3) ON CONFLICT (id) DO UPDATE SET epoch = epoch + 1",
    )
    .bind(database_id)
    .bind(sealer.check())
    .bind(seam::wall_us())
    .execute(&mut *connection)
    .await
    .map_err(failed())?;
    seam::crash_point("store.open.epoch_risen");
    let meta = sqlx::query("SELECT database_id, epoch, writes FROM meta WHERE id = 1")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed())?;
    let last =
        sqlx::query("SELECT batch, first_seq + count, end_bytes FROM journal ORDER BY batch DESC LIMIT 1")
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed())?;
    let first = sqlx::query("SELECT first_seq, end_bytes - length(body) FROM journal ORDER BY batch LIMIT 1")
        .fetch_optional(connection)
        .await
        .map_err(failed())?;
    let next_seq = last.as_ref().map_or(Ok(1), |row| sql::computed(row, 1, LAST_ROW))?;
    let begin_bytes =
        first.as_ref().map_or(Ok(0), |row| sql::computed(row, 1, "the first row of the journal"))?;
    let stamp = Stamp {
        database_id: meta.get(0),
        epoch: sql::uint(meta.get(1)),
        head_seq: next_seq.checked_sub(1).ok_or(StoreError::Damaged { what: LAST_ROW })?,
        writes: sql::uint(meta.get(2)),
    };
    let opened = Opened {
        epoch: stamp.epoch,
        batch: last.as_ref().map_or(0, |row| sql::uint(row.get(0))),
        next_seq,
        earliest_seq: first.as_ref().map_or(next_seq, |row| sql::uint(row.get(0))),
        end_bytes: last.as_ref().map_or(0, |row| sql::uint(row.get(2))),
        removed_bytes: begin_bytes.saturating_sub(ROW_OVERHEAD),
    };
    Ok((opened, stamp))
}

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// What a message calls the row that tells where the journal ends.
const LAST_ROW: &str = "the last row of the journal";
pub(crate) const DATABASE_FILE: &str = "loam.db";
pub(crate) const WAL_FILE: &str = "loam.db-wal";
const KEK_FILE: &str = "kek";
const TRANSPORT_KEY_FILE: &str = "app-kek";
