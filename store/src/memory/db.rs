//! Access for the tables: reads at one moment, writes in turns with the journal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Faults;
use super::disk::{Contents, Keys, MemoryDisk};
use super::job::{MemoryJob, job};
use super::machine::{Machine, Task};
use crate::journal::{Submission, TrySubmitError};
use crate::queue::Queue;
use crate::shared::Shared;
use crate::writer::Writer;
use crate::{StoreError, StoreOptions};

/// Cheap to clone. The writer ends when the last one is gone.
#[derive(Clone)]
pub(crate) struct Db {
    inner: Arc<Inner>,
}

/// Keeps the writer from nothing.
pub(crate) struct WeakDb {
    inner: Weak<Inner>,
}

struct Inner {
    machine: Arc<Machine>,
    queue: Arc<Queue<dyn MemoryJob>>,
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
    /// Reads are answered until then, like on every engine.
    closed: AtomicBool,
}

/// The network server's tables.
pub(crate) struct Network<'a> {
    pub(super) db: &'a Db,
}

/// The join server's tables.
pub(crate) struct Join<'a> {
    pub(super) db: &'a Db,
}

/// The app-bridge's tables.
pub(crate) struct Bridge<'a> {
    pub(super) db: &'a Db,
}

impl Db {
    /// Takes the disk over and starts the writer's task.
    pub(crate) async fn open(
        disk: &MemoryDisk,
        options: &StoreOptions,
        faults: Arc<dyn Faults>,
    ) -> Result<(Self, Keys), StoreError> {
        let machine = Arc::new(Machine::new(disk.clone(), faults));
        let (opened, keys) = machine.take_over().await?;
        let shared = Arc::new(Shared::new(options, &opened));
        let queue = Arc::new(Queue::new(options));
        let task = Task { machine: Arc::clone(&machine), epoch: shared.epoch };
        let mut writer = Writer::new(task, Arc::clone(&queue), Arc::clone(&shared));
        let writer = tokio::spawn(async move { writer.run().await });
        let (writer, closed) = (Mutex::new(Some(writer)), AtomicBool::new(false));
        Ok((Self { inner: Arc::new(Inner { machine, queue, shared, writer, closed }) }, keys))
    }

    /// Finishes what was taken and ends the writer; waits for it.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        self.inner.closed.store(true, Ordering::Relaxed);
        self.inner.queue.close();
        let writer = self.inner.writer.lock().take();
        let outcome = match writer {
            Some(writer) => writer.await.map_err(|_| StoreError::Closed)?,
            None => Ok(()),
        };
        self.alive().await;
        outcome
    }

    /// Completes while the machine runs.
    pub(crate) async fn alive(&self) {
        self.inner.machine.alive().await;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn try_submit(&self, submission: Submission) -> Result<(), TrySubmitError> {
        self.inner.queue.try_push(submission)
    }

    pub(crate) fn submit_blocking(&self, submission: Submission) -> Result<(), StoreError> {
        self.inner.queue.push_blocking(submission)
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<(), StoreError> {
        let outcome = self.inner.queue.push(submission).await;
        self.alive().await;
        outcome
    }

    pub(crate) fn queued(&self) -> usize {
        self.inner.queue.len()
    }

    /// Waits for what the writer answers.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
        let outcome = answer.await;
        self.alive().await;
        outcome.map_err(|_| StoreError::Closed)
    }

    pub(crate) fn network(&self) -> Network<'_> {
        Network { db: self }
    }

    pub(crate) fn join(&self) -> Join<'_> {
        Join { db: self }
    }

    pub(crate) fn bridge(&self) -> Bridge<'_> {
        Bridge { db: self }
    }

    pub(crate) fn downgrade(&self) -> WeakDb {
        WeakDb { inner: Arc::downgrade(&self.inner) }
    }

    /// Runs a write that may be refused in a transaction it shares with others; returns after the commit.
    pub(super) async fn try_write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Contents) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, answer) = job(work);
        let pushed = self.inner.queue.push_job(job).await;
        self.alive().await;
        pushed?;
        self.answer(answer).await?
    }

    /// Runs a write like [`Self::try_write`].
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Contents) -> T + Send + 'static,
    {
        self.try_write(|contents| Ok(work(contents))).await
    }

    /// Runs a read. It sees what was committed before it ends.
    pub(super) async fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> Result<T, StoreError> {
        if self.inner.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        self.inner.machine.read(look).await
    }
}

impl WeakDb {
    pub(crate) fn upgrade(&self) -> Option<Db> {
        Some(Db { inner: self.inner.upgrade()? })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        // What waits in a crashed writer must neither go on nor be let go while its users live.
        if let Some(writer) = self.writer.lock().take()
            && self.machine.has_crashed()
        {
            writer.abort();
        }
    }
}
