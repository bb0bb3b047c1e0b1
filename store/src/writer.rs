//! The writer of a store: the only one that changes what is durable. It gives the journal and the table writes their turns.
//!
//! What it does is the same on every engine; a [`Medium`] is what one engine adds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use seam::{Bug, planted};
use tokio::time::Instant;

use crate::StoreError;
use crate::job::Job;
use crate::journal::{Committed, Submission};
use crate::metrics::add;
use crate::queue::{Last, Pace, Queue, Turn};
use crate::row::{Effects, JournalRow, Standing};
use crate::shared::Shared;

/// What a writer writes on, and how it sleeps.
pub(crate) trait Medium {
    type Job: Job + ?Sized;

    /// Waits for the next turn.
    async fn next(&mut self, queue: &Queue<Self::Job>, pace: &Pace) -> Turn;

    /// Waits before a commit is tried again; false: the store is closing.
    async fn pause(&mut self, queue: &Queue<Self::Job>, duration: Duration) -> bool;

    /// Tries to write a row of the journal. A row that an earlier attempt has written is a success; one of a former owner is
    /// [`StoreError::Fenced`].
    async fn insert(&mut self, row: &JournalRow) -> Result<(), StoreError>;

    /// Runs a job and those behind it ([`Queue::next_job`]) in one transaction. All of them are in `finished` afterwards; an error says
    /// that nothing of them became durable, or that nobody knows.
    async fn transaction(
        &mut self,
        queue: &Queue<Self::Job>,
        first: Box<Self::Job>,
        finished: &mut Vec<Box<Self::Job>>,
    ) -> Result<(), StoreError>;
}

pub(crate) struct Writer<M: Medium> {
    pub(crate) medium: M,
    queue: Arc<Queue<M::Job>>,
    shared: Arc<Shared>,
    next_seq: u64,
    /// True while a batch of the journal is tried again.
    batch_waits: bool,
}

impl<M: Medium> Writer<M> {
    pub(crate) fn new(medium: M, queue: Arc<Queue<M::Job>>, shared: Arc<Shared>) -> Self {
        let next_seq = shared.head.seq().saturating_add(1);
        Self { medium, queue, shared, next_seq, batch_waits: false }
    }

    /// Runs until the queue is closed and empty.
    pub(crate) async fn run(&mut self) -> Result<(), StoreError> {
        // Whatever ends the writer, nobody waits for it afterwards.
        let _end = EndOnDrop { queue: Arc::clone(&self.queue), shared: Arc::clone(&self.shared) };
        let mut pace = Pace { journal_at: None, jobs_at: None, last: Last::Jobs };
        loop {
            match self.medium.next(&self.queue, &pace).await {
                Turn::Journal(batch) => {
                    (pace.journal_at, pace.last) = (Some(Instant::now()), Last::Journal);
                    self.commit(batch).await?;
                }
                Turn::Jobs => {
                    (pace.jobs_at, pace.last) = (Some(Instant::now()), Last::Jobs);
                    self.run_jobs().await;
                }
                Turn::Close => return Ok(()),
            }
        }
    }

    /// Makes a batch durable, however long it takes, then lets its effects out in order.
    async fn commit(&mut self, batch: Vec<Submission>) -> Result<(), StoreError> {
        let (row, mut effects) = JournalRow::encode(batch, self.standing());
        if planted(Bug::EffectsBeforeCommit) {
            for (done, first_seq) in std::mem::take(&mut effects) {
                done(Committed { first_seq });
            }
        }
        seam::crash_point("store.journal.before_write");
        let started = Instant::now();
        loop {
            let error = match self.medium.insert(&row).await {
                Ok(()) => break,
                Err(error) => error,
            };
            add(&self.shared.metrics.commit_failures, 1);
            self.batch_waits = true;
            self.shared.not_ready(&error);
            // Reads go on, and so do the jobs: one of them may be what frees the space.
            self.run_jobs().await;
            if !self.medium.pause(&self.queue, RETRY_AFTER).await {
                // One last attempt, since closing may have come in the middle of a pause.
                if self.medium.insert(&row).await.is_ok() {
                    break;
                }
                let submissions = row.submissions.saturating_add(self.queue.len());
                tracing::error!(submissions, error = %error.with_source(), "closed with steps that were not written");
                return Err(StoreError::Unwritten { submissions });
            }
        }
        seam::crash_point("store.journal.written");
        self.shared.metrics.observe_commit(started.elapsed());
        self.batch_waits = false;
        self.shared.ready();
        self.committed(row, effects);
        Ok(())
    }

    fn standing(&self) -> Standing {
        Standing {
            batch: self.shared.batch.load(Ordering::Relaxed),
            next_seq: self.next_seq,
            epoch: self.shared.epoch,
            end_bytes: self.shared.end_bytes.load(Ordering::Relaxed),
        }
    }

    /// Tells everyone of a row that is durable.
    fn committed(&mut self, row: JournalRow, effects: Effects) {
        let shared = &self.shared;
        add(&shared.metrics.submissions, row.submissions as u64);
        add(&shared.metrics.records, row.count());
        add(&shared.metrics.bytes, row.body.len() as u64);
        shared.batch.store(row.batch, Ordering::Release);
        shared.end_bytes.store(row.end_bytes, Ordering::Relaxed);
        self.next_seq = row.next_seq();
        if !row.records.is_empty() {
            shared.tail.push(row.first_seq, row.records);
            shared.head.move_to(self.next_seq.saturating_sub(1));
        }
        seam::crash_point("store.journal.head_moved");
        for (done, first_seq) in effects {
            // A panic in an effect must not take the journal along.
            if catch_unwind(AssertUnwindSafe(|| done(Committed { first_seq }))).is_err() {
                tracing::error!(first_seq, "an effect of a commit panicked");
            }
        }
        seam::crash_point("store.journal.effects_left");
    }

    /// Runs the jobs that wait, in one transaction.
    async fn run_jobs(&mut self) {
        let Some(first) = self.queue.next_job(Duration::ZERO) else {
            return;
        };
        let mut finished = Vec::new();
        let outcome = self.medium.transaction(&self.queue, first, &mut finished).await;
        match &outcome {
            Ok(()) => {
                seam::crash_point("store.tables.committed");
                add(&self.shared.metrics.table_commits, 1);
                add(&self.shared.metrics.table_writes, finished.len() as u64);
                // A table write that fits says nothing about a batch that does not.
                if !self.batch_waits {
                    self.shared.ready();
                }
            }
            Err(error) if error.is_disk_trouble() => self.shared.not_ready(error),
            Err(error) => {
                tracing::error!(error = %error.with_source(), writes = finished.len(), "a transaction was taken back");
            }
        }
        for job in finished {
            job.finish(outcome.clone());
        }
    }
}

struct EndOnDrop<J: Job + ?Sized> {
    queue: Arc<Queue<J>>,
    shared: Arc<Shared>,
}

impl<J: Job + ?Sized> Drop for EndOnDrop<J> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "the writer of the store has ended by a fault; start the server again".to_owned();
            tracing::error!(reason, "nothing more can be made durable");
            self.shared.readiness.send_replace(crate::Readiness::NotReady { reason, disk_full: false });
        }
        let lost = self.queue.end();
        if lost > 0 {
            tracing::error!(submissions = lost, "the writer ended with steps in its queue");
        }
    }
}

const RETRY_AFTER: Duration = Duration::from_millis(250);
