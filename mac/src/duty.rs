//! How much a gateway has sent in the last hour, by sub-band, so that its duty cycle is kept.
//!
//! The hour is counted in minutes: the airtime of a minute is given back when the whole minute is an hour old. So the
//! ledger is never too generous, at most a minute too strict, and its memory does not grow.

use crate::region::SubBand;
use crate::units::Mono;

/// A sub-band has used its share of the hour.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the sub-band has sent {used_us} us of the {allowed_us} us it may send in an hour; this frame fits in {wait_ms} ms"
)]
pub struct DutyCycleExceeded {
    /// What was sent in the last hour, microseconds.
    pub used_us: u64,
    /// What may be sent in an hour, microseconds.
    pub allowed_us: u64,
    /// After how many milliseconds the frame fits, if nothing else is sent; an hour when it never fits.
    pub wait_ms: u64,
}

/// Airtime that was set aside; it may be given back when the gateway did not send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub struct Reservation {
    sub_band: u8,
    minute: u64,
    airtime_us: u32,
}

/// The airtime of one gateway.
#[derive(Clone, Debug, Default)]
pub struct DutyLedger {
    sub_bands: Vec<Hour>,
}

impl DutyLedger {
    /// A ledger of a gateway that has sent nothing.
    pub const fn new() -> Self {
        Self { sub_bands: Vec::new() }
    }

    /// Sets the airtime of one frame aside. Without a limit in the region it always fits.
    ///
    /// Refused, nothing changes.
    pub fn try_reserve(
        &mut self,
        sub_band: &SubBand,
        airtime_us: u32,
        now: Mono,
    ) -> Result<Reservation, DutyCycleExceeded> {
        let minute = minute_of(now);
        let reservation = Reservation { sub_band: sub_band.index, minute, airtime_us };
        let Some(permille) = sub_band.duty_cycle_permille else {
            return Ok(reservation);
        };
        let allowed_us = HOUR_US / 1_000 * u64::from(permille);
        let hour = self.hour(sub_band.index);
        hour.forget_before(minute);
        let used_us = hour.used_us();
        if used_us.saturating_add(u64::from(airtime_us)) > allowed_us {
            let wait_ms = hour.wait_ms(u64::from(airtime_us), allowed_us, now);
            return Err(DutyCycleExceeded { used_us, allowed_us, wait_ms });
        }
        hour.add(minute, airtime_us);
        Ok(reservation)
    }

    /// Gives airtime back: the gateway refused the frame.
    pub fn give_back(&mut self, reservation: Reservation) {
        if let Some(hour) = self.sub_bands.get_mut(usize::from(reservation.sub_band)) {
            hour.subtract(reservation.minute, reservation.airtime_us);
        }
    }

    /// What was sent in a sub-band in the last hour, microseconds.
    pub fn used_us(&self, sub_band_index: u8, now: Mono) -> u64 {
        let Some(hour) = self.sub_bands.get(usize::from(sub_band_index)) else {
            return 0;
        };
        let mut hour = hour.clone();
        hour.forget_before(minute_of(now));
        hour.used_us()
    }

    #[allow(clippy::indexing_slicing, reason = "it is made long enough first")]
    fn hour(&mut self, index: u8) -> &mut Hour {
        let index = usize::from(index);
        if self.sub_bands.len() <= index {
            self.sub_bands.resize_with(index.saturating_add(1), Hour::default);
        }
        &mut self.sub_bands[index]
    }
}

/// The last hour in minutes; a minute stands at its number modulo the length.
#[derive(Clone, Debug)]
struct Hour {
    newest: u64,
    minutes_us: [u32; SLOTS],
}

impl Default for Hour {
    fn default() -> Self {
        Self { newest: 0, minutes_us: [0; SLOTS] }
    }
}

impl Hour {
    fn forget_before(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.newest).min(MINUTES);
        for step in 1..=passed {
            *self.at(self.newest.saturating_add(step)) = 0;
        }
        self.newest = self.newest.max(minute);
    }

    fn used_us(&self) -> u64 {
        self.minutes_us.iter().copied().map(u64::from).sum()
    }

    /// When enough of the oldest minutes have been given back.
    fn wait_ms(&self, airtime_us: u64, allowed_us: u64, now: Mono) -> u64 {
        let mut used_us = self.used_us();
        let oldest = self.newest.saturating_sub(MINUTES - 1);
        for minute in oldest..=self.newest {
            let given_back_us = self.minutes_us.get(slot(minute)).copied().map_or(0, u64::from);
            used_us = used_us.saturating_sub(given_back_us);
            if used_us.saturating_add(airtime_us) <= allowed_us {
                let free_at_us = minute.saturating_add(MINUTES).saturating_mul(MINUTE_US);
                return free_at_us.saturating_sub(now.us()).div_ceil(1_000);
            }
        }
        HOUR_US / 1_000
    }

    fn add(&mut self, minute: u64, airtime_us: u32) {
        let used = self.at(minute);
        *used = used.saturating_add(airtime_us);
    }

    fn subtract(&mut self, minute: u64, airtime_us: u32) {
        if minute.saturating_add(MINUTES) > self.newest && minute <= self.newest {
            let used = self.at(minute);
            *used = used.saturating_sub(airtime_us);
        }
    }

    #[allow(clippy::indexing_slicing, reason = "a slot is below their number")]
    fn at(&mut self, minute: u64) -> &mut u32 {
        &mut self.minutes_us[slot(minute)]
    }
}

/// The place of a minute; always below `SLOTS`.
#[allow(clippy::cast_possible_truncation, reason = "the remainder is below 61")]
const fn slot(minute: u64) -> usize {
    (minute % MINUTES) as usize
}

const fn minute_of(now: Mono) -> u64 {
    now.us() / MINUTE_US
}

/// Sixty whole minutes and the one that has begun.
const SLOTS: usize = 61;
const MINUTES: u64 = SLOTS as u64;
const MINUTE_US: u64 = 60_000_000;
const HOUR_US: u64 = 60 * MINUTE_US;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::units::{Dbm, Hz};

    /// REGION-021.
    #[test]
    fn a_sub_band_sends_its_share_of_an_hour_and_no_more() {
        let mut ledger = DutyLedger::new();
        let band = band(0, Some(10));
        for second in 0..36 {
            let _ = ledger.try_reserve(&band, 1_000_000, at_s(second * 100)).unwrap();
        }

        let refused = ledger.try_reserve(&band, 1_000_000, at_s(3_590)).unwrap_err();
        assert_eq!((refused.used_us, refused.allowed_us), (36_000_000, 36_000_000));
        assert_eq!(ledger.used_us(0, at_s(3_590)), 36_000_000, "a refusal changes nothing");

        let again_s = 3_590 + refused.wait_ms.div_ceil(1_000);
        assert!((3_600..=3_661).contains(&again_s), "{again_s}");
        let _ = ledger.try_reserve(&band, 1_000_000, at_s(again_s)).unwrap();
    }

    /// REGION-021.
    #[test]
    fn no_hour_ever_holds_more_than_the_share() {
        let mut ledger = DutyLedger::new();
        let band = band(0, Some(1));
        let mut sent: Vec<(u64, u64)> = Vec::new();
        let mut at_us = 0;
        for step in 0_u64..20_000 {
            at_us += 250_000 + step.wrapping_mul(7_919) % 3_000_000;
            if ledger.try_reserve(&band, 61_696, Mono::from_us(at_us)).is_ok() {
                sent.push((at_us, 61_696));
                let hour: u64 = sent
                    .iter()
                    .rev()
                    .take_while(|(at, _)| at + HOUR_US > at_us)
                    .map(|(_, airtime)| airtime)
                    .sum();
                assert!(hour <= HOUR_US / 1_000);
            }
        }
        assert!(sent.len() > 200);
    }

    #[test]
    fn sub_bands_do_not_share_and_one_without_a_limit_never_fills() {
        let mut ledger = DutyLedger::new();
        let _ = ledger.try_reserve(&band(0, Some(1)), 3_600_000, at_s(0)).unwrap();
        assert!(ledger.try_reserve(&band(0, Some(1)), 1, at_s(1)).is_err());
        let _ = ledger.try_reserve(&band(1, Some(1)), 3_600_000, at_s(1)).unwrap();
        for _ in 0..10_000 {
            let _ = ledger.try_reserve(&band(2, None), u32::MAX, at_s(1)).unwrap();
        }
    }

    #[test]
    fn airtime_of_a_refused_frame_comes_back_once_it_is_given_back() {
        let mut ledger = DutyLedger::new();
        let band = band(0, Some(1));
        let reservation = ledger.try_reserve(&band, 3_600_000, at_s(10)).unwrap();
        assert!(ledger.try_reserve(&band, 1, at_s(11)).is_err());
        ledger.give_back(reservation);
        let _ = ledger.try_reserve(&band, 3_600_000, at_s(11)).unwrap();

        // A reservation of long ago does not touch the minute that took its place.
        let _ = ledger.try_reserve(&band, 3_600_000, at_s(8_000)).unwrap();
        ledger.give_back(reservation);
        assert_eq!(ledger.used_us(0, at_s(8_000)), 3_600_000);
    }

    #[test]
    fn a_frame_longer_than_the_share_is_told_to_wait_an_hour() {
        let refused = DutyLedger::new().try_reserve(&band(0, Some(1)), 3_600_001, at_s(0)).unwrap_err();
        assert_eq!(refused.wait_ms, 3_600_000);
    }

    fn band(index: u8, duty_cycle_permille: Option<u16>) -> SubBand {
        SubBand {
            index,
            from: Hz::new(868_000_000),
            to: Hz::new(868_600_000),
            duty_cycle_permille,
            max_eirp: Dbm::new(16.15),
        }
    }

    fn at_s(second: u64) -> Mono {
        Mono::from_us(second * 1_000_000)
    }
}
