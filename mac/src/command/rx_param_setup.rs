//! `RXParamSetupReq` and `RXParamSetupAns`: data rate of RX1, data rate and frequency of RX2 (TS001-1.1 §5.5).

use super::{WireFrequency, bit, nibble};
use crate::region::DataRate;

/// Sets the receive windows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RxParamSetupReq {
    /// Offset between the data rate of the uplink and that of RX1, 0..=7.
    pub rx1_dr_offset: u8,
    /// Data rate of RX2.
    pub rx2_data_rate: DataRate,
    /// Frequency of RX2.
    pub rx2_freq: WireFrequency,
}

impl RxParamSetupReq {
    /// Reads the payload.
    pub const fn from_bytes([settings, f0, f1, f2]: [u8; 4]) -> Self {
        Self {
            rx1_dr_offset: settings >> 4 & 0b111,
            rx2_data_rate: DataRate::new(settings & 0x0f),
            rx2_freq: WireFrequency::from_wire_bytes([f0, f1, f2]),
        }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 4] {
        let [f0, f1, f2] = self.rx2_freq.to_wire_bytes();
        [self.rx1_dr_offset.min(7) << 4 | nibble(self.rx2_data_rate.value()), f0, f1, f2]
    }
}

/// What the device did with the request; with any part refused it changed nothing.
///
/// The device repeats it in every uplink until a class A downlink arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RxParamSetupAns {
    /// The frequency can be received.
    pub channel_ack: bool,
    /// The data rate of RX2 is known.
    pub rx2_data_rate_ack: bool,
    /// The offset is in the range of the region.
    pub rx1_dr_offset_ack: bool,
}

impl RxParamSetupAns {
    /// Whether the device applied the request.
    pub const fn accepted(self) -> bool {
        self.channel_ack && self.rx2_data_rate_ack && self.rx1_dr_offset_ack
    }

    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self {
            channel_ack: bit(status, 0),
            rx2_data_rate_ack: bit(status, 1),
            rx1_dr_offset_ack: bit(status, 2),
        }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.channel_ack)
            | u8::from(self.rx2_data_rate_ack) << 1
            | u8::from(self.rx1_dr_offset_ack) << 2]
    }
}
