//! `RejoinParamSetupReq` and `RejoinParamSetupAns`: how often a device of LoRaWAN 1.1 offers to rejoin
//! (TS001-1.1 §5.14).

use super::{bit, nibble};

/// Sets how often the device sends a Rejoin-Request of type 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RejoinParamSetupReq {
    /// At least every 2^(this + 10) seconds, 0..=15.
    pub max_time_n: u8,
    /// At least every 2^(this + 4) uplinks, 0..=15.
    pub max_count_n: u8,
}

impl RejoinParamSetupReq {
    /// Reads the payload.
    pub const fn from_bytes([limits]: [u8; 1]) -> Self {
        Self { max_time_n: limits >> 4, max_count_n: limits & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [nibble(self.max_time_n) << 4 | nibble(self.max_count_n)]
    }
}

/// The device keeps the limit of uplinks in any case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RejoinParamSetupAns {
    /// It keeps the limit of time as well.
    pub time_ok: bool,
}

impl RejoinParamSetupAns {
    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self { time_ok: bit(status, 0) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.time_ok)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-041
    #[test]
    fn the_answer_tells_whether_the_time_is_kept() {
        assert!(!RejoinParamSetupAns::from_bytes([0]).time_ok);
        assert!(RejoinParamSetupAns::from_bytes([1]).time_ok);
        assert!(!RejoinParamSetupAns::from_bytes([0xfe]).time_ok);
        assert_eq!(RejoinParamSetupReq { max_time_n: 14, max_count_n: 15 }.to_bytes(), [0xef]);
    }
}
