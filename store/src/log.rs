//! The reading end of the journal: one log of all events, in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prost::Message;
use proto::internal::Record;
use proto::port::LogPage;
use sqlx::Row;
use tokio::sync::watch;

use crate::db::Db;
use crate::writer::Shared;
use crate::{StoreError, sql};

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
        *self.shared().head.borrow()
    }

    /// The first sequence still kept; head + 1 when none is.
    pub fn earliest(&self) -> u64 {
        self.shared().earliest.load(Ordering::Acquire)
    }

    /// Tells each new head.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared().head.subscribe()
    }

    /// Up to `max_records` records after a sequence; fewer where the memory ends and the disk begins, none at the head.
    ///
    /// At the head it is answered from memory without waiting. When `after_seq` is older than what is kept the page begins with the
    /// earliest record, and `earliest_seq` tells the gap.
    pub async fn read(&self, after_seq: u64, max_records: usize) -> Result<LogPage, StoreError> {
        let head_seq = self.head();
        let earliest_seq = self.earliest();
        let after_seq = after_seq.max(earliest_seq.saturating_sub(1));
        let page = |records| LogPage { records, head_seq, earliest_seq };
        if after_seq >= head_seq || max_records == 0 {
            return Ok(page(Vec::new()));
        }
        if let Some(mut records) = self.shared().tail.read(after_seq, max_records) {
            // A batch that came in since would contradict the head.
            records.truncate(records.partition_point(|(seq, _)| *seq <= head_seq));
            return Ok(page(records));
        }
        self.read_disk(after_seq, max_records).await.map(page)
    }

    /// The first sequence received at or after a time (microseconds since the Unix epoch); head + 1 when there is none.
    ///
    /// Where the server's clock was set back, events near that moment may be missed or come early.
    pub async fn seq_at_time(&self, received_at_us: i64) -> Result<u64, StoreError> {
        let next = self.head() + 1;
        let found = self.db.read(move |connection| Box::pin(seek_time(connection, received_at_us))).await?;
        Ok(found.map_or(next, |seq| seq.max(self.earliest())))
    }

    fn shared(&self) -> &Arc<Shared> {
        self.db.writer.shared()
    }

    async fn read_disk(&self, after_seq: u64, max: usize) -> Result<Vec<(u64, Arc<Record>)>, StoreError> {
        let mut found: Vec<(u64, Arc<Record>)> = Vec::new();
        let mut after = after_seq;
        while found.len() < max {
            let query = sqlx::query(ROWS_AFTER).bind(sql::int(after.saturating_add(1)));
            let rows = self.db.fetch_all("read the journal", query).await?;
            let before = found.len();
            for row in &rows {
                let first_seq = sql::uint(row.get(0));
                let body = RecordsOnly::decode(row.get::<&[u8], _>(1))
                    .map_err(|_| StoreError::Damaged { what: "a row of the journal" })?;
                let numbered = (first_seq..).zip(body.records).filter(|(seq, _)| *seq > after);
                found.extend(numbered.take(max - found.len()).map(|(seq, record)| (seq, Arc::new(record))));
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
}

/// Finds the first record at or after a time by halving the range of rows: their times rise, but for the span of one batch.
async fn seek_time(connection: &mut sqlx::SqliteConnection, at_us: i64) -> Result<Option<u64>, StoreError> {
    let failed = || StoreError::sql("look for a time in the journal");
    let ends = sqlx::query("SELECT (SELECT min(batch) FROM journal), (SELECT max(batch) FROM journal)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed())?;
    let (Some(first), Some(last)) = (ends.get::<Option<i64>, _>(0), ends.get::<Option<i64>, _>(1)) else {
        return Ok(None);
    };
    let mut low = first;
    let mut high = last + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        let row = sqlx::query("SELECT at_us_max FROM journal WHERE batch = ?1")
            .bind(middle)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed())?;
        // A row the retention has just removed is older than anything asked for.
        if row.is_some_and(|row| row.get::<i64, _>(0) >= at_us) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    // Receptions are committed a window after they came, so neighbours overlap.
    let rows = sqlx::query(
        "SELECT first_seq, body FROM journal WHERE batch >= ?1 AND count > 0 AND at_us_max >= ?2 ORDER BY batch LIMIT 1",
    )
    .bind(low.saturating_sub(TIME_SLACK_BATCHES))
    .bind(at_us)
    .fetch_optional(connection)
    .await
    .map_err(failed())?;
    let Some(row) = rows else {
        return Ok(None);
    };
    let body = RecordsOnly::decode(row.get::<&[u8], _>(1))
        .map_err(|_| StoreError::Damaged { what: "a row of the journal" })?;
    let first_seq = sql::uint(row.get(0));
    Ok((first_seq..).zip(&body.records).find(|(_, record)| record.at_us >= at_us).map(|(seq, _)| seq))
}

/// The records of a journal row; the deltas are skipped unread.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RecordsOnly {
    #[prost(message, repeated, tag = "1")]
    pub(crate) records: Vec<Record>,
}

/// The row that holds a sequence and those behind it, a few at a time so that no read lasts long.
const ROWS_AFTER: &str = "SELECT first_seq, body FROM journal WHERE count > 0 AND first_seq >= coalesce( \
     (SELECT max(first_seq) FROM journal WHERE count > 0 AND first_seq <= ?1), 0) ORDER BY first_seq LIMIT 8";

const TIME_SLACK_BATCHES: i64 = 64;
