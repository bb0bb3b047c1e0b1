//! How a frame is put on the air.

use std::fmt;
use std::str::FromStr;

/// A modulation with the parameters that a data rate fixes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Modulation {
    /// LoRa, the chirps.
    Lora {
        /// Spreading factor, 5..=12.
        sf: u8,
        /// Bandwidth in hertz, 125,000 to 500,000.
        bw_hz: u32,
    },
    /// Frequency shift keying.
    Fsk {
        /// Bit rate in bits per second.
        bit_rate_bps: u32,
    },
    /// Long-range frequency hopping, uplink only.
    LrFhss {
        /// Occupied channel width in hertz as it is called, not as it is: 137,000, 336,000 or 1,523,000.
        ocw_hz: u32,
        /// Share of the bits that carries the message.
        cr: LrFhssCodingRate,
    },
}

impl Modulation {
    /// The lowest signal-to-noise ratio in dB a gateway can demodulate; `None` where the ratio has no meaning.
    ///
    /// The value of the spreading factor is taken for every bandwidth, because gateways report the ratio of the
    /// bandwidth that was used.
    pub fn required_snr_db(self) -> Option<f32> {
        match self {
            Self::Lora { sf: 5, .. } => Some(-2.5),
            Self::Lora { sf: 6, .. } => Some(-5.0),
            Self::Lora { sf: 7, .. } => Some(-7.5),
            Self::Lora { sf: 8, .. } => Some(-10.0),
            Self::Lora { sf: 9, .. } => Some(-12.5),
            Self::Lora { sf: 10, .. } => Some(-15.0),
            Self::Lora { sf: 11, .. } => Some(-17.5),
            Self::Lora { sf: 12, .. } => Some(-20.0),
            Self::Lora { .. } | Self::Fsk { .. } | Self::LrFhss { .. } => None,
        }
    }
}

/// The forward error correction of a LoRa frame.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CodingRate {
    /// 4/5, the one LoRaWAN uses.
    #[default]
    Cr4_5,
    /// 4/6.
    Cr4_6,
    /// 4/7.
    Cr4_7,
    /// 4/8.
    Cr4_8,
}

impl CodingRate {
    /// Redundant bits per four bits of message, 1..=4.
    pub const fn redundancy_bits(self) -> u8 {
        match self {
            Self::Cr4_5 => 1,
            Self::Cr4_6 => 2,
            Self::Cr4_7 => 3,
            Self::Cr4_8 => 4,
        }
    }
}

impl fmt::Display for CodingRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cr4_5 => "4/5",
            Self::Cr4_6 => "4/6",
            Self::Cr4_7 => "4/7",
            Self::Cr4_8 => "4/8",
        })
    }
}

impl FromStr for CodingRate {
    type Err = CodingRateError;

    /// Reads `4/5` to `4/8`, and the shortened `2/3` and `1/2` that packet forwarders write too.
    fn from_str(text: &str) -> Result<Self, CodingRateError> {
        match text {
            "4/5" => Ok(Self::Cr4_5),
            "4/6" | "2/3" => Ok(Self::Cr4_6),
            "4/7" => Ok(Self::Cr4_7),
            "4/8" | "1/2" | "2/4" => Ok(Self::Cr4_8),
            _ => Err(CodingRateError { value: shortened(text), known: "4/5, 4/6, 4/7 and 4/8" }),
        }
    }
}

/// The forward error correction of an LR-FHSS frame.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LrFhssCodingRate {
    /// 1/3, with three copies of the header.
    OneThird,
    /// 2/3, with two copies of the header.
    TwoThirds,
}

impl fmt::Display for LrFhssCodingRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneThird => "1/3",
            Self::TwoThirds => "2/3",
        })
    }
}

impl FromStr for LrFhssCodingRate {
    type Err = CodingRateError;

    /// Reads `1/3` and `2/3`, and the `2/6` and `4/6` some forwarders write for them.
    fn from_str(text: &str) -> Result<Self, CodingRateError> {
        match text {
            "1/3" | "2/6" => Ok(Self::OneThird),
            "2/3" | "4/6" => Ok(Self::TwoThirds),
            _ => Err(CodingRateError { value: shortened(text), known: "1/3 and 2/3" }),
        }
    }
}

/// A text names no coding rate of the modulation.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{value}` is not a coding rate; known are {known}")]
pub struct CodingRateError {
    value: String,
    known: &'static str,
}

fn shortened(text: &str) -> String {
    text.chars().take(VALUE_CHARS_MAX).collect()
}

const VALUE_CHARS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn coding_rates_survive_their_text() {
        for cr in [CodingRate::Cr4_5, CodingRate::Cr4_6, CodingRate::Cr4_7, CodingRate::Cr4_8] {
            assert_eq!(cr.to_string().parse::<CodingRate>().unwrap(), cr);
        }
        for cr in [LrFhssCodingRate::OneThird, LrFhssCodingRate::TwoThirds] {
            assert_eq!(cr.to_string().parse::<LrFhssCodingRate>().unwrap(), cr);
        }
    }

    #[test]
    fn an_unknown_coding_rate_is_refused_with_the_known_ones() {
        assert_eq!(
            "4/9".parse::<CodingRate>().unwrap_err().to_string(),
            "`4/9` is not a coding rate; known are 4/5, 4/6, 4/7 and 4/8"
        );
        assert!("".parse::<LrFhssCodingRate>().is_err());
    }

    #[test]
    fn each_spreading_factor_reaches_two_and_a_half_decibels_deeper() {
        for sf in 6..=12 {
            let here = Modulation::Lora { sf, bw_hz: 125_000 }.required_snr_db().unwrap();
            let below = Modulation::Lora { sf: sf - 1, bw_hz: 125_000 }.required_snr_db().unwrap();
            assert!((below - here - 2.5).abs() < f32::EPSILON);
        }
        assert_eq!(Modulation::Lora { sf: 13, bw_hz: 125_000 }.required_snr_db(), None);
        assert_eq!(Modulation::Fsk { bit_rate_bps: 50_000 }.required_snr_db(), None);
    }
}
