//! `BeaconFreqReq` and `BeaconFreqAns`: where a class B device looks for the beacon (TS001-1.1 §14).

use super::{WireFrequency, bit};

/// Sets the frequency of the beacon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BeaconFreqReq {
    /// Frequency; zero is the default of the region.
    pub freq: WireFrequency,
}

impl BeaconFreqReq {
    /// Reads the payload.
    pub const fn from_bytes(freq: [u8; 3]) -> Self {
        Self { freq: WireFrequency::from_wire_bytes(freq) }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 3] {
        self.freq.to_wire_bytes()
    }
}

/// What the device did with the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BeaconFreqAns {
    /// It can receive on the frequency and has changed to it.
    pub frequency_ok: bool,
}

impl BeaconFreqAns {
    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self { frequency_ok: bit(status, 0) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.frequency_ok)]
    }
}
