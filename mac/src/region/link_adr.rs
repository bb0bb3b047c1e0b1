//! From the channels a device has to the channels it shall have, in as few `LinkADRReq` as possible.

use super::{ChannelMask, Plan, Region, fixed};
use crate::version::RegionalRevision;

/// The `(ChMaskCntl, ChMask)` of the shortest block of `LinkADRReq` that turns `current` into `target`.
///
/// At least one step, also where nothing changes, because a request always carries a mask. Where two blocks are
/// equally short, one that does not lean on `current` wins: a device that lost its settings ends up right as well.
/// Channels the plan does not have are left out of `target`. A device refuses a block that leaves it no channel.
///
/// `ChMaskCntl` (RP002-1.0.5): dynamic plans use 0. Fixed plans use 0 to 4 for a word of 16 channels, 6 and 7 for all
/// 125 kHz channels on or off, and from RP001-1.0.3 on 5, where each bit switches a sub-band.
pub fn link_adr_block(
    target: &ChannelMask,
    current: &ChannelMask,
    region: &Region,
    rev: RegionalRevision,
) -> Vec<(u8, u16)> {
    match region.plan {
        Plan::Dynamic => vec![(0, target.word(0))],
        Plan::Fixed72 => {
            let target = target.intersection(fixed::ALL_CHANNELS);
            let current = current.intersection(fixed::ALL_CHANNELS);
            fixed_block(target, current, rev)
        }
    }
}

/// The channels a device has after it applied the steps, in their order, to `current`.
///
/// `defined` are the channels it knows; `ChMaskCntl` 6 of a dynamic plan turns on all of them. `None` for a
/// `ChMaskCntl` the plan does not have.
pub fn apply_link_adr_block(
    current: &ChannelMask,
    steps: &[(u8, u16)],
    region: &Region,
    defined: &ChannelMask,
) -> Option<ChannelMask> {
    let mut mask = *current;
    for &(cntl, bits) in steps {
        match (region.plan, cntl) {
            (Plan::Dynamic, 0) => mask.set_word(0, bits),
            (Plan::Dynamic, 6) => mask = *defined,
            (Plan::Fixed72, 0..=3) => mask.set_word(usize::from(cntl), bits),
            (Plan::Fixed72, 4) => mask.set_word(WIDE_WORD, bits & WIDE_BITS),
            (Plan::Fixed72, 5) => mask = fixed::sub_band_mask(low_byte(bits)),
            (Plan::Fixed72, 6) => mask = narrow_and_wide(0xffff, bits),
            (Plan::Fixed72, 7) => mask = narrow_and_wide(0x0000, bits),
            (Plan::Dynamic | Plan::Fixed72, _) => return None,
        }
    }
    Some(mask)
}

fn fixed_block(target: ChannelMask, current: ChannelMask, rev: RegionalRevision) -> Vec<(u8, u16)> {
    let wide = target.word(WIDE_WORD);
    let all_off = block((7, wide), narrow_and_wide(0x0000, wide), target);
    let all_on = block((6, wide), narrow_and_wide(0xffff, wide), target);
    let mut shortest = if all_on.len() < all_off.len() { all_on } else { all_off };

    let mut word_by_word: Vec<_> = corrections(current, target).collect();
    if word_by_word.is_empty() {
        word_by_word.push((0, target.word(0)));
    }
    if word_by_word.len() < shortest.len() {
        shortest = word_by_word;
    }
    if rev >= RegionalRevision::Rp001_1_0_3A {
        let bands = best_sub_bands(target);
        let by_sub_band = block((5, u16::from(bands)), fixed::sub_band_mask(bands), target);
        if by_sub_band.len() < shortest.len() {
            shortest = by_sub_band;
        }
    }
    shortest
}

/// The step `first`, which gives `base` whatever was before, and what `base` lacks to `target`.
fn block(first: (u8, u16), base: ChannelMask, target: ChannelMask) -> Vec<(u8, u16)> {
    std::iter::once(first).chain(corrections(base, target)).collect()
}

fn corrections(base: ChannelMask, target: ChannelMask) -> impl Iterator<Item = (u8, u16)> {
    (0u8..5)
        .filter(move |&word| base.word(usize::from(word)) != target.word(usize::from(word)))
        .map(move |word| (word, target.word(usize::from(word))))
}

/// The sub-bands to switch on so that the fewest words need a correction.
///
/// A word of two sub-bands that are each full or empty says itself what to switch. Any other word is corrected
/// anyway, so its two switches may follow the 500 kHz channels.
fn best_sub_bands(target: ChannelMask) -> u8 {
    let mut bands = low_byte(target.word(WIDE_WORD));
    for (word, shift) in (0..4).zip([0, 2, 4, 6]) {
        let switches = match target.word(word) {
            0x0000 => 0b00,
            0x00ff => 0b01,
            0xff00 => 0b10,
            0xffff => 0b11,
            _ => continue,
        };
        bands = bands & !(0b11 << shift) | switches << shift;
    }
    bands
}

fn narrow_and_wide(narrow: u16, wide: u16) -> ChannelMask {
    ChannelMask::from_words([narrow, narrow, narrow, narrow, wide & WIDE_BITS, 0])
}

fn low_byte(bits: u16) -> u8 {
    let [low, _] = bits.to_le_bytes();
    low
}

/// The word of the eight 500 kHz channels.
const WIDE_WORD: usize = 4;
const WIDE_BITS: u16 = 0x00ff;
