//! `ADRParamSetupReq` and `ADRParamSetupAns`: when a device of LoRaWAN 1.1 misses the network (TS001-1.1 §5.11).

use super::nibble;

/// Sets after how many uplinks without an answer the device asks for one, and then changes its data rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AdrParamSetupReq {
    /// `ADR_ACK_LIMIT` is 2 to this power, 0..=15.
    pub limit_exp: u8,
    /// `ADR_ACK_DELAY` is 2 to this power, 0..=15.
    pub delay_exp: u8,
}

impl AdrParamSetupReq {
    /// Reads the payload.
    pub const fn from_bytes([exponents]: [u8; 1]) -> Self {
        Self { limit_exp: exponents >> 4, delay_exp: exponents & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [nibble(self.limit_exp) << 4 | nibble(self.delay_exp)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-039
    #[test]
    fn all_exponents_survive() {
        for byte in 0..=255 {
            assert_eq!(AdrParamSetupReq::from_bytes([byte]).to_bytes(), [byte]);
        }
        assert_eq!(AdrParamSetupReq { limit_exp: 6, delay_exp: 5 }.to_bytes(), [0x65]);
    }
}
