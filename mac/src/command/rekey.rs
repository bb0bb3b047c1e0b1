//! `RekeyInd` and `RekeyConf`: an OTAA device of LoRaWAN 1.1 confirms its new session (TS001-1.1 §5.10).

/// The device uses the keys of the last Join-Accept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RekeyInd {
    /// Minor version of LoRaWAN the device speaks, 0..=15; 1 is the only one there is.
    pub minor: u8,
}

/// The network's answer; the device repeats `RekeyInd` until it comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RekeyConf {
    /// Minor version of LoRaWAN in use, 0..=15.
    pub minor: u8,
}

impl RekeyInd {
    /// Reads the payload.
    pub const fn from_bytes([version]: [u8; 1]) -> Self {
        Self { minor: version & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [super::nibble(self.minor)]
    }
}

impl RekeyConf {
    /// Reads the payload.
    pub const fn from_bytes([version]: [u8; 1]) -> Self {
        Self { minor: version & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [super::nibble(self.minor)]
    }
}
