//! A world with a plan.
#![allow(clippy::unwrap_used)]
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::{
    Faults, MemoryDisk, ReadFate, Store, StoreError, StoreOptions, WriteFate, WriteKind, WriteOutcome,
};

/// Gives fates in the order in which they were planned; afterwards everything goes well at once.
#[derive(Default)]
pub(super) struct Plan {
    journal: Mutex<VecDeque<WriteFate>>,
    tables: Mutex<VecDeque<WriteFate>>,
    open: Mutex<VecDeque<WriteFate>>,
    reads: Mutex<VecDeque<ReadFate>>,
    asked: Mutex<Vec<WriteKind>>,
    pub(super) reads_asked: AtomicU64,
    pub(super) off: AtomicBool,
}

impl Plan {
    pub(super) fn journal(&self, fates: impl IntoIterator<Item = WriteFate>) {
        self.journal.lock().extend(fates);
    }

    pub(super) fn tables(&self, fates: impl IntoIterator<Item = WriteFate>) {
        self.tables.lock().extend(fates);
    }

    pub(super) fn open(&self, fates: impl IntoIterator<Item = WriteFate>) {
        self.open.lock().extend(fates);
    }

    pub(super) fn reads(&self, fates: impl IntoIterator<Item = ReadFate>) {
        self.reads.lock().extend(fates);
    }

    /// The write transactions since the last look.
    pub(super) fn asked(&self) -> Vec<WriteKind> {
        std::mem::take(&mut self.asked.lock())
    }
}

impl Faults for Plan {
    fn write(&self, what: WriteKind) -> WriteFate {
        self.asked.lock().push(what);
        let plan = match what {
            WriteKind::Journal { .. } => &self.journal,
            WriteKind::Open => &self.open,
            WriteKind::Tables { .. } => &self.tables,
        };
        plan.lock().pop_front().unwrap_or(WriteFate::DONE)
    }

    fn read(&self) -> ReadFate {
        self.reads_asked.fetch_add(1, Ordering::Relaxed);
        self.reads.lock().pop_front().unwrap_or(ReadFate::DONE)
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }
}

pub(super) fn at_once(outcome: WriteOutcome) -> WriteFate {
    WriteFate { takes: Duration::ZERO, outcome }
}

pub(super) fn after_ms(ms: u64) -> WriteFate {
    WriteFate { takes: Duration::from_millis(ms), outcome: WriteOutcome::Done }
}

pub(super) fn read_after_ms(ms: u64) -> ReadFate {
    ReadFate::Done { takes: Duration::from_millis(ms) }
}

/// A store and what the world has planned for it.
pub(super) async fn open(disk: &MemoryDisk) -> (Store, Arc<Plan>) {
    open_with(disk, StoreOptions::default()).await
}

pub(super) async fn open_with(disk: &MemoryDisk, options: StoreOptions) -> (Store, Arc<Plan>) {
    let plan = Arc::new(Plan::default());
    let store = Store::open_in_memory(disk, options, Arc::<Plan>::clone(&plan)).await.unwrap();
    plan.asked();
    (store, plan)
}

pub(super) async fn open_by(disk: &MemoryDisk, plan: &Arc<Plan>) -> Result<Store, StoreError> {
    Store::open_in_memory(disk, StoreOptions::default(), Arc::<Plan>::clone(plan)).await
}

/// Whether a future stays where it is for a day.
pub(super) async fn never<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_secs(86_400), future).await.is_err()
}
