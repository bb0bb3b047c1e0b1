//! `BeaconTimingReq` and `BeaconTimingAns`: when the next beacon comes (TS001-1.1 §14; deprecated since 1.0.3).

/// When and where the next beacon comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BeaconTimingAns {
    /// Time from the end of this downlink to the beacon, in units of 30 ms.
    pub delay: u16,
    /// Index of the beacon channel.
    pub channel: u8,
}

impl BeaconTimingAns {
    /// Reads the payload.
    pub const fn from_bytes([low, high, channel]: [u8; 3]) -> Self {
        Self { delay: u16::from_le_bytes([low, high]), channel }
    }

    /// Writes the payload.
    pub const fn to_bytes(self) -> [u8; 3] {
        let [low, high] = self.delay.to_le_bytes();
        [low, high, self.channel]
    }
}
