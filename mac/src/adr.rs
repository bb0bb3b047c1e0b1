//! Adaptive data rate: as fast and as quiet as the link allows.
//!
//! The rule is the one most networks use (Semtech's recommendation): the best signal of the last uplinks decides, three
//! decibels a step, first the data rate up, then the power down. The network never lowers a data rate: a device that is
//! not heard does it by itself (TS001-1.0.4 §4.3.1.1).

use crate::ids::FCntUp;
use crate::region::DataRate;

/// Signal and losses of the last uplinks of one device, all sent with one power. In memory only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AdrHistory {
    snr_qdb: [i8; SAMPLES],
    lost: [u8; SAMPLES],
    last_fcnt: u32,
    next: u8,
    count: u8,
}

/// What a device sends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Data rate.
    pub dr: DataRate,
    /// Index of the transmit power; a step is two decibels down.
    pub tx_power: u8,
    /// Transmissions of each uplink, 1 to 15.
    pub nb_trans: u8,
}

/// How far the network may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Fastest data rate.
    pub dr_max: DataRate,
    /// Largest index of the transmit power.
    pub tx_power_max: u8,
}

/// Whether a device is in need: it has asked for a sign of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// It asked (`ADRACKReq`): power is given back without waiting for a full history.
    Pressing,
    /// It did not.
    Usual,
}

impl Default for AdrHistory {
    fn default() -> Self {
        Self { snr_qdb: [0; SAMPLES], lost: [0; SAMPLES], last_fcnt: 0, next: 0, count: 0 }
    }
}

impl AdrHistory {
    /// Adds an uplink. Frames that are missing since the one before count as lost.
    pub fn push(&mut self, fcnt: FCntUp, snr_db: f32) {
        let lost = match self.count {
            0 => 0,
            _ => fcnt.value().saturating_sub(self.last_fcnt).saturating_sub(1),
        };
        let slot = usize::from(self.next);
        if let (Some(snr), Some(gap)) = (self.snr_qdb.get_mut(slot), self.lost.get_mut(slot)) {
            *snr = quarter_decibels(snr_db);
            *gap = u8::try_from(lost).unwrap_or(u8::MAX);
        }
        self.next = self.next.wrapping_add(1) % SAMPLES_U8;
        self.count = self.count.saturating_add(1).min(SAMPLES_U8);
        self.last_fcnt = self.last_fcnt.max(fcnt.value());
    }

    /// Forgets all: what was measured at another power or data rate tells nothing about the present one.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Number of uplinks remembered, at most 20.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether nothing is remembered.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn is_full(&self) -> bool {
        self.count == SAMPLES_U8
    }

    fn snr_db_max(&self) -> Option<f32> {
        self.snr_qdb.iter().take(self.len()).max().map(|quarters| f32::from(*quarters) / 4.0)
    }

    /// Lost uplinks of a thousand. The gap in front of the oldest one belongs to the time before.
    fn loss_permille(&self) -> u32 {
        let oldest = if self.is_full() { self.next } else { 0 };
        let gaps = self.lost.iter().enumerate().take(self.len());
        let lost: u32 =
            gaps.filter(|(slot, _)| *slot != usize::from(oldest)).map(|(_, gap)| u32::from(*gap)).sum();
        lost.saturating_mul(1_000).checked_div(lost.saturating_add(u32::from(self.count))).unwrap_or(0)
    }
}

/// What the device should send with. Equal to `now` when there is no reason for a change, or nothing was measured.
///
/// `required_snr_db` is the demodulation floor at the present data rate.
pub fn decide(history: &AdrHistory, now: Setting, bounds: Bounds, required_snr_db: f32, need: Need) -> Setting {
    let Some(snr_db) = history.snr_db_max() else {
        return now;
    };
    let safety_db = if history.is_full() { 0.0 } else { SHORT_HISTORY_DB };
    let margin_db = snr_db - required_snr_db - INSTALLATION_MARGIN_DB - safety_db;
    let mut steps = whole_steps(margin_db);
    let mut wanted = now;
    while steps > 0 && wanted.dr < bounds.dr_max {
        wanted.dr = DataRate::new(wanted.dr.value().saturating_add(1));
        steps = steps.saturating_sub(1);
    }
    while steps > 0 && wanted.tx_power < bounds.tx_power_max {
        wanted.tx_power = wanted.tx_power.saturating_add(1);
        steps = steps.saturating_sub(1);
    }
    if history.is_full() || need == Need::Pressing {
        while steps < 0 && wanted.tx_power > 0 {
            wanted.tx_power = wanted.tx_power.saturating_sub(1);
            steps = steps.saturating_add(1);
        }
    }
    if history.is_full() {
        wanted.nb_trans = nb_trans(history.loss_permille(), now.nb_trans);
    }
    wanted
}

/// Transmissions by loss and the present number: more at once when much is lost, fewer only when little is.
fn nb_trans(loss_permille: u32, now: u8) -> u8 {
    let row = match loss_permille {
        0..50 => [1, 1, 2],
        50..100 => [1, 2, 3],
        100..300 => [2, 3, 3],
        300.. => [3, 3, 3],
    };
    let column = usize::from(now.saturating_sub(1).min(2));
    row.get(column).copied().unwrap_or(1)
}

#[allow(clippy::cast_possible_truncation, reason = "cutting towards zero is meant; the cast saturates")]
fn whole_steps(margin_db: f32) -> i32 {
    (margin_db / STEP_DB) as i32
}

#[allow(clippy::cast_possible_truncation, reason = "the cast saturates, and no radio measures beyond +-31 dB")]
fn quarter_decibels(snr_db: f32) -> i8 {
    (snr_db * 4.0).round() as i8
}

const SAMPLES: usize = 20;
const SAMPLES_U8: u8 = 20;
const INSTALLATION_MARGIN_DB: f32 = 10.0;
const STEP_DB: f32 = 3.0;
/// While few uplinks are known their best signal may have been luck.
const SHORT_HISTORY_DB: f32 = 2.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_a_million_devices_is_small() {
        assert!(size_of::<AdrHistory>() <= 48);
    }

    #[test]
    fn nothing_measured_changes_nothing() {
        let now = setting(0, 0, 1);
        assert_eq!(decide(&AdrHistory::default(), now, BOUNDS, -20.0, Need::Pressing), now);
    }

    #[test]
    fn the_best_of_twenty_decides_first_the_rate_then_the_power() {
        // SF12 needs -20 dB: +2 dB leaves 12 dB, four steps.
        assert_eq!(after(&[-30.0, 2.0, -30.0], 20, setting(0, 0, 1), -20.0), setting(4, 0, 1));
        // 8 dB leave 18: five rates and one step of power.
        assert_eq!(after(&[8.0], 20, setting(0, 0, 1), -20.0), setting(5, 1, 1));
        // At the fastest rate only the power is left, and it has an end.
        assert_eq!(after(&[30.0], 20, setting(5, 0, 1), -7.5), setting(5, 7, 1));
    }

    #[test]
    fn a_short_history_is_trusted_less() {
        // 12.4 dB over the margin is four steps, with the safety three.
        assert_eq!(after(&[2.4], 20, setting(0, 0, 1), -20.0), setting(4, 0, 1));
        assert_eq!(after(&[2.4], 19, setting(0, 0, 1), -20.0), setting(3, 0, 1));
    }

    #[test]
    fn a_weak_link_gets_its_power_back_but_no_slower_rate() {
        assert_eq!(after(&[-4.0], 20, setting(5, 3, 1), -7.5), setting(5, 1, 1));
        assert_eq!(after(&[-25.0], 20, setting(5, 1, 1), -7.5), setting(5, 0, 1));
        assert_eq!(after(&[-4.0], 3, setting(5, 3, 1), -7.5), setting(5, 3, 1), "one fade is no reason");
        let history = filled(&[-4.0], 3);
        assert_eq!(decide(&history, setting(5, 3, 1), BOUNDS, -7.5, Need::Pressing), setting(5, 0, 1));
    }

    #[test]
    fn a_margin_within_a_step_changes_nothing() {
        for snr_db in [0.0, 2.5, 2.9, 5.0] {
            assert_eq!(after(&[snr_db], 20, setting(5, 2, 1), -7.5), setting(5, 2, 1), "{snr_db}");
        }
    }

    #[test]
    fn what_is_faster_than_the_bounds_is_left_alone() {
        let now = setting(6, 0, 1);
        assert_eq!(after(&[-2.0], 20, now, -7.5).dr, DataRate::new(6));
    }

    #[test]
    fn losses_raise_the_repetitions_and_calm_lowers_them() {
        for (every, now, want) in
            [(1, 1, 1), (1, 2, 1), (1, 3, 2), (10, 1, 1), (10, 2, 2), (5, 1, 2), (5, 2, 3), (2, 1, 3)]
        {
            // Of `every` frames one is lost; 1: none.
            let mut history = AdrHistory::default();
            let mut fcnt = 0;
            for _ in 0..SAMPLES {
                fcnt += 1;
                if every > 1 && fcnt % every == 0 {
                    fcnt += 1;
                }
                history.push(FCntUp::new(fcnt), 0.0);
            }
            let got = decide(&history, setting(5, 2, now), BOUNDS, -7.5, Need::Usual).nb_trans;
            assert_eq!(got, want, "one of {every} lost, NbTrans {now}");
        }
    }

    #[test]
    fn absurd_numbers_neither_panic_nor_overflow() {
        let mut history = AdrHistory::default();
        for snr_db in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38] {
            history.push(FCntUp::new(u32::MAX), snr_db);
            history.push(FCntUp::new(0), snr_db);
        }
        let wanted = decide(&history, setting(0, 0, 255), BOUNDS, -20.0, Need::Usual);
        assert!(wanted.dr <= BOUNDS.dr_max && wanted.tx_power <= BOUNDS.tx_power_max);
    }

    const BOUNDS: Bounds = Bounds { dr_max: DataRate::new(5), tx_power_max: 7 };

    fn setting(dr: u8, tx_power: u8, nb_trans: u8) -> Setting {
        Setting { dr: DataRate::new(dr), tx_power, nb_trans }
    }

    fn filled(snrs_db: &[f32], count: usize) -> AdrHistory {
        let mut history = AdrHistory::default();
        for (fcnt, snr_db) in (0..).zip(snrs_db.iter().cycle().take(count)) {
            history.push(FCntUp::new(fcnt), *snr_db);
        }
        history
    }

    fn after(snrs_db: &[f32], count: usize, now: Setting, required_snr_db: f32) -> Setting {
        decide(&filled(snrs_db, count), now, BOUNDS, required_snr_db, Need::Usual)
    }
}
