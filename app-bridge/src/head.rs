//! The head of the log, decoded once for everyone who watches it.
//!
//! One task follows the log while somebody watches and keeps what it decoded in a ring bounded by bytes. Who falls out of
//! the ring reads pages from the log until it is back; nobody waits for anybody. Sequence numbers make the seam exact.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::mark::Mark;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::decode::{Chunk, Decoder};
use crate::log::Log;

/// Records decoded together.
const PAGE_RECORDS: u32 = 256;
/// The longest wait of one read of the log; watchers may leave meanwhile.
const READ_WAIT_MS: u32 = 1_000;
/// The pause after a read or a decoding that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The shared decoder of the log's head.
pub(crate) struct Head {
    ring: Mutex<Ring>,
    /// Counts the changes of the ring.
    moved: Mark,
    watched: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct Ring {
    chunks: VecDeque<Arc<Chunk>>,
    /// The position just before the first chunk.
    start: u64,
    /// The position decoded up to.
    end: u64,
    bytes: usize,
    watchers: usize,
    /// Tells one run of the decoder from the next.
    epoch: u64,
}

/// What the ring has for a position.
pub(crate) enum Next {
    /// Everything decoded is known; wait for the ring to move.
    AtEnd,
    /// The position is older than the ring.
    Behind,
    /// The chunk that holds the record after the position.
    Chunk(Arc<Chunk>),
}

/// A watcher's place at the head; leaving is dropping it.
pub(crate) struct Seat {
    head: Arc<Head>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ring = self.head.ring.lock();
        ring.watchers = ring.watchers.saturating_sub(1);
        if ring.watchers == 0 {
            ring.chunks = VecDeque::new();
            ring.bytes = 0;
            ring.start = ring.end;
        }
    }
}

impl Head {
    /// A ring of at most `bytes_max` bytes of messages (and always the newest chunk).
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { ring: Mutex::default(), moved: Mark::at(0), watched: Notify::new(), bytes_max }
    }

    /// Takes a seat. The first one sets where the decoder starts.
    pub(crate) fn join(self: &Arc<Self>, position: u64) -> Seat {
        let mut ring = self.ring.lock();
        if ring.watchers == 0 {
            let epoch = ring.epoch.wrapping_add(1);
            *ring = Ring { start: position, end: position, epoch, ..Ring::default() };
            self.watched.notify_one();
        }
        ring.watchers = ring.watchers.saturating_add(1);
        drop(ring);
        Seat { head: Arc::clone(self) }
    }

    /// What follows a position.
    pub(crate) fn next(&self, position: u64) -> Next {
        let ring = self.ring.lock();
        if position < ring.start {
            return Next::Behind;
        }
        let index = ring.chunks.partition_point(|chunk| chunk.last_seq <= position);
        ring.chunks.get(index).map_or(Next::AtEnd, |chunk| Next::Chunk(Arc::clone(chunk)))
    }

    /// Counts the changes of the ring.
    pub(crate) fn moved(&self) -> &Mark {
        &self.moved
    }

    /// Watchers at the head.
    pub(crate) fn watchers(&self) -> usize {
        self.ring.lock().watchers
    }

    /// Decodes the head while somebody watches, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, log: Arc<Log>, decoder: Arc<Decoder>, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow(&log, &decoder)).await;
    }

    async fn follow(&self, log: &Log, decoder: &Decoder) {
        loop {
            let Some((epoch, end)) = self.assignment() else {
                self.watched.notified().await;
                continue;
            };
            let page = match log.read(end, PAGE_RECORDS, READ_WAIT_MS).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, position = end, "the event log cannot be read; streams wait");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            let follows = page.records.first().map_or(page.earliest_seq, |(seq, _)| *seq);
            if follows > end.saturating_add(1) {
                // Retention took records that were never decoded here. Each watcher reports its gap itself.
                self.skip_to(epoch, follows.saturating_sub(1));
                continue;
            }
            if page.records.is_empty() {
                continue;
            }
            match decoder.decode(end, &page.records, None).await {
                Ok(chunk) => self.push(epoch, chunk),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        position = end,
                        "events cannot be decoded; streams wait"
                    );
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn assignment(&self) -> Option<(u64, u64)> {
        let ring = self.ring.lock();
        (ring.watchers > 0).then_some((ring.epoch, ring.end))
    }

    fn push(&self, epoch: u64, chunk: Chunk) {
        let mut ring = self.ring.lock();
        if ring.epoch != epoch || ring.watchers == 0 || ring.end != chunk.after_seq {
            // Everybody left meanwhile; whoever came since starts elsewhere.
            return;
        }
        ring.end = chunk.last_seq;
        ring.bytes = ring.bytes.saturating_add(chunk.bytes);
        ring.chunks.push_back(Arc::new(chunk));
        while ring.bytes > self.bytes_max && ring.chunks.len() > 1 {
            if let Some(oldest) = ring.chunks.pop_front() {
                ring.bytes = ring.bytes.saturating_sub(oldest.bytes);
                ring.start = oldest.last_seq;
            }
        }
        drop(ring);
        self.moved.move_to(self.moved.position().wrapping_add(1));
    }

    fn skip_to(&self, epoch: u64, position: u64) {
        let mut ring = self.ring.lock();
        if ring.epoch != epoch {
            return;
        }
        ring.chunks.clear();
        ring.bytes = 0;
        ring.start = position;
        ring.end = position;
        drop(ring);
        self.moved.move_to(self.moved.position().wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(after_seq: u64, last_seq: u64, bytes: usize) -> Chunk {
        Chunk { after_seq, last_seq, bytes, entries: Vec::new() }
    }

    fn chunk_after(head: &Head, position: u64) -> Option<(u64, u64)> {
        match head.next(position) {
            Next::Chunk(chunk) => Some((chunk.after_seq, chunk.last_seq)),
            Next::AtEnd | Next::Behind => None,
        }
    }

    #[test]
    fn the_ring_hands_out_what_follows_a_position_and_forgets_the_oldest() {
        let head = Arc::new(Head::new(100));
        let _seat = head.join(10);
        let (epoch, end) = head.assignment().expect("somebody watches");
        assert_eq!(end, 10);
        assert!(matches!(head.next(10), Next::AtEnd));
        assert!(matches!(head.next(9), Next::Behind));

        head.push(epoch, chunk(10, 14, 40));
        head.push(epoch, chunk(14, 15, 40));
        assert_eq!(chunk_after(&head, 10), Some((10, 14)));
        assert_eq!(chunk_after(&head, 12), Some((10, 14)));
        assert_eq!(chunk_after(&head, 14), Some((14, 15)));
        assert!(matches!(head.next(15), Next::AtEnd));
        assert!(matches!(head.next(99), Next::AtEnd));

        head.push(epoch, chunk(15, 20, 40));
        assert!(matches!(head.next(13), Next::Behind));
        assert_eq!(chunk_after(&head, 14), Some((14, 15)));
    }

    #[test]
    fn what_was_decoded_for_watchers_that_left_is_not_shown_to_those_who_came() {
        let head = Arc::new(Head::new(100));
        let first = head.join(10);
        let (epoch, _) = head.assignment().expect("somebody watches");
        drop(first);
        assert!(head.assignment().is_none());

        let _second = head.join(50);
        head.push(epoch, chunk(10, 20, 10));
        assert!(matches!(head.next(50), Next::AtEnd));
        assert_eq!(head.assignment().map(|(_, end)| end), Some(50));
    }
}
