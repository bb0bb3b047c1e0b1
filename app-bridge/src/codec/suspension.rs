//! When a codec that keeps running into its time limit is left alone for a while.

use mac::units::Mono;

/// How many time-outs in a row suspend a codec.
pub const TIMEOUTS_IN_A_ROW: u32 = 20;
/// How long a suspension lasts, in milliseconds.
pub const SUSPENDED_MS: u64 = 60_000;

/// Counts the time-outs of one codec and says when it may run.
///
/// A codec that always times out would otherwise take a whole thread: 50 ms for each of its uplinks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Suspension {
    timeouts_in_a_row: u32,
    until: Option<Mono>,
}

/// Whether a codec may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Permission {
    /// It may.
    Run,
    /// It is suspended for so many milliseconds more, at least 1.
    Wait {
        /// Milliseconds until it may run again.
        remaining_ms: u64,
    },
}

impl Suspension {
    /// Whether the codec may run at `now`. A suspension that is over is forgotten, with its count.
    pub fn permission(&mut self, now: Mono) -> Permission {
        let Some(until) = self.until else {
            return Permission::Run;
        };
        let remaining_us = until.saturating_us_since(now);
        if remaining_us == 0 {
            *self = Self::default();
            return Permission::Run;
        }
        Permission::Wait { remaining_ms: remaining_us.div_ceil(1_000) }
    }

    /// Notes a call that timed out. True: the codec is suspended from `now` on.
    pub fn timed_out(&mut self, now: Mono) -> bool {
        self.timeouts_in_a_row = self.timeouts_in_a_row.saturating_add(1);
        if self.timeouts_in_a_row < TIMEOUTS_IN_A_ROW || self.until.is_some() {
            return false;
        }
        self.until = Some(now.plus_ms(SUSPENDED_MS));
        true
    }

    /// Notes a call that ended in time, whatever it returned. It does not shorten a suspension: calls that
    /// began before it may end during it.
    pub fn ended_in_time(&mut self) {
        self.timeouts_in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono::from_us(5_000_000);

    #[test]
    fn twenty_timeouts_in_a_row_suspend_for_a_minute_and_then_the_count_starts_anew() {
        let mut suspension = Suspension::default();
        for _ in 1..TIMEOUTS_IN_A_ROW {
            assert!(!suspension.timed_out(NOW));
            assert_eq!(suspension.permission(NOW), Permission::Run);
        }

        assert!(suspension.timed_out(NOW));
        assert_eq!(suspension.permission(NOW), Permission::Wait { remaining_ms: SUSPENDED_MS });
        assert_eq!(suspension.permission(NOW.plus_ms(SUSPENDED_MS - 1)), Permission::Wait { remaining_ms: 1 });

        assert_eq!(suspension.permission(NOW.plus_ms(SUSPENDED_MS)), Permission::Run);
        assert!(!suspension.timed_out(NOW.plus_ms(SUSPENDED_MS)));
    }

    #[test]
    fn one_call_in_time_between_timeouts_prevents_the_suspension() {
        let mut suspension = Suspension::default();
        for _ in 0..3 {
            for _ in 1..TIMEOUTS_IN_A_ROW {
                assert!(!suspension.timed_out(NOW));
            }
            suspension.ended_in_time();
        }
        assert_eq!(suspension.permission(NOW), Permission::Run);
    }

    #[test]
    fn a_suspension_starts_once_and_is_not_extended_by_calls_that_end_late() {
        let mut suspension = Suspension::default();
        let started = (0..TIMEOUTS_IN_A_ROW + 5).filter(|_| suspension.timed_out(NOW)).count();
        assert_eq!(started, 1);
        suspension.ended_in_time();
        assert_eq!(suspension.permission(NOW), Permission::Wait { remaining_ms: SUSPENDED_MS });
    }
}
