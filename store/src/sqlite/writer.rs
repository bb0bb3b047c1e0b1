//! The writer's thread, and how rows and jobs reach SQLite.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::time::Instant;

use super::job::SqliteJob;
use super::journal::refuse_former_owner;
use super::lock::DirectoryLock;
use super::open::Database;
use super::sql;
use super::stamp::Stamp;
use crate::metrics::add;
use crate::queue::{Pace, Queue, Turn};
use crate::row::JournalRow;
use crate::shared::Shared;
use crate::writer::{Medium, Writer};
use crate::{StoreError, StoreOptions};

/// Keeps the writer alive: when the last handle goes, the writer finishes its queue and ends.
pub(crate) struct WriterHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) queue: Arc<Queue<dyn SqliteJob>>,
    pub(crate) file: Arc<File>,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

/// What beside the journal is known of the database.
pub(crate) struct File {
    database_id: String,
    /// meta.writes as of the last commit.
    writes: AtomicU64,
    /// Pages written to the WAL since it was moved, about.
    pub(crate) wal_frames: AtomicU64,
    /// Asks the writer to move the rest of the WAL between two turns.
    pub(crate) wal_rest: AtomicBool,
    /// `None` in memory, and once the writer has ended.
    lock: Mutex<Option<DirectoryLock>>,
}

impl WriterHandle {
    /// Starts the thread. It owns the connection, and frees the directory when it ends.
    pub(crate) fn start(database: Database, options: &StoreOptions) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::new(options, &database.opened));
        let queue = Arc::new(Queue::new(options));
        let file = Arc::new(File {
            database_id: database.database_id,
            writes: AtomicU64::new(database.writes),
            wal_frames: AtomicU64::new(0),
            wal_rest: AtomicBool::new(false),
            lock: Mutex::new(database.lock),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| StoreError::Start { source: Arc::new(e) })?;
        let medium = Thread {
            file: Arc::clone(&file),
            epoch: shared.epoch,
            connection: database.connection,
            transaction_open: false,
        };
        let writer = Writer::new(medium, Arc::clone(&queue), Arc::clone(&shared));
        let (ending, of_thread) = (Arc::clone(&shared), Arc::clone(&file));
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || runtime.block_on(run(writer, &ending, &of_thread)))
            .map_err(|e| StoreError::Start { source: Arc::new(e) })?;
        Ok(Self { shared, queue, file, thread: Mutex::new(Some(thread)) })
    }

    /// Finishes what was taken and ends the thread; waits for it. The second call has nothing to do.
    pub(crate) fn close_blocking(&self) -> Result<(), StoreError> {
        self.queue.close();
        match self.thread.lock().take() {
            Some(thread) => thread.join().map_err(|_| StoreError::Closed)?,
            None => Ok(()),
        }
    }

    /// Where the database stands; never ahead of what is durable.
    pub(crate) fn standing(&self) -> Stamp {
        self.file.standing(&self.shared)
    }

    /// Writes the stamp, one at a time and only while the directory is ours: the next owner has a stamp of its own.
    pub(crate) fn write_stamp(&self) -> Result<(), StoreError> {
        match &*self.file.lock.lock() {
            Some(lock) => self.standing().write(lock.directory()),
            None => Ok(()),
        }
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl File {
    fn standing(&self, shared: &Shared) -> Stamp {
        Stamp {
            database_id: self.database_id.clone(),
            epoch: shared.epoch,
            head_seq: shared.head.seq(),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }

    /// Writes the last stamp and frees the directory.
    fn leave_directory(&self, shared: &Shared) -> Result<(), StoreError> {
        let lock = self.lock.lock().take();
        lock.map_or(Ok(()), |lock| self.standing(shared).write(lock.directory()))
    }
}

async fn run(mut writer: Writer<Thread>, shared: &Shared, file: &File) -> Result<(), StoreError> {
    let outcome = writer.run().await;
    let mut connection = writer.medium.connection;
    // Leaves one file behind; a reader that is still there only makes the next start longer.
    let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
    let closed = connection.close().await;
    seam::crash_point("store.close.before_stamp");
    let stamped = file.leave_directory(shared);
    seam::crash_point("store.close.stamped");
    outcome?;
    closed.map_err(StoreError::sql("close")).and(stamped)
}

/// A thread with a connection. It sleeps as a thread, to the microsecond; nothing else runs on its runtime.
struct Thread {
    file: Arc<File>,
    epoch: u64,
    connection: SqliteConnection,
    /// True when a transaction that failed could not be ended.
    transaction_open: bool,
}

impl Medium for Thread {
    type Job = dyn SqliteJob;

    async fn next(&mut self, queue: &Queue<Self::Job>, pace: &Pace) -> Turn {
        let turn = queue.next_blocking(pace);
        if self.file.wal_rest.swap(false, Ordering::Relaxed) {
            self.move_rest_of_wal().await;
        }
        turn
    }

    async fn pause(&mut self, queue: &Queue<Self::Job>, duration: Duration) -> bool {
        queue.pause_blocking(duration)
    }

    async fn insert(&mut self, row: &JournalRow) -> Result<(), StoreError> {
        if self.transaction_open {
            self.leave_transaction().await;
        }
        if self.transaction_open {
            return Err(StoreError::sql("leave a transaction that failed")(sqlx::Error::BeginFailed));
        }
        let inserted = sqlx::query(INSERT_ROW)
            .bind(sql::int(row.batch))
            .bind(sql::int(row.first_seq))
            .bind(sql::int(row.count()))
            .bind(sql::int(row.epoch))
            .bind(row.at_us_min)
            .bind(row.at_us_max)
            .bind(sql::int(row.end_bytes))
            .bind(row.body.as_slice())
            .execute(&mut self.connection)
            .await
            .map_err(StoreError::sql("write the journal"));
        match inserted {
            Ok(done) if done.rows_affected() == 1 => {}
            Ok(_) => return Err(StoreError::Fenced { epoch: row.epoch }),
            // An earlier attempt was reported as failed and is there all the same.
            Err(error) if error.is_unique_violation() => {
                let found = sqlx::query("SELECT epoch, body FROM journal WHERE batch = ?1")
                    .bind(sql::int(row.batch))
                    .fetch_optional(&mut self.connection)
                    .await
                    .map_err(StoreError::sql("read the journal"))?;
                if !found.is_some_and(|found| row.is_row(sql::uint(found.get(0)), found.get(1))) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        add(&self.file.wal_frames, (row.body.len() as u64 / PAGE_BYTES).saturating_add(PAGES_PER_COMMIT));
        Ok(())
    }

    async fn transaction(
        &mut self,
        queue: &Queue<Self::Job>,
        first: Box<Self::Job>,
        finished: &mut Vec<Box<Self::Job>>,
    ) -> Result<(), StoreError> {
        let outcome = self.run_jobs(queue, first, finished).await;
        if outcome.is_ok() {
            self.file.writes.fetch_add(1, Ordering::Relaxed);
            add(&self.file.wal_frames, (finished.len() as u64).saturating_add(PAGES_PER_COMMIT));
        } else {
            self.leave_transaction().await;
        }
        outcome
    }
}

impl Thread {
    /// Each job behind a savepoint.
    async fn run_jobs(
        &mut self,
        queue: &Queue<dyn SqliteJob>,
        first: Box<dyn SqliteJob>,
        finished: &mut Vec<Box<dyn SqliteJob>>,
    ) -> Result<(), StoreError> {
        let started = Instant::now();
        let connection = &mut self.connection;
        let begun = sqlx::query("BEGIN IMMEDIATE; SAVEPOINT job").execute(&mut *connection).await;
        let mut next = Some(first);
        if let Err(error) = begun {
            finished.extend(next);
            return Err(StoreError::sql("begin a transaction")(error));
        }
        if let Err(fenced) = refuse_former_owner(&mut *connection, self.epoch).await {
            finished.extend(next);
            return Err(fenced);
        }
        while let Some(mut job) = next.take() {
            let ran = job.run(&mut *connection).await;
            finished.push(job);
            next = queue.next_job(started.elapsed());
            let statement = match (&ran, next.is_some()) {
                (Ok(()), true) => "RELEASE job; SAVEPOINT job",
                (Ok(()), false) => "RELEASE job; UPDATE meta SET writes = writes + 1; COMMIT",
                (Err(_), true) => "ROLLBACK TO job",
                (Err(_), false) => "ROLLBACK TO job; RELEASE job; UPDATE meta SET writes = writes + 1; COMMIT",
            };
            if next.is_none() {
                seam::crash_point("store.tables.before_commit");
            }
            if let Err(error) = sqlx::query(statement).execute(&mut *connection).await {
                finished.extend(next);
                // The disk may have ended the transaction inside the job, whose own error says so.
                return Err(ran
                    .err()
                    .filter(StoreError::is_disk_trouble)
                    .unwrap_or_else(|| StoreError::sql("commit")(error)));
            }
        }
        Ok(())
    }

    /// Ends a transaction that failed. Should one ever stay open, no row of the journal may be written into it.
    async fn leave_transaction(&mut self) {
        // Fails when SQLite has taken it back by itself.
        let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        let left = sqlx::query("BEGIN; COMMIT").execute(&mut self.connection).await;
        self.transaction_open = left.is_err();
    }

    /// Moves what the checkpoints beside this thread have left of the WAL, so that the next commit can start it over.
    async fn move_rest_of_wal(&mut self) {
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut self.connection);
        if let Err(error) = checkpoint.await {
            tracing::debug!(%error, "the rest of the WAL was not moved");
        }
        seam::crash_point("store.wal.rest_moved");
    }
}

/// The owner's epoch is checked in the statement that writes, so that a former owner cannot slip a row in.
const INSERT_ROW: &str = "INSERT INTO journal (batch, first_seq, count, epoch, at_us_min, at_us_max, end_bytes, body) \
     SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM meta WHERE id = 1 AND epoch = ?4";

const PAGE_BYTES: u64 = 4096;
/// Pages of the trees that every commit writes again, about.
const PAGES_PER_COMMIT: u64 = 4;
