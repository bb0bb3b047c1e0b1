//! The frequency field of MAC commands and the channel list.

use std::fmt;

use crate::units::Hz;

/// A frequency as commands carry it: 24 bits, in units of the region (100 Hz below 1 GHz, 200 Hz at 2.4 GHz).
///
/// Zero means "off" or "the default", as the command says. Values below 100 MHz are reserved: [`WireFrequency::from_hz`]
/// makes none, but a peer may send them.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct WireFrequency(u32);

impl WireFrequency {
    /// Off, or the default.
    pub const DISABLED: Self = Self(0);

    /// The field for a frequency; `None` when it is no multiple of the unit, is below 100 MHz, or does not fit 24 bits.
    pub fn from_hz(freq: Hz, unit_hz: u32) -> Option<Self> {
        let raw = freq.value().checked_div(unit_hz)?;
        let exact = raw.checked_mul(unit_hz) == Some(freq.value());
        (exact && freq >= LOWEST && raw <= RAW_MAX).then_some(Self(raw))
    }

    /// The frequency in the unit of the region; `None` for zero, and for what exceeds 4.29 GHz.
    pub fn hz(self, unit_hz: u32) -> Option<Hz> {
        let freq_hz = self.0.checked_mul(unit_hz)?;
        (freq_hz != 0).then_some(Hz::new(freq_hz))
    }

    /// The field with that value; bits above 24 are dropped.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw & RAW_MAX)
    }

    /// The value of the field.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Reads the field, least significant byte first.
    pub const fn from_wire_bytes([low, middle, high]: [u8; 3]) -> Self {
        Self(u32::from_le_bytes([low, middle, high, 0]))
    }

    /// Writes the field, least significant byte first.
    pub const fn to_wire_bytes(self) -> [u8; 3] {
        let [low, middle, high, _] = self.0.to_le_bytes();
        [low, middle, high]
    }
}

impl fmt::Debug for WireFrequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} units", self.0)
    }
}

const RAW_MAX: u32 = 0x00ff_ffff;
const LOWEST: Hz = Hz::new(100_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-027
    #[test]
    fn a_frequency_is_sent_in_units_of_the_region_and_never_from_the_reserved_range() {
        let field = |freq_hz, unit_hz| {
            WireFrequency::from_hz(Hz::new(freq_hz), unit_hz).map(WireFrequency::to_wire_bytes)
        };

        assert_eq!(field(868_100_000, 100), Some([0x28, 0x76, 0x84]));
        assert_eq!(field(100_000_000, 100), Some([0x40, 0x42, 0x0f]));
        assert_eq!(field(1_677_721_500, 100), Some([0xff, 0xff, 0xff]));
        assert_eq!(field(2_410_000_000, 200), Some([0x50, 0xde, 0xb7]));

        assert_eq!(field(0, 100), None);
        assert_eq!(field(99_999_900, 100), None);
        assert_eq!(field(1_677_721_600, 100), None);
        assert_eq!(field(868_100_050, 100), None);
        assert_eq!(field(2_410_000_100, 200), None);
        assert_eq!(field(868_100_000, 0), None);
    }

    #[test]
    fn what_a_peer_sends_is_read_whatever_it_is() {
        assert_eq!(WireFrequency::from_wire_bytes([0x28, 0x76, 0x84]).hz(100), Some(Hz::new(868_100_000)));
        assert_eq!(WireFrequency::from_wire_bytes([1, 0, 0]).hz(100), Some(Hz::new(100)));
        assert_eq!(WireFrequency::DISABLED.hz(100), None);
        assert_eq!(WireFrequency::from_raw(0x01ff_ffff).hz(1_000), None);
    }
}
