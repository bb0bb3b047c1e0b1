//! The reading end of the journal: one log of all events, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prost::Message;
use proto::internal::Record;
use proto::port::LogPage;

use crate::StoreError;
use crate::db::{Db, on_engine};
use crate::head::HeadWatch;
use crate::shared::Shared;

/// The event log. Cheap to clone. Sequences start at 1 and have no holes; those before [`Self::earliest`] were removed by the retention.
#[derive(Clone)]
pub struct EventLog {
    pub(crate) db: Db,
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventLog")
    }
}

impl EventLog {
    /// The last committed sequence; 0: none.
    pub fn head(&self) -> u64 {
        self.shared().head.seq()
    }

    /// The first sequence still kept; head + 1 when none is.
    pub fn earliest(&self) -> u64 {
        self.shared().earliest.load(Ordering::Acquire)
    }

    /// Tells each new head.
    pub fn subscribe(&self) -> HeadWatch {
        self.shared().head.watch()
    }

    /// Up to `max_records` records after a sequence; fewer where the memory ends and the disk begins, none at the head.
    ///
    /// At the head it is answered from memory without waiting. When `after_seq` is older than what is kept the page begins with the
    /// earliest record, and `earliest_seq` tells the gap.
    pub async fn read(&self, after_seq: u64, max_records: usize) -> Result<LogPage, StoreError> {
        self.db.alive().await;
        let head_seq = self.head();
        loop {
            let earliest_seq = self.earliest();
            let after_seq = after_seq.max(earliest_seq.saturating_sub(1));
            if after_seq >= head_seq || max_records == 0 {
                return Ok(LogPage { records: Vec::new(), head_seq, earliest_seq });
            }
            let mut records = match self.shared().tail.read(after_seq, max_records) {
                Some(records) => records,
                None => self.read_rows(after_seq, max_records).await?,
            };
            // What the retention removed meanwhile would be a hole that nobody is told of.
            if self.earliest() == earliest_seq {
                // A batch that came in since would contradict the head.
                records.truncate(records.partition_point(|(seq, _)| *seq <= head_seq));
                return Ok(LogPage { records, head_seq, earliest_seq });
            }
        }
    }

    /// The first sequence received at or after a time (microseconds since the Unix epoch); head + 1 when there is none.
    ///
    /// Where the server's clock was set back, events near that moment may be missed or come early.
    pub async fn seq_at_time(&self, received_at_us: i64) -> Result<u64, StoreError> {
        let next = self.head().saturating_add(1);
        let found = self.seek_time(received_at_us).await?;
        Ok(found.map_or(next, |seq| seq.max(self.earliest())))
    }

    fn shared(&self) -> &Arc<Shared> {
        on_engine!(&self.db, db => db.shared())
    }

    async fn read_rows(&self, after_seq: u64, max: usize) -> Result<Vec<(u64, Arc<Record>)>, StoreError> {
        let mut found: Vec<(u64, Arc<Record>)> = Vec::new();
        let mut after = after_seq;
        while found.len() < max {
            let rows = on_engine!(&self.db, db => db.rows_from(after.saturating_add(1)).await)?;
            let before = found.len();
            for (first_seq, body) in rows {
                let numbered = (first_seq..).zip(records(&body)?).filter(|(seq, _)| *seq > after);
                found.extend(
                    numbered.take(max.saturating_sub(found.len())).map(|(seq, record)| (seq, Arc::new(record))),
                );
                if found.len() == max {
                    break;
                }
            }
            if found.len() == before {
                break;
            }
            after = found.last().map_or(after, |(seq, _)| *seq);
        }
        Ok(found)
    }

    /// Finds the first record at or after a time by halving the range of rows: their times rise, but for the span of one batch.
    async fn seek_time(&self, at_us: i64) -> Result<Option<u64>, StoreError> {
        let Some((first, last)) = on_engine!(&self.db, db => db.journal_ends().await)? else {
            return Ok(None);
        };
        let mut low = first;
        let mut high = last.saturating_add(1);
        while low < high {
            let middle = low.midpoint(high);
            // A row the retention has just removed is older than anything asked for.
            if on_engine!(&self.db, db => db.at_us_max(middle).await)?.is_some_and(|newest| newest >= at_us) {
                high = middle;
            } else {
                low = middle.saturating_add(1);
            }
        }
        // Receptions are committed a window after they came, so neighbours overlap.
        let from = low.saturating_sub(TIME_SLACK_BATCHES);
        let Some((first_seq, body)) = on_engine!(&self.db, db => db.row_at(from, at_us).await)? else {
            return Ok(None);
        };
        Ok((first_seq..).zip(records(&body)?).find(|(_, record)| record.at_us >= at_us).map(|(seq, _)| seq))
    }
}

fn records(body: &[u8]) -> Result<Vec<Record>, StoreError> {
    let body = RecordsOnly::decode(body).map_err(|_| StoreError::Damaged { what: "a row of the journal" })?;
    Ok(body.records)
}

/// The records of a journal row; the deltas are skipped unread.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RecordsOnly {
    #[prost(message, repeated, tag = "1")]
    pub(crate) records: Vec<Record>,
}

const TIME_SLACK_BATCHES: u64 = 64;
