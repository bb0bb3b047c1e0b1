//! `ResetInd` and `ResetConf`: an ABP device of LoRaWAN 1.1 says that its MAC settings are at their defaults
//! (TS001-1.1 §5.1).

/// The device lost its MAC settings, but not its counters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResetInd {
    /// Minor version of LoRaWAN the device speaks, 0..=15; 1 is the only one there is.
    pub minor: u8,
}

/// The network's answer; the device repeats `ResetInd` until it comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResetConf {
    /// Minor version of LoRaWAN in use, 0..=15.
    pub minor: u8,
}

impl ResetInd {
    /// Reads the payload.
    pub const fn from_bytes([version]: [u8; 1]) -> Self {
        Self { minor: version & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [super::nibble(self.minor)]
    }
}

impl ResetConf {
    /// Reads the payload.
    pub const fn from_bytes([version]: [u8; 1]) -> Self {
        Self { minor: version & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [super::nibble(self.minor)]
    }
}
