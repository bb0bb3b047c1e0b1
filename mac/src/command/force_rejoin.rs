//! `ForceRejoinReq`: makes a device of LoRaWAN 1.1 send Rejoin-Requests (TS001-1.1 §5.13). There is no answer.

use super::nibble;
use crate::region::DataRate;

/// Makes the device rejoin at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForceRejoinReq {
    /// Seconds between two tries: 32 times 2 to this power, 0..=7, and up to 32 more.
    pub period: u8,
    /// How often the device tries again, 0..=7.
    pub max_retries: u8,
    /// Type of the Rejoin-Request, 0..=7; 0 or 2.
    pub rejoin_type: u8,
    /// Data rate of the Rejoin-Request.
    pub data_rate: DataRate,
}

impl ForceRejoinReq {
    /// Reads the payload.
    pub const fn from_bytes([type_rate, period_retries]: [u8; 2]) -> Self {
        Self {
            period: period_retries >> 3 & 0b111,
            max_retries: period_retries & 0b111,
            rejoin_type: type_rate >> 4 & 0b111,
            data_rate: DataRate::new(type_rate & 0x0f),
        }
    }

    /// Writes the payload, least significant byte first as TS001-1.1 §1.2 demands of every field.
    ///
    /// Some device stacks expect the byte with the period first; they read a wrong period and data rate.
    pub fn to_bytes(self) -> [u8; 2] {
        [
            self.rejoin_type.min(7) << 4 | nibble(self.data_rate.value()),
            self.period.min(7) << 3 | self.max_retries.min(7),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-040
    #[test]
    fn every_field_survives() {
        for period in 0..8 {
            for max_retries in 0..8 {
                for rejoin_type in [0, 2] {
                    for dr in 0..16 {
                        let data_rate = DataRate::new(dr);
                        let request = ForceRejoinReq { period, max_retries, rejoin_type, data_rate };
                        assert_eq!(ForceRejoinReq::from_bytes(request.to_bytes()), request);
                    }
                }
            }
        }
        let request = ForceRejoinReq { period: 3, max_retries: 4, rejoin_type: 2, data_rate: DataRate::new(5) };
        assert_eq!(request.to_bytes(), [0x25, 0x1c]);
    }
}
