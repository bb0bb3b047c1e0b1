//! `PingSlotInfoReq` and `PingSlotInfoAns`: how often a class B device listens (TS001-1.1 §14).

/// Tells the network how often the device opens a ping slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PingSlotInfoReq {
    /// A slot every 2 to this power seconds, 0..=7.
    pub periodicity: u8,
}

impl PingSlotInfoReq {
    /// Reads the payload.
    pub const fn from_bytes([slot]: [u8; 1]) -> Self {
        Self { periodicity: slot & 0b111 }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [self.periodicity.min(7)]
    }
}
