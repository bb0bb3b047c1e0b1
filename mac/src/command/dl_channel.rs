//! `DlChannelReq` and `DlChannelAns`: moves RX1 of a channel to another frequency, in dynamic plans
//! (TS001-1.1 §5.7).

use super::{WireFrequency, bit};

/// Sets the frequency of RX1 for uplinks on a channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DlChannelReq {
    /// The device's number for the channel.
    pub ch_index: u8,
    /// Frequency of RX1.
    pub freq: WireFrequency,
}

impl DlChannelReq {
    /// Reads the payload.
    pub const fn from_bytes([ch_index, f0, f1, f2]: [u8; 4]) -> Self {
        Self { ch_index, freq: WireFrequency::from_wire_bytes([f0, f1, f2]) }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 4] {
        let [f0, f1, f2] = self.freq.to_wire_bytes();
        [self.ch_index, f0, f1, f2]
    }
}

/// What the device did with the request; with any part refused it changed nothing.
///
/// The device repeats it in every uplink until a class A downlink arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DlChannelAns {
    /// The device can receive on the frequency.
    pub frequency_ok: bool,
    /// The channel has an uplink frequency.
    pub uplink_frequency_exists: bool,
}

impl DlChannelAns {
    /// Whether RX1 has moved.
    pub const fn accepted(self) -> bool {
        self.frequency_ok && self.uplink_frequency_exists
    }

    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self { frequency_ok: bit(status, 0), uplink_frequency_exists: bit(status, 1) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.frequency_ok) | u8::from(self.uplink_frequency_exists) << 1]
    }
}
