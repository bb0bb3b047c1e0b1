//! `PingSlotChannelReq` and `PingSlotChannelAns`: where a class B device listens (TS001-1.1 §14).

use super::{WireFrequency, bit, nibble};
use crate::region::DataRate;

/// Sets frequency and data rate of the ping slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PingSlotChannelReq {
    /// Frequency; zero is the default of the region.
    pub freq: WireFrequency,
    /// Data rate.
    pub data_rate: DataRate,
}

impl PingSlotChannelReq {
    /// Reads the payload.
    pub const fn from_bytes([f0, f1, f2, rate]: [u8; 4]) -> Self {
        Self { freq: WireFrequency::from_wire_bytes([f0, f1, f2]), data_rate: DataRate::new(rate & 0x0f) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 4] {
        let [f0, f1, f2] = self.freq.to_wire_bytes();
        [f0, f1, f2, nibble(self.data_rate.value())]
    }
}

/// What the device did with the request; with any part refused it changed nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PingSlotChannelAns {
    /// The device can receive on the frequency.
    pub frequency_ok: bool,
    /// The device knows the data rate.
    pub data_rate_ok: bool,
}

impl PingSlotChannelAns {
    /// Whether the device applied the request.
    pub const fn accepted(self) -> bool {
        self.frequency_ok && self.data_rate_ok
    }

    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self { frequency_ok: bit(status, 0), data_rate_ok: bit(status, 1) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.frequency_ok) | u8::from(self.data_rate_ok) << 1]
    }
}
