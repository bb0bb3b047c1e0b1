//! The newest part of the event log, in memory: what readers at the head get without touching SQLite.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::internal::{ReceptionRecord, Record, record::Kind};

/// A ring of committed batches, bounded by the memory they take.
#[derive(Debug)]
pub(crate) struct Tail {
    ring: RwLock<Ring>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Batch>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    first_seq: u64,
    records: Box<[Arc<Record>]>,
    bytes: usize,
}

impl Batch {
    fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.records.len() as u64)
    }
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { ring: RwLock::default(), bytes_max }
    }

    /// Adds a committed batch; the oldest ones leave until the bound holds. Sequences must be consecutive.
    pub(crate) fn push(&self, first_seq: u64, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let bytes = records.iter().map(footprint).sum();
        let records = records.into_iter().map(Arc::new).collect();
        let mut gone = Vec::new();
        let mut ring = self.ring.write();
        ring.bytes = ring.bytes.saturating_add(bytes);
        ring.batches.push_back(Batch { first_seq, records, bytes });
        // The newest batch stays whatever its size: a reader at the head must find it.
        while ring.bytes > self.bytes_max && ring.batches.len() > 1 {
            if let Some(batch) = ring.batches.pop_front() {
                ring.bytes = ring.bytes.saturating_sub(batch.bytes);
                gone.push(batch);
            }
        }
        // Freed after the lock.
        drop(ring);
    }

    /// Up to `max` records after a sequence; `None` when the first of them is not here.
    pub(crate) fn read(&self, after_seq: u64, max: usize) -> Option<Vec<(u64, Arc<Record>)>> {
        let wanted = after_seq.saturating_add(1);
        let ring = self.ring.read();
        if ring.batches.front()?.first_seq > wanted {
            return None;
        }
        let start = ring.batches.partition_point(|batch| batch.next_seq() <= wanted);
        let mut found = Vec::new();
        for batch in ring.batches.range(start..) {
            let skip = usize::try_from(wanted.saturating_sub(batch.first_seq)).unwrap_or(usize::MAX);
            for (record, seq) in batch.records.iter().zip(batch.first_seq..).skip(skip) {
                if found.len() == max {
                    return Some(found);
                }
                found.push((seq, Arc::clone(record)));
            }
        }
        Some(found)
    }
}

/// Memory a record takes, about.
fn footprint(record: &Record) -> usize {
    let receptions = |list: &Vec<ReceptionRecord>| list.capacity().saturating_mul(size_of::<ReceptionRecord>());
    let inner = match &record.kind {
        Some(Kind::Uplink(uplink)) => {
            let coding_rate = uplink.modulation.as_ref().map_or(0, |m| m.coding_rate.capacity());
            receptions(&uplink.receptions).saturating_add(uplink.frm_payload.len()).saturating_add(coding_rate)
        }
        Some(Kind::Receptions(update)) => receptions(&update.receptions),
        Some(Kind::Join(join)) => receptions(&join.receptions)
            .saturating_add(join.wrapped_app_s_key.len())
            .saturating_add(join.kek_label.capacity()),
        Some(Kind::Downlink(downlink)) => {
            downlink.item_id.capacity().saturating_add(downlink.reason.capacity())
        }
        Some(Kind::Gateway(gateway)) => gateway.detail.capacity(),
        Some(Kind::Error(error)) => {
            let text = error.message.capacity().saturating_add(error.item_id.capacity());
            error.code.capacity().saturating_add(text)
        }
        Some(Kind::DeviceStatus(_)) | None => 0,
    };
    inner.saturating_add(size_of::<Record>()).saturating_add(ALLOCATION_OVERHEAD)
}

/// The counters of an `Arc`, its place in the batch and the allocator's own words.
const ALLOCATION_OVERHEAD: usize = 72;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_ring_hands_out_consecutive_records_and_says_when_they_are_gone() {
        let one = footprint(&Record::default());
        let tail = Tail::new(one * 6);
        assert_eq!(tail.read(0, 10), None, "an empty ring knows nothing");
        for batch in 0..4 {
            tail.push(1 + batch * 2, vec![Record::default(); 2]);
        }

        let seqs =
            |after, max| tail.read(after, max).map(|r| r.iter().map(|(seq, _)| *seq).collect::<Vec<_>>());

        assert_eq!(seqs(1, 10), None, "the first batch has left");
        assert_eq!(seqs(2, 10), Some(vec![3, 4, 5, 6, 7, 8]));
        assert_eq!(seqs(3, 3), Some(vec![4, 5, 6]));
        assert_eq!(seqs(8, 10), Some(vec![]));
        assert_eq!(seqs(u64::MAX, 10), Some(vec![]));
        assert_eq!(seqs(2, 0), Some(vec![]));
    }

    #[test]
    fn a_batch_larger_than_the_ring_is_still_there_for_readers_at_the_head() {
        let tail = Tail::new(10);
        tail.push(1, vec![Record::default(); 5]);
        tail.push(6, vec![Record::default(); 5]);
        assert_eq!(tail.read(5, 10).unwrap().len(), 5);
        assert_eq!(tail.read(0, 10), None);
    }
}
