//! The writer thread: the only one that changes the database.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use proto::internal::{JournalBody, Record};
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::watch;

use crate::job::Job;
use crate::journal::{Committed, Done, Submission};
use crate::lock::DirectoryLock;
use crate::metrics::{Metrics, add};
use crate::queue::{Last, Pace, Queue, Turn};
use crate::stamp::Stamp;
use crate::store::Readiness;
use crate::tail::Tail;
use crate::{StoreError, StoreOptions, sql};

/// What the writer and everyone else look at.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) tail: Tail,
    pub(crate) metrics: Metrics,
    /// The last committed sequence.
    pub(crate) head: watch::Sender<u64>,
    /// The first sequence still kept.
    pub(crate) earliest: AtomicU64,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// The last committed journal row.
    pub(crate) batch: AtomicI64,
    /// Bytes of all bodies ever written, and of those removed.
    pub(crate) end_bytes: AtomicI64,
    pub(crate) removed_bytes: AtomicI64,
    /// meta.writes as of the last commit.
    pub(crate) writes: AtomicU64,
    /// Pages written to the WAL since it was moved, about.
    pub(crate) wal_frames: AtomicU64,
    /// Asks the writer to move the rest of the WAL between two turns.
    pub(crate) wal_rest: AtomicBool,
    pub(crate) epoch: u64,
    pub(crate) database_id: String,
    /// `None` in memory, and once the writer has ended.
    lock: Mutex<Option<DirectoryLock>>,
}

impl Shared {
    pub(crate) fn new(options: &StoreOptions, opened: Opened, lock: Option<DirectoryLock>) -> Self {
        Self {
            queue: Queue::new(options),
            tail: Tail::new(options.tail_bytes),
            metrics: Metrics::default(),
            head: watch::Sender::new(opened.next_seq - 1),
            earliest: AtomicU64::new(opened.earliest_seq),
            readiness: watch::Sender::new(Readiness::Ready),
            batch: AtomicI64::new(opened.batch),
            end_bytes: AtomicI64::new(opened.end_bytes),
            removed_bytes: AtomicI64::new(opened.removed_bytes),
            writes: AtomicU64::new(opened.writes),
            wal_frames: AtomicU64::new(0),
            wal_rest: AtomicBool::new(false),
            epoch: opened.epoch,
            database_id: opened.database_id,
            lock: Mutex::new(lock),
        }
    }

    /// Where the database stands; never ahead of what is durable.
    pub(crate) fn standing(&self) -> Stamp {
        Stamp {
            database_id: self.database_id.clone(),
            epoch: self.epoch,
            head_seq: *self.head.borrow(),
            writes: self.writes.load(Ordering::Relaxed),
        }
    }

    /// Writes the stamp, one at a time and only while the directory is ours: the next owner has a stamp of its own.
    pub(crate) fn write_stamp(&self) -> Result<(), StoreError> {
        match &*self.lock.lock() {
            Some(lock) => self.standing().write(lock.directory()),
            None => Ok(()),
        }
    }

    /// Writes the last stamp and frees the directory.
    fn leave_directory(&self) -> Result<(), StoreError> {
        let lock = self.lock.lock().take();
        lock.map_or(Ok(()), |lock| self.standing().write(lock.directory()))
    }

    pub(crate) fn journal_bytes(&self) -> u64 {
        let removed = self.removed_bytes.load(Ordering::Relaxed);
        sql::uint(self.end_bytes.load(Ordering::Relaxed).saturating_sub(removed))
    }
}

/// Where the database stood when it was opened.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) database_id: String,
    pub(crate) epoch: u64,
    pub(crate) writes: u64,
    pub(crate) batch: i64,
    pub(crate) next_seq: u64,
    pub(crate) earliest_seq: u64,
    pub(crate) end_bytes: i64,
    pub(crate) removed_bytes: i64,
}

/// Keeps the writer alive: when the last handle goes, the writer finishes its queue and ends.
pub(crate) struct WriterHandle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

impl WriterHandle {
    /// Starts the thread. It owns the connection, and frees the directory when it ends.
    pub(crate) fn start(
        shared: Arc<Shared>,
        connection: SqliteConnection,
        next_seq: u64,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| StoreError::Start { source: Arc::new(e) })?;
        let writer = Writer {
            shared: Arc::clone(&shared),
            connection,
            runtime,
            next_seq,
            batch_waits: false,
            transaction_open: false,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| StoreError::Start { source: Arc::new(e) })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    /// Finishes what was taken and ends the thread; waits for it. The second call has nothing to do.
    pub(crate) fn close_blocking(&self) -> Result<(), StoreError> {
        self.shared.queue.close();
        match self.thread.lock().take() {
            Some(thread) => thread.join().map_err(|_| StoreError::Closed)?,
            None => Ok(()),
        }
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

struct Writer {
    shared: Arc<Shared>,
    connection: SqliteConnection,
    runtime: tokio::runtime::Runtime,
    next_seq: u64,
    /// True while a batch of the journal is tried again.
    batch_waits: bool,
    /// True when a transaction that failed could not be ended.
    transaction_open: bool,
}

impl Writer {
    fn run(mut self) -> Result<(), StoreError> {
        // Whatever ends this thread, nobody waits for it afterwards.
        let end = EndOnDrop(Arc::clone(&self.shared));
        let mut pace = Pace { journal_at: None, jobs_at: None, last: Last::Jobs };
        let outcome = loop {
            let turn = self.shared.queue.next(&pace);
            if self.shared.wal_rest.swap(false, Ordering::Relaxed) {
                self.move_rest_of_wal();
            }
            match turn {
                Turn::Journal(batch) => {
                    (pace.journal_at, pace.last) = (Some(Instant::now()), Last::Journal);
                    if let Err(error) = self.commit(batch) {
                        break Err(error);
                    }
                }
                Turn::Jobs => {
                    (pace.jobs_at, pace.last) = (Some(Instant::now()), Last::Jobs);
                    self.run_jobs();
                }
                Turn::Close => break Ok(()),
            }
        };
        drop(end);
        let Self { shared, connection, runtime, .. } = self;
        let closed = runtime.block_on(async {
            let mut connection = connection;
            // Leaves one file behind; a reader that is still there only makes the next start longer.
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
            connection.close().await
        });
        seam::crash_point("store.close.before_stamp");
        let stamped = shared.leave_directory();
        seam::crash_point("store.close.stamped");
        outcome?;
        closed.map_err(StoreError::sql("close")).and(stamped)
    }

    /// Makes a batch durable, however long it takes, then lets its effects out in order.
    fn commit(&mut self, batch: Vec<Submission>) -> Result<(), StoreError> {
        let submissions = batch.len();
        let mut row = JournalRow::encode(batch, self.next_seq);
        seam::crash_point("store.journal.before_write");
        let started = Instant::now();
        loop {
            let error = match self.insert(&row) {
                Ok(()) => break,
                Err(error) => error,
            };
            add(&self.shared.metrics.commit_failures, 1);
            self.batch_waits = true;
            self.not_ready(&error);
            // Reads go on, and so do the jobs: one of them may be what frees the space.
            self.run_jobs();
            if !self.shared.queue.pause(RETRY_AFTER) {
                // One last attempt, since closing may have come in the middle of a pause.
                if self.insert(&row).is_ok() {
                    break;
                }
                let submissions = submissions + self.shared.queue.len();
                tracing::error!(submissions, error = %error.with_source(), "closed with steps that were not written");
                return Err(StoreError::Unwritten { submissions });
            }
        }
        seam::crash_point("store.journal.written");
        self.shared.metrics.observe_commit(started.elapsed());
        self.batch_waits = false;
        self.ready();

        let shared = &self.shared;
        add(&shared.metrics.submissions, submissions as u64);
        add(&shared.metrics.records, row.records.len() as u64);
        add(&shared.metrics.bytes, row.body.len() as u64);
        add(&shared.wal_frames, row.body.len() as u64 / PAGE_BYTES + PAGES_PER_COMMIT);
        shared.batch.fetch_add(1, Ordering::Release);
        shared.end_bytes.fetch_add(row.len(), Ordering::Relaxed);
        self.next_seq += row.records.len() as u64;
        if !row.records.is_empty() {
            shared.tail.push(row.first_seq, std::mem::take(&mut row.records));
            shared.head.send_replace(self.next_seq - 1);
        }
        seam::crash_point("store.journal.head_moved");
        for (done, first_seq) in row.done {
            // A panic in an effect must not take the journal along.
            if catch_unwind(AssertUnwindSafe(|| done(Committed { first_seq }))).is_err() {
                tracing::error!(first_seq, "an effect of a commit panicked");
            }
        }
        seam::crash_point("store.journal.effects_left");
        Ok(())
    }

    fn insert(&mut self, row: &JournalRow) -> Result<(), StoreError> {
        if self.transaction_open {
            self.leave_transaction();
        }
        if self.transaction_open {
            return Err(StoreError::sql("leave a transaction that failed")(sqlx::Error::BeginFailed));
        }
        let batch = self.shared.batch.load(Ordering::Relaxed) + 1;
        let end_bytes = self.shared.end_bytes.load(Ordering::Relaxed) + row.len();
        let epoch = self.shared.epoch;
        let connection = &mut self.connection;
        self.runtime.block_on(async {
            let inserted = sqlx::query(INSERT_ROW)
                .bind(batch)
                .bind(sql::int(row.first_seq))
                .bind(sql::int(row.records.len() as u64))
                .bind(sql::int(epoch))
                .bind(row.at_us.0)
                .bind(row.at_us.1)
                .bind(end_bytes)
                .bind(row.body.as_slice())
                .execute(&mut *connection)
                .await
                .map_err(StoreError::sql("write the journal"));
            match inserted {
                Ok(done) if done.rows_affected() == 1 => Ok(()),
                Ok(_) => Err(StoreError::Fenced { epoch }),
                // An earlier attempt was reported as failed and is there all the same.
                Err(error) if error.is_unique_violation() => {
                    let found = sqlx::query("SELECT body FROM journal WHERE batch = ?1 AND epoch = ?2")
                        .bind(batch)
                        .bind(sql::int(epoch))
                        .fetch_optional(&mut *connection)
                        .await
                        .map_err(StoreError::sql("read the journal"))?;
                    match found {
                        Some(found) if found.get::<&[u8], _>(0) == row.body => Ok(()),
                        _ => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })
    }

    /// Runs the jobs that wait, in one transaction, each behind a savepoint.
    fn run_jobs(&mut self) {
        let started = Instant::now();
        let Some(first) = self.shared.queue.next_job(Duration::ZERO) else {
            return;
        };
        let mut finished: Vec<Box<dyn Job>> = Vec::new();
        let outcome = self.transaction(started, first, &mut finished);
        if let Err(error) = &outcome {
            if error.is_disk_full() {
                self.not_ready(error);
            } else {
                tracing::error!(error = %error.with_source(), writes = finished.len(), "a transaction was taken back");
            }
            self.leave_transaction();
        } else {
            seam::crash_point("store.tables.committed");
            self.shared.writes.fetch_add(1, Ordering::Relaxed);
            add(&self.shared.metrics.table_commits, 1);
            add(&self.shared.metrics.table_writes, finished.len() as u64);
            add(&self.shared.wal_frames, finished.len() as u64 + PAGES_PER_COMMIT);
            self.ready();
        }
        for job in finished {
            job.finish(outcome.clone());
        }
    }

    /// Ends a transaction that failed. Should one ever stay open, no row of the journal may be written into it.
    fn leave_transaction(&mut self) {
        let Self { connection, runtime, .. } = self;
        // Fails when SQLite has taken it back by itself.
        let _ = runtime.block_on(sqlx::query("ROLLBACK").execute(&mut *connection));
        let left = runtime.block_on(sqlx::query("BEGIN; COMMIT").execute(&mut *connection));
        self.transaction_open = left.is_err();
    }

    fn transaction(
        &mut self,
        started: Instant,
        first: Box<dyn Job>,
        finished: &mut Vec<Box<dyn Job>>,
    ) -> Result<(), StoreError> {
        let Self { shared, connection, runtime, .. } = self;
        let begun = runtime.block_on(sqlx::query("BEGIN IMMEDIATE; SAVEPOINT job").execute(&mut *connection));
        let mut next = Some(first);
        if let Err(error) = begun {
            finished.extend(next);
            return Err(StoreError::sql("begin a transaction")(error));
        }
        while let Some(mut job) = next.take() {
            let ran = runtime.block_on(job.run(&mut *connection));
            finished.push(job);
            next = shared.queue.next_job(started.elapsed());
            let statement = match (&ran, next.is_some()) {
                (Ok(()), true) => "RELEASE job; SAVEPOINT job",
                (Ok(()), false) => "RELEASE job; UPDATE meta SET writes = writes + 1; COMMIT",
                (Err(_), true) => "ROLLBACK TO job",
                (Err(_), false) => "ROLLBACK TO job; RELEASE job; UPDATE meta SET writes = writes + 1; COMMIT",
            };
            if next.is_none() {
                seam::crash_point("store.tables.before_commit");
            }
            if let Err(error) = runtime.block_on(sqlx::query(statement).execute(&mut *connection)) {
                finished.extend(next);
                // A full disk may have ended the transaction inside the job, whose own error says so.
                return Err(ran
                    .err()
                    .filter(StoreError::is_disk_full)
                    .unwrap_or_else(|| StoreError::sql("commit")(error)));
            }
        }
        Ok(())
    }

    /// Moves what the checkpoints beside this thread have left of the WAL, so that the next commit can start it over.
    fn move_rest_of_wal(&mut self) {
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut self.connection);
        if let Err(error) = self.runtime.block_on(checkpoint) {
            tracing::debug!(%error, "the rest of the WAL was not moved");
        }
        seam::crash_point("store.wal.rest_moved");
    }

    fn not_ready(&self, error: &StoreError) {
        let reason = error.with_source();
        let disk_full = error.is_disk_full();
        self.shared.readiness.send_if_modified(|readiness| {
            let was_ready = readiness.is_ready();
            if was_ready {
                tracing::error!(%reason, disk_full, "the store does not take writes; trying again until it does");
            }
            let now = Readiness::NotReady { reason, disk_full };
            let modified = *readiness != now;
            *readiness = now;
            modified
        });
    }

    fn ready(&self) {
        // A table write that fits says nothing about a batch that does not.
        self.shared.readiness.send_if_modified(|readiness| {
            if self.batch_waits || readiness.is_ready() {
                return false;
            }
            tracing::info!("the store takes writes again");
            *readiness = Readiness::Ready;
            true
        });
    }
}

struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if !self.0.queue.is_closing() {
            let reason = "the writer of the store has ended by a fault; start the server again".to_owned();
            tracing::error!(reason, "nothing more can be made durable");
            self.0.readiness.send_replace(Readiness::NotReady { reason, disk_full: false });
        }
        let lost = self.0.queue.end();
        if lost > 0 {
            tracing::error!(submissions = lost, "the writer ended with steps in its queue");
        }
    }
}

/// A batch, ready to be written.
struct JournalRow {
    first_seq: u64,
    records: Vec<Record>,
    at_us: (i64, i64),
    body: Vec<u8>,
    /// What to call after the commit, with the first sequence of each submission.
    done: Vec<(Done, u64)>,
}

impl JournalRow {
    fn encode(batch: Vec<Submission>, first_seq: u64) -> Self {
        let mut body = JournalBody::default();
        body.records.reserve(batch.iter().map(|s| s.records.len()).sum());
        body.deltas.reserve(batch.iter().map(|s| s.deltas.len()).sum());
        let mut done = Vec::with_capacity(batch.len());
        for submission in batch {
            if let Some(call) = submission.done {
                done.push((call, first_seq + body.records.len() as u64));
            }
            body.records.extend(submission.records);
            body.deltas.extend(submission.deltas);
        }
        let times = body.records.iter().map(|record| record.at_us);
        let at_us = match (times.clone().min(), times.max()) {
            (Some(min), Some(max)) => (min, max),
            _ => (sql::now_us(), sql::now_us()),
        };
        let bytes = body.encode_to_vec();
        Self { first_seq, records: body.records, at_us, body: bytes, done }
    }

    /// Bytes this row adds to what the retention counts.
    fn len(&self) -> i64 {
        sql::int(self.body.len() as u64 + ROW_OVERHEAD)
    }
}

/// The owner's epoch is checked in the statement that writes, so that a former owner cannot slip a row in.
const INSERT_ROW: &str = "INSERT INTO journal (batch, first_seq, count, epoch, at_us_min, at_us_max, end_bytes, body) \
     SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM meta WHERE id = 1 AND epoch = ?4";

const RETRY_AFTER: Duration = Duration::from_millis(250);
const PAGE_BYTES: u64 = 4096;
/// Pages of the trees that every commit writes again, about.
const PAGES_PER_COMMIT: u64 = 4;
/// What a row takes beside its body, about.
pub(crate) const ROW_OVERHEAD: u64 = 64;
