//! How long a frame is on the air.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "spreading factor, bandwidth, bit rate and length are checked first, and what they allow is far below 64 bits"
)]

use crate::region::{CodingRate, LrFhssCodingRate, Modulation};

/// Microseconds a PHYPayload of `phy_len` bytes is on the air with the settings LoRaWAN uses for the modulation.
///
/// These are: LoRa with an explicit header, a preamble of 8 symbols (12 for SF5 and SF6) and low data rate
/// optimisation where a symbol is longer than 16 ms; FSK with 5 bytes of preamble and 3 of sync word. `crc` says
/// whether the payload ends in a CRC: uplinks do, downlinks do not; it matters for LoRa only. `coding_rate` is 4/5 in
/// LoRaWAN and matters for LoRa only. Rounded up. `None` for what cannot exist: SF outside 5..=12, no bandwidth or bit
/// rate, more than 255 bytes.
pub fn airtime_us(modulation: Modulation, coding_rate: CodingRate, phy_len: usize, crc: bool) -> Option<u64> {
    match modulation {
        Modulation::Lora { sf, bw_hz } => {
            LoraFrame::lorawan(sf, bw_hz, coding_rate, crc).and_then(|frame| frame.airtime_us(phy_len))
        }
        Modulation::Fsk { bit_rate_bps } => fsk_airtime_us(bit_rate_bps, phy_len),
        Modulation::LrFhss { cr, .. } => lr_fhss_airtime_us(cr, phy_len),
    }
}

/// The settings of a LoRa frame that its airtime depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoraFrame {
    /// Spreading factor, 5..=12.
    pub sf: u8,
    /// Bandwidth in hertz.
    pub bw_hz: u32,
    /// Forward error correction.
    pub coding_rate: CodingRate,
    /// Length of the preamble in symbols, without the 4.25 (SF5, SF6: 6.25) of the sync word.
    pub preamble_symbols: u16,
    /// Whether the frame has a header that tells its length.
    pub explicit_header: bool,
    /// Whether the payload ends in a CRC.
    pub crc: bool,
    /// Whether fewer bits are put in a symbol, because symbols are long.
    pub low_data_rate: bool,
}

impl LoraFrame {
    /// The settings of LoRaWAN for data frames; `None` for a spreading factor outside 5..=12 or no bandwidth.
    pub fn lorawan(sf: u8, bw_hz: u32, coding_rate: CodingRate, crc: bool) -> Option<Self> {
        if !(SF_MIN..=SF_MAX).contains(&sf) || bw_hz == 0 {
            return None;
        }
        let symbol_us = (US_PER_S << sf) / u64::from(bw_hz);
        Some(Self {
            sf,
            bw_hz,
            coding_rate,
            preamble_symbols: if sf < SF_LONG { 12 } else { 8 },
            explicit_header: true,
            crc,
            low_data_rate: symbol_us > LONG_SYMBOL_US,
        })
    }

    /// Microseconds on the air with `len` bytes of payload, rounded up; `None` for settings that cannot
    /// exist or more than 255 bytes.
    pub fn airtime_us(&self, len: usize) -> Option<u64> {
        if !(SF_MIN..=SF_MAX).contains(&self.sf) || self.bw_hz == 0 {
            return None;
        }
        // In the manner of the SX126x data sheet, section 6.1.4: SF5 and SF6 have a longer sync word and no symbols
        // to spare in the first block.
        let sf = u64::from(self.sf);
        let long = self.sf >= SF_LONG;
        let bits = 8 * frame_len(len)?
            + if self.crc { 16 } else { 0 }
            + if self.explicit_header { 20 } else { 0 }
            + if long { 8 } else { 0 };
        let bits_per_symbol = if self.low_data_rate { sf - 2 } else { sf };
        let blocks = bits.saturating_sub(4 * sf).div_ceil(4 * bits_per_symbol);
        let payload_symbols = 8 + blocks * (4 + u64::from(self.coding_rate.redundancy_bits()));
        let sync_quarters = if long { 17 } else { 25 };
        let quarters = 4 * (u64::from(self.preamble_symbols) + payload_symbols) + sync_quarters;
        let symbol_us_times_bw = US_PER_S << self.sf;
        Some((quarters * symbol_us_times_bw).div_ceil(4 * u64::from(self.bw_hz)))
    }
}

/// Microseconds of an FSK frame: 5 bytes of preamble, 3 of sync word, 1 of length, the payload, 2 of CRC.
fn fsk_airtime_us(bit_rate_bps: u32, len: usize) -> Option<u64> {
    let bits = 8 * (frame_len(len)? + 5 + 3 + 1 + 2);
    (bit_rate_bps > 0).then(|| (bits * US_PER_S).div_ceil(u64::from(bit_rate_bps)))
}

/// Microseconds of an LR-FHSS frame: headers of 114 bits, then the coded payload in blocks of 48 bits and 2 more each,
/// at 488.28125 bits a second (2048 µs a bit).
fn lr_fhss_airtime_us(cr: LrFhssCodingRate, len: usize) -> Option<u64> {
    let bits = 8 * (frame_len(len)? + 2) + 6;
    let (headers, coded) = match cr {
        LrFhssCodingRate::OneThird => (3, bits * 3),
        LrFhssCodingRate::TwoThirds => (2, bits * 3 / 2),
    };
    let on_air = coded + 2 * coded.div_ceil(48);
    Some((114 * headers + on_air) * 2_048)
}

/// No modulation carries more than 255 bytes; the bound keeps the arithmetic small.
fn frame_len(len: usize) -> Option<u64> {
    u8::try_from(len).ok().map(u64::from)
}

const US_PER_S: u64 = 1_000_000;
const LONG_SYMBOL_US: u64 = 16_000;
const SF_MIN: u8 = 5;
const SF_LONG: u8 = 7;
const SF_MAX: u8 = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downlink_is_shorter_than_the_same_bytes_as_an_uplink() {
        let sf7 = Modulation::Lora { sf: 7, bw_hz: 125_000 };

        let uplink = airtime_us(sf7, CodingRate::Cr4_5, 20, true);
        let downlink = airtime_us(sf7, CodingRate::Cr4_5, 20, false);

        assert_eq!(uplink, Some(56_576));
        assert!(downlink < uplink);
    }

    #[test]
    fn long_symbols_carry_fewer_bits() {
        let low_data_rate = |sf, bw_hz| {
            LoraFrame::lorawan(sf, bw_hz, CodingRate::Cr4_5, true).is_some_and(|frame| frame.low_data_rate)
        };
        assert!(low_data_rate(11, 125_000));
        assert!(low_data_rate(12, 125_000));
        assert!(low_data_rate(12, 250_000));
        assert!(!low_data_rate(10, 125_000));
        assert!(!low_data_rate(12, 500_000));
    }

    #[test]
    fn what_cannot_exist_has_no_airtime() {
        for (sf, bw_hz) in [(4, 125_000), (13, 125_000), (255, 125_000), (7, 0)] {
            assert_eq!(airtime_us(Modulation::Lora { sf, bw_hz }, CodingRate::Cr4_5, 20, true), None);
        }
        assert_eq!(airtime_us(Modulation::Fsk { bit_rate_bps: 0 }, CodingRate::Cr4_5, 20, true), None);
        assert_eq!(airtime_us(Modulation::Fsk { bit_rate_bps: 50_000 }, CodingRate::Cr4_5, 256, true), None);
    }
}
