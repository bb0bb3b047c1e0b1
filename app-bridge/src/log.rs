//! The event log as the app-bridge sees it: through the network server's port, with the bounds it last heard of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::internal as pb;
use proto::port::{LogPage, NetworkPort, PortError};

/// Reads the event log and remembers its bounds.
pub(crate) struct Log {
    network: Arc<dyn NetworkPort>,
    head: AtomicU64,
    earliest: AtomicU64,
}

/// The first and last sequence of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bounds {
    /// The last committed sequence; 0: none.
    pub(crate) head: u64,
    /// The first sequence still kept.
    pub(crate) earliest: u64,
}

impl Log {
    /// `known_head` is a sequence that is surely committed, to start looking for the head from.
    pub(crate) fn new(network: Arc<dyn NetworkPort>, known_head: u64) -> Self {
        Self { network, head: AtomicU64::new(known_head), earliest: AtomicU64::new(1) }
    }

    /// Reads up to `max_records` after a sequence, waiting up to `wait_ms` for the first.
    pub(crate) async fn read(
        &self,
        after_seq: u64,
        max_records: u32,
        wait_ms: u32,
    ) -> Result<LogPage, PortError> {
        let page = self.network.read_log(pb::ReadLogRequest { after_seq, max_records, wait_ms }).await?;
        self.head.fetch_max(page.head_seq, Ordering::Relaxed);
        self.earliest.fetch_max(page.earliest_seq, Ordering::Relaxed);
        Ok(page)
    }

    /// Asks for the bounds of the log.
    pub(crate) async fn bounds(&self) -> Result<Bounds, PortError> {
        // From the last head on there is little to read, so this is cheap.
        let page = self.read(self.head.load(Ordering::Relaxed), 1, 0).await?;
        Ok(Bounds { head: page.head_seq, earliest: page.earliest_seq })
    }

    /// The bounds last heard of; no call is made.
    pub(crate) fn bounds_known(&self) -> Bounds {
        Bounds { head: self.head.load(Ordering::Relaxed), earliest: self.earliest.load(Ordering::Relaxed) }
    }

    /// The position just before the first event received at or after a time.
    ///
    /// Times rise along the log, but for the moment an event takes from reception to commit and for steps of the clock.
    /// The search lands a little early and walks the rest.
    pub(crate) async fn position_before(&self, received_at_us: i64) -> Result<u64, PortError> {
        let Bounds { head, earliest } = self.bounds().await?;
        let rough_us = received_at_us.saturating_sub(DISORDER_US);
        // Invariant: records up to `low` are older than the rough time; `high` is not, or is past the head.
        let (mut low, mut high) = (earliest.saturating_sub(1), head.saturating_add(1));
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            match self.read(middle.saturating_sub(1), 1, 0).await?.records.first() {
                Some((seq, record)) if record.at_us < rough_us => low = (*seq).max(middle),
                // Retention has overtaken the search: what was there is older than all that is left.
                None if self.bounds_known().earliest > middle => low = middle,
                Some(_) | None => high = middle,
            }
        }
        let mut position = low;
        loop {
            let page = self.read(position, WALK_RECORDS, 0).await?;
            let Some(&(last, _)) = page.records.last() else {
                return Ok(position);
            };
            if let Some((seq, _)) = page.records.iter().find(|(_, record)| record.at_us >= received_at_us) {
                return Ok(seq.saturating_sub(1));
            }
            position = last;
        }
    }
}

/// How far behind its neighbours an event's time may be.
const DISORDER_US: i64 = 10_000_000;
const WALK_RECORDS: u32 = 512;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::FakeNetwork;

    #[tokio::test]
    async fn a_time_is_found_in_the_log_even_where_times_are_a_little_out_of_order() {
        let network = FakeNetwork::new();
        let times_s = [10, 20, 19, 30, 29, 31, 100, 99, 200];
        for at in times_s {
            network.log_record(pb::Record { at_us: at * 1_000_000, ..pb::Record::default() });
        }
        let log = Log::new(network, 0);
        for (asked_s, position) in
            [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (31, 5), (99, 6), (101, 8), (201, 9)]
        {
            assert_eq!(log.position_before(asked_s * 1_000_000).await.unwrap(), position, "{asked_s} s");
        }
        assert_eq!(log.bounds().await.unwrap(), Bounds { head: 9, earliest: 1 });
    }
}
