//! What the writer of a store and everyone else look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::head::Head;
use crate::metrics::Metrics;
use crate::store::Readiness;
use crate::tail::Tail;
use crate::{StoreError, StoreOptions};

pub(crate) struct Shared {
    pub(crate) tail: Tail,
    pub(crate) metrics: Metrics,
    pub(crate) head: Arc<Head>,
    /// The first sequence still kept.
    pub(crate) earliest: AtomicU64,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// The last committed journal row.
    pub(crate) batch: AtomicU64,
    /// Bytes of all bodies ever written, and of those removed.
    pub(crate) end_bytes: AtomicU64,
    pub(crate) removed_bytes: AtomicU64,
    pub(crate) epoch: u64,
}

/// Where the journal stood when it was taken over.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) epoch: u64,
    pub(crate) batch: u64,
    pub(crate) next_seq: u64,
    pub(crate) earliest_seq: u64,
    pub(crate) end_bytes: u64,
    pub(crate) removed_bytes: u64,
}

impl Shared {
    pub(crate) fn new(options: &StoreOptions, opened: &Opened) -> Self {
        Self {
            tail: Tail::new(options.tail_bytes),
            metrics: Metrics::default(),
            head: Head::new(opened.next_seq.saturating_sub(1)),
            earliest: AtomicU64::new(opened.earliest_seq),
            readiness: watch::Sender::new(Readiness::Ready),
            batch: AtomicU64::new(opened.batch),
            end_bytes: AtomicU64::new(opened.end_bytes),
            removed_bytes: AtomicU64::new(opened.removed_bytes),
            epoch: opened.epoch,
        }
    }

    pub(crate) fn journal_bytes(&self) -> u64 {
        self.end_bytes.load(Ordering::Relaxed).saturating_sub(self.removed_bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn not_ready(&self, error: &StoreError) {
        let reason = error.with_source();
        let disk_full = error.is_disk_full();
        self.readiness.send_if_modified(|readiness| {
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

    pub(crate) fn ready(&self) {
        self.readiness.send_if_modified(|readiness| {
            if readiness.is_ready() {
                return false;
            }
            tracing::info!("the store takes writes again");
            *readiness = Readiness::Ready;
            true
        });
    }
}
