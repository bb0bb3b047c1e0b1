//! Where the network server puts its decisions.

use proto::internal::{Delta, Record};
use tokio::sync::oneshot;

use crate::StoreError;
use crate::db::{Db, on_engine};

/// Called once after the commit, on the writer's thread, in the order of the sequences. It must be short and must not wait.
pub type Done = Box<dyn FnOnce(Committed) + Send>;

/// One step of the network server: what becomes durable together.
#[derive(Default)]
pub struct Submission {
    /// Events for the log; may be empty.
    pub records: Vec<Record>,
    /// Changes of sessions; may be empty.
    pub deltas: Vec<Delta>,
    /// What leaves after the commit. Dropped without a call when the store closes before the commit.
    pub done: Option<Done>,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission")
            .field("records", &self.records.len())
            .field("deltas", &self.deltas.len())
            .finish_non_exhaustive()
    }
}

/// What a commit gave a submission.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Committed {
    /// Sequence of its first record; without records, the sequence the next record will have.
    pub first_seq: u64,
}

/// Why a submission was not taken; it comes back unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TrySubmitError {
    /// The queue is full: the disk is slower than the radio. Wait, or shed the frame before it is acknowledged.
    #[error("the journal's queue is full")]
    Full(Submission),
    /// The store is closed.
    #[error("the store is closed")]
    Closed(Submission),
}

/// The writing end of the journal. Cheap to clone.
///
/// A submission that was taken is committed, in the order in which it was taken, however long the disk refuses; meanwhile
/// [`Store::readiness`](crate::Store::readiness) says so. It is lost only with the process, and then `done` never ran.
#[derive(Clone)]
pub struct Journal {
    pub(crate) db: Db,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

impl Journal {
    /// Hands over a submission from a thread; waits while the queue is full. Never call it from an async task.
    pub fn submit_blocking(&self, submission: Submission) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.submit_blocking(submission))
    }

    /// Hands over a submission, or gives it back at once.
    pub fn try_submit(&self, submission: Submission) -> Result<(), TrySubmitError> {
        on_engine!(&self.db, db => db.try_submit(submission))
    }

    /// Hands over a submission from an async task; waits while the queue is full. Dropping the future before it is done hands over
    /// nothing.
    pub async fn submit(&self, submission: Submission) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.submit(submission).await)
    }

    /// Commits and returns the sequence of the first record. Dropping the future does not take the submission back.
    pub async fn commit(&self, records: Vec<Record>, deltas: Vec<Delta>) -> Result<u64, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let done: Done = Box::new(move |committed: Committed| {
            // The caller may have gone away; the commit stands.
            let _ = sender.send(committed.first_seq);
        });
        self.submit(Submission { records, deltas, done: Some(done) }).await?;
        on_engine!(&self.db, db => db.answer(receiver).await)
    }

    /// Submissions that wait for the writer.
    pub fn queued(&self) -> usize {
        on_engine!(&self.db, db => db.queued())
    }
}
