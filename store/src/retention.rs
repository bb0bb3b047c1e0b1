//! The journal's low end: whole rows leave by age and size.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::db::{Db, on_engine};
use crate::metrics::add;
use crate::{StoreError, StoreOptions};

/// The time by which events grow old: the wall clock, but for its jumps forward.
///
/// A box without a battery boots years behind and is set right once it has a network; what it took meanwhile is minutes old,
/// whatever its stamps say. So a jump counts only when even the last event before it has been kept for the full age.
#[derive(Debug)]
pub(crate) struct AgeClock {
    age_max: Duration,
    wall_us: i64,
    at: Instant,
    jumped_at: Option<Instant>,
}

impl AgeClock {
    pub(crate) fn new(age_max: Duration, wall_us: i64, now: Instant) -> Self {
        Self { age_max, wall_us, at: now, jumped_at: None }
    }

    /// The time events are judged by; ask it often, with what the clocks say.
    pub(crate) fn now_us(&mut self, wall_us: i64, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.at);
        let steady_us = self.wall_us.saturating_add(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX));
        if wall_us > steady_us.saturating_add(JUMP_US) {
            let jumped_at = *self.jumped_at.get_or_insert(now);
            if now.saturating_duration_since(jumped_at) < self.age_max {
                return steady_us;
            }
        }
        *self = Self { age_max: self.age_max, wall_us, at: now, jumped_at: None };
        wall_us
    }
}

/// What decides whether a row of the journal goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OldRow {
    pub(crate) batch: u64,
    /// The first sequence behind it.
    pub(crate) next_seq: u64,
    pub(crate) at_us_max: i64,
    pub(crate) end_bytes: u64,
}

/// Removes up to [`ROWS_MAX`] rows; the answer says how many. 0: nothing is too old.
///
/// Never a row the sessions still need, and never the last one, which bears the numbers the next row continues.
pub(crate) async fn pass(db: &Db, options: &StoreOptions, now_us: i64) -> Result<u64, StoreError> {
    let shared = on_engine!(db, db => db.shared());
    let rows = on_engine!(db, db => db.old_rows(ROWS_MAX).await)?;
    let age_us = i64::try_from(options.retention_max_age_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let oldest_us = now_us.saturating_sub(age_us);
    let end_bytes = shared.end_bytes.load(Ordering::Relaxed);
    let mut begin_bytes = shared.removed_bytes.load(Ordering::Relaxed);
    let mut last = None;
    let mut count = 0_u64;
    for row in rows {
        let too_old = row.at_us_max < oldest_us;
        let too_much = end_bytes.saturating_sub(begin_bytes) > options.retention_max_bytes;
        if !too_old && !too_much {
            break;
        }
        begin_bytes = row.end_bytes;
        last = Some(row);
        count = count.saturating_add(1);
    }
    let Some(last) = last else {
        return Ok(0);
    };
    // Told before it happens: a reader that comes in between sees a gap and not a hole.
    shared.earliest.fetch_max(last.next_seq, Ordering::AcqRel);
    seam::crash_point("store.retention.before_removal");
    on_engine!(db, db => db.remove_rows(last.batch).await)?;
    seam::crash_point("store.retention.removed");
    shared.removed_bytes.store(begin_bytes, Ordering::Relaxed);
    add(&shared.metrics.rows_removed, count);
    Ok(count)
}

/// Rows removed in one transaction.
const ROWS_MAX: u32 = 64;
/// A clock that is kept by a network is never set by so much.
const JUMP_US: i64 = 3_600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;
    const WEEK: Duration = Duration::from_secs(7 * 86_400);

    #[test]
    fn a_clock_that_goes_on_or_back_is_believed() {
        let start = Instant::now();
        let mut clock = AgeClock::new(WEEK, 0, start);
        for (passed_s, wall_s) in [(60, 60), (120, 600), (180, 100), (240, -5), (300, 55)] {
            let now = start + Duration::from_secs(passed_s);
            assert_eq!(clock.now_us(wall_s * SECOND_US, now), wall_s * SECOND_US);
        }
    }

    #[test]
    fn a_jump_forward_makes_nothing_old_before_its_time() {
        let start = Instant::now();
        let mut clock = AgeClock::new(WEEK, 0, start);
        let year_s = 365 * 86_400;
        for minute in 1..=7 * 24 * 60 {
            let now = start + Duration::from_secs(60 * minute);
            let passed_us = i64::try_from(60 * minute).map_or(0, |s| s * SECOND_US);
            assert_eq!(clock.now_us(year_s * SECOND_US + passed_us, now), passed_us, "minute {minute}");
        }
        // What was there before the jump is a week old.
        let now = start + WEEK + Duration::from_secs(60);
        assert_eq!(clock.now_us(2 * year_s * SECOND_US, now), 2 * year_s * SECOND_US);
    }

    #[test]
    fn a_jump_that_was_taken_back_is_forgotten() {
        let start = Instant::now();
        let mut clock = AgeClock::new(WEEK, 0, start);
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(clock.now_us(i64::MAX, at(60)), 60 * SECOND_US);
        assert_eq!(clock.now_us(120 * SECOND_US, at(120)), 120 * SECOND_US);
        assert_eq!(clock.now_us(i64::MAX, at(60) + WEEK), (60 * SECOND_US) + 7 * 86_400 * SECOND_US);
    }
}
