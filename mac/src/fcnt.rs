//! Frame counters: from the 16 bits on air to the 32 bits of the session.

use crate::ids::{FCntDown, FCntUp, WireFCnt};
use crate::version::MacVersion;

/// Versions up to 1.0.3 refuse a frame whose counter jumped by this much or more (TS001-1.0.3 §4.3.1.5).
pub const MAX_FCNT_GAP: u32 = 16_384;

/// Extends the 16-bit counter of an uplink to the device's 32-bit counter.
///
/// A frame carries only the low half; the network infers the high half from the traffic it has seen
/// (TS001-1.0.4 §4.3.1.5). The answer is the smallest counter that is not behind `last`: a low half
/// that fell is read as one roll-over. Equality means the frame was sent again.
///
/// The answer is a guess. It becomes a fact when the MIC computed with it holds (§4.4); until then
/// nothing may change. A replayed old frame also yields a guess, and its MIC fails.
///
/// `last` is `None` before the first uplink of a session; devices start at 0 or 1, any first value is taken. Returns `None`
/// when the 32 bits are used up: the device has to join again.
pub fn guess_fcnt_up(wire: WireFCnt, last: Option<FCntUp>) -> Option<FCntUp> {
    #[cfg(feature = "planted")]
    if seam::planted(seam::Bug::CompareCounterWith16Bits) {
        return Some(FCntUp::new(u32::from(wire.value())));
    }
    guess(wire, last.map(FCntUp::value)).map(FCntUp::new)
}

/// Extends the 16-bit counter of a downlink to the 32-bit counter, as a device does. The rule is that of [`guess_fcnt_up`]; a device
/// refuses a counter that equals `last`.
pub fn guess_fcnt_down(wire: WireFCnt, last: Option<FCntDown>) -> Option<FCntDown> {
    guess(wire, last.map(FCntDown::value)).map(FCntDown::new)
}

/// The counter with the low half of the frame in the present epoch of `last`, when that lies below `last`: what a frame has that was
/// sent before. `None` when the frame is not behind.
pub fn replayed_fcnt_up(wire: WireFCnt, last: FCntUp) -> Option<FCntUp> {
    let same_epoch = in_epoch_of(wire, last.value());
    (same_epoch < last.value()).then_some(FCntUp::new(same_epoch))
}

/// Whether a step of the counter from `last` to `next` is too wide for a device of this version.
///
/// There is no limit before the first frame of a session and from 1.0.4 on (TS001-1.0.3 §4.3.1.5).
pub fn is_gap_too_wide(next: FCntUp, last: Option<FCntUp>, version: MacVersion) -> bool {
    let Some(last) = last else {
        return false;
    };
    version.has_max_fcnt_gap() && next.value().saturating_sub(last.value()) >= MAX_FCNT_GAP
}

fn guess(wire: WireFCnt, last: Option<u32>) -> Option<u32> {
    let Some(last) = last else {
        return Some(u32::from(wire.value()));
    };
    let same_epoch = in_epoch_of(wire, last);
    if same_epoch >= last {
        return Some(same_epoch);
    }
    same_epoch.checked_add(EPOCH)
}

fn in_epoch_of(wire: WireFCnt, last: u32) -> u32 {
    last & !LOW_HALF | u32::from(wire.value())
}

const LOW_HALF: u32 = 0x0000_ffff;
const EPOCH: u32 = 0x0001_0000;

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(wire: u16, last: u32) -> Option<u32> {
        guess_fcnt_up(WireFCnt::new(wire), Some(FCntUp::new(last))).map(FCntUp::value)
    }

    /// FCNT-002: a roll-over of the low half is seen after 1, 2 and 32,767 lost frames.
    #[test]
    fn a_low_half_that_fell_is_one_roll_over() {
        for lost in [0, 1, 2, 32_767] {
            for last in [0x0000_fff0, 0x0000_ffff, 0x0001_ffff, 0x7fff_ffff] {
                let sent = last + 1 + lost;
                assert_eq!(guessed(FCntUp::new(sent).wire().value(), last), Some(sent), "{last} + {lost}");
            }
        }
    }

    /// FCNT-002.
    #[test]
    fn the_same_low_half_is_the_same_frame() {
        assert_eq!(guessed(0xffff, 0x0001_ffff), Some(0x0001_ffff));
        assert_eq!(guessed(0, 0), Some(0));
    }

    #[test]
    fn the_first_frame_of_a_session_may_carry_any_counter() {
        assert_eq!(guess_fcnt_up(WireFCnt::new(1), None), Some(FCntUp::new(1)));
        assert_eq!(guess_fcnt_up(WireFCnt::new(0xffff), None), Some(FCntUp::new(0xffff)));
    }

    #[test]
    fn a_counter_that_is_used_up_has_no_next_one() {
        assert_eq!(guessed(0xffff, u32::MAX), Some(u32::MAX));
        assert_eq!(guessed(0, u32::MAX), None);
    }

    #[test]
    fn a_frame_behind_the_last_one_is_tried_in_the_same_epoch() {
        let last = FCntUp::new(0x0002_0005);
        assert_eq!(replayed_fcnt_up(WireFCnt::new(4), last), Some(FCntUp::new(0x0002_0004)));
        assert_eq!(replayed_fcnt_up(WireFCnt::new(5), last), None);
        assert_eq!(replayed_fcnt_up(WireFCnt::new(6), last), None);
    }

    /// FCNT-006.
    #[test]
    fn versions_up_to_1_0_3_refuse_a_jump_of_16384() {
        for &version in MacVersion::ALL {
            let old = version <= MacVersion::V1_0_3;
            for (gap, too_wide) in [(1, false), (16_383, false), (16_384, old), (40_000, old)] {
                let last = FCntUp::new(70_000);
                let next = FCntUp::new(70_000 + gap);
                assert_eq!(is_gap_too_wide(next, Some(last), version), too_wide, "{version} {gap}");
                assert!(!is_gap_too_wide(next, None, version));
            }
        }
    }
}
