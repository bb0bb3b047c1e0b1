//! One opening of the disk, with what the world decides for it: steps take time, fail, or end everything.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::disk::{Contents, Keys, MemoryDisk};
use super::job::MemoryJob;
use super::{Faults, ReadFate, WriteFate, WriteKind, WriteOutcome};
use crate::StoreError;
use crate::queue::{Pace, Queue, Turn};
use crate::row::JournalRow;
use crate::shared::Opened;
use crate::writer::Medium;

/// What a store runs on. Once it has crashed, no future of it completes.
pub(super) struct Machine {
    disk: MemoryDisk,
    faults: Arc<dyn Faults>,
    crashed: AtomicBool,
}

impl Machine {
    pub(super) fn new(disk: MemoryDisk, faults: Arc<dyn Faults>) -> Self {
        Self { disk, faults, crashed: AtomicBool::new(false) }
    }

    pub(super) async fn take_over(&self) -> Result<(Opened, Keys), StoreError> {
        self.attempt(WriteKind::Open, |contents| Ok(contents.take_over())).await
    }

    pub(super) async fn read<T>(&self, look: impl FnOnce(&Contents) -> T) -> Result<T, StoreError> {
        self.alive().await;
        match self.faults.read() {
            ReadFate::Crash => self.crash().await,
            ReadFate::Done { takes } => {
                self.pass(takes).await;
                Ok(look(&self.disk.lock()))
            }
            ReadFate::Failed => Err(refused(std::io::ErrorKind::Other)),
        }
    }

    /// Tries a write transaction. An error of `apply` itself has changed nothing.
    async fn attempt<T>(
        &self,
        what: WriteKind,
        apply: impl FnOnce(&mut Contents) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.alive().await;
        let WriteFate { takes, outcome } = self.faults.write(what);
        self.pass(takes).await;
        let apply = || apply(&mut self.disk.lock());
        match outcome {
            WriteOutcome::CrashAfter => {
                // Kept to the end of the world, so that nobody hears of it by its being dropped.
                let _applied = apply();
                self.crash().await
            }
            WriteOutcome::CrashBefore => self.crash().await,
            WriteOutcome::Done => apply(),
            WriteOutcome::DoneButReportedFailed => apply().and(Err(refused(std::io::ErrorKind::Other))),
            WriteOutcome::Refused { disk_full: true } => Err(refused(std::io::ErrorKind::StorageFull)),
            WriteOutcome::Refused { disk_full: false } => Err(refused(std::io::ErrorKind::Other)),
        }
    }

    async fn pass(&self, takes: Duration) {
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
            self.alive().await;
        }
    }

    /// Completes while the machine runs.
    pub(super) async fn alive(&self) {
        if self.has_crashed() {
            std::future::pending().await
        }
    }

    pub(super) fn has_crashed(&self) -> bool {
        if self.faults.is_off() {
            self.crashed.store(true, Ordering::Relaxed);
        }
        self.crashed.load(Ordering::Relaxed)
    }

    async fn crash<T>(&self) -> T {
        self.crashed.store(true, Ordering::Relaxed);
        std::future::pending().await
    }
}

/// The writer's task on a machine.
pub(super) struct Task {
    pub(super) machine: Arc<Machine>,
    pub(super) epoch: u64,
}

impl Medium for Task {
    type Job = dyn MemoryJob;

    async fn next(&mut self, queue: &Queue<Self::Job>, pace: &Pace) -> Turn {
        let turn = queue.next(pace).await;
        self.machine.alive().await;
        turn
    }

    async fn pause(&mut self, queue: &Queue<Self::Job>, duration: Duration) -> bool {
        let open = queue.pause(duration).await;
        self.machine.alive().await;
        open
    }

    async fn insert(&mut self, row: &JournalRow) -> Result<(), StoreError> {
        let what = WriteKind::Journal { submissions: row.submissions };
        self.machine
            .attempt(what, |contents| {
                contents.refuse_former_owner(row.epoch)?;
                contents.journal.insert(row)
            })
            .await
    }

    async fn transaction(
        &mut self,
        queue: &Queue<Self::Job>,
        first: Box<Self::Job>,
        finished: &mut Vec<Box<Self::Job>>,
    ) -> Result<(), StoreError> {
        finished.push(first);
        finished.extend(std::iter::from_fn(|| queue.next_job(Duration::ZERO)));
        let what = WriteKind::Tables { writes: finished.len() };
        self.machine
            .attempt(what, |contents| {
                contents.refuse_former_owner(self.epoch)?;
                finished.iter_mut().for_each(|job| job.run(contents));
                Ok(())
            })
            .await
    }
}

/// What a disk says that does not do as asked.
pub(super) fn refused(kind: std::io::ErrorKind) -> StoreError {
    StoreError::io(Path::new("the simulated disk"), kind.into())
}
