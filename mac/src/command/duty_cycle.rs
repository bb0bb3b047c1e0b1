//! `DutyCycleReq` and `DutyCycleAns`: limits how much a device sends (TS001-1.1 §5.4).

/// Limits the device to one part in 2^`max_duty_cycle` of the time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DutyCycleReq {
    /// Exponent, 0..=15; 0 is no limit beside the regulation.
    pub max_duty_cycle: u8,
}

impl DutyCycleReq {
    /// Reads the payload.
    pub const fn from_bytes([limit]: [u8; 1]) -> Self {
        Self { max_duty_cycle: limit & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [super::nibble(self.max_duty_cycle)]
    }
}
