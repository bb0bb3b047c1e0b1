//! Counters of the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of the commit latency, microseconds; the last bucket has none.
pub const COMMIT_LATENCY_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

const BUCKETS: usize = COMMIT_LATENCY_BUCKETS_US.len() + 1;

/// What the store has done since it was opened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StoreMetrics {
    /// Journal rows committed.
    pub commits: u64,
    /// Attempts to commit that the database refused.
    pub commit_failures: u64,
    /// Submissions in those rows.
    pub submissions: u64,
    /// Records in those rows.
    pub records: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// Time spent in commits, microseconds.
    pub commit_us: u64,
    /// Commits by latency; bucket i counts those up to `COMMIT_LATENCY_BUCKETS_US[i]`, not cumulative.
    pub commit_latency: [u64; BUCKETS],
    /// Submissions that wait for the writer.
    pub queued_submissions: u64,
    /// Transactions of table writes.
    pub table_commits: u64,
    /// Table writes in those transactions.
    pub table_writes: u64,
    /// Journal rows removed by the retention.
    pub rows_removed: u64,
    /// Bytes of journal kept.
    pub journal_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) commits: AtomicU64,
    pub(crate) commit_failures: AtomicU64,
    pub(crate) submissions: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) commit_us: AtomicU64,
    pub(crate) commit_latency: [AtomicU64; BUCKETS],
    pub(crate) table_commits: AtomicU64,
    pub(crate) table_writes: AtomicU64,
    pub(crate) rows_removed: AtomicU64,
}

impl Metrics {
    pub(crate) fn observe_commit(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = COMMIT_LATENCY_BUCKETS_US.partition_point(|&bound| bound < us);
        if let Some(commits) = self.commit_latency.get(bucket) {
            add(commits, 1);
        }
        add(&self.commit_us, us);
        add(&self.commits, 1);
    }

    pub(crate) fn snapshot(&self, queued_submissions: u64, journal_bytes: u64) -> StoreMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreMetrics {
            commits: read(&self.commits),
            commit_failures: read(&self.commit_failures),
            submissions: read(&self.submissions),
            records: read(&self.records),
            bytes: read(&self.bytes),
            commit_us: read(&self.commit_us),
            commit_latency: self.commit_latency.each_ref().map(read),
            queued_submissions,
            table_commits: read(&self.table_commits),
            table_writes: read(&self.table_writes),
            rows_removed: read(&self.rows_removed),
            journal_bytes,
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
