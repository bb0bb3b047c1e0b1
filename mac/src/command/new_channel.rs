//! `NewChannelReq` and `NewChannelAns`: adds or changes a channel of a dynamic plan (TS001-1.1 §5.7).

use super::{WireFrequency, bit, nibble};
use crate::region::DataRate;

/// Defines a channel. The default channels cannot be changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewChannelReq {
    /// The device's number for the channel.
    pub ch_index: u8,
    /// Frequency of uplink and RX1; zero takes the channel away.
    pub freq: WireFrequency,
    /// Slowest data rate.
    pub dr_min: DataRate,
    /// Fastest data rate.
    pub dr_max: DataRate,
}

impl NewChannelReq {
    /// Reads the payload.
    pub const fn from_bytes([ch_index, f0, f1, f2, range]: [u8; 5]) -> Self {
        Self {
            ch_index,
            freq: WireFrequency::from_wire_bytes([f0, f1, f2]),
            dr_min: DataRate::new(range & 0x0f),
            dr_max: DataRate::new(range >> 4),
        }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 5] {
        let [f0, f1, f2] = self.freq.to_wire_bytes();
        [self.ch_index, f0, f1, f2, nibble(self.dr_max.value()) << 4 | nibble(self.dr_min.value())]
    }
}

/// What the device did with the request; with any part refused it changed nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewChannelAns {
    /// The device can use the frequency.
    pub frequency_ok: bool,
    /// The device can use the data rates.
    pub data_rate_range_ok: bool,
}

impl NewChannelAns {
    /// Whether the channel exists from here on.
    pub const fn accepted(self) -> bool {
        self.frequency_ok && self.data_rate_range_ok
    }

    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self { frequency_ok: bit(status, 0), data_rate_range_ok: bit(status, 1) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.frequency_ok) | u8::from(self.data_rate_range_ok) << 1]
    }
}
