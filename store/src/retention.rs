//! The journal's low end: whole rows leave by age and size.

use std::sync::atomic::Ordering;

use sqlx::Row;

use crate::db::Db;
use crate::metrics::add;
use crate::{StoreError, StoreOptions, sql};

/// Removes up to [`ROWS_MAX`] rows; the answer says how many. 0: nothing is too old.
///
/// Never a row the sessions still need, and never the last one, which bears the numbers the next row continues.
pub(crate) async fn pass(db: &Db, options: &StoreOptions, now_us: i64) -> Result<u64, StoreError> {
    let shared = db.writer.shared();
    let query = sqlx::query(
        "SELECT batch, first_seq + count, at_us_max, end_bytes FROM journal \
         WHERE batch <= (SELECT checkpoint_batch FROM meta WHERE id = 1) \
         AND batch < (SELECT max(batch) FROM journal) ORDER BY batch LIMIT ?1",
    )
    .bind(ROWS_MAX);
    let rows = db.fetch_all("read the journal", query).await?;
    let oldest_us = now_us.saturating_sub(sql::int(options.retention_max_age_s.saturating_mul(1_000_000)));
    let end_bytes = shared.end_bytes.load(Ordering::Relaxed);
    let bytes_max = sql::int(options.retention_max_bytes);
    let mut begin_bytes = shared.removed_bytes.load(Ordering::Relaxed);
    let mut last = None;
    let mut count = 0;
    for row in rows {
        let too_old = row.get::<i64, _>(2) < oldest_us;
        let too_much = end_bytes.saturating_sub(begin_bytes) > bytes_max;
        if !too_old && !too_much {
            break;
        }
        begin_bytes = row.get(3);
        last = Some((row.get::<i64, _>(0), sql::uint(row.get(1))));
        count += 1;
    }
    let Some((batch, next_seq)) = last else {
        return Ok(0);
    };
    // Told before it happens: a reader that comes in between sees a gap and not a hole.
    shared.earliest.fetch_max(next_seq, Ordering::AcqRel);
    db.execute("remove old events", sqlx::query("DELETE FROM journal WHERE batch <= ?1").bind(batch)).await?;
    shared.removed_bytes.store(begin_bytes, Ordering::Relaxed);
    add(&shared.metrics.rows_removed, count);
    add(&shared.wal_frames, count);
    Ok(count)
}

/// Rows removed in one transaction.
const ROWS_MAX: i64 = 64;
