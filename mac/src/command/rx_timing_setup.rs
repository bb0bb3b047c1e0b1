//! `RXTimingSetupReq` and `RXTimingSetupAns`: when RX1 opens (TS001-1.1 §5.8).

/// Sets the delay of RX1; RX2 opens one second later.
///
/// The device repeats its answer in every uplink until a class A downlink arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RxTimingSetupReq {
    /// The field, 0..=15; 0 and 1 both mean one second.
    pub del: u8,
}

impl RxTimingSetupReq {
    /// Seconds from the end of the uplink to RX1, 1..=15.
    pub fn rx1_delay_s(self) -> u8 {
        self.del.clamp(1, 15)
    }

    /// Seconds from the end of the uplink to RX2, 2..=16.
    pub fn rx2_delay_s(self) -> u8 {
        self.rx1_delay_s().saturating_add(crate::region::RX2_AFTER_RX1_S)
    }

    /// Reads the payload.
    pub const fn from_bytes([settings]: [u8; 1]) -> Self {
        Self { del: settings & 0x0f }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [super::nibble(self.del)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RXWIN-006
    #[test]
    fn zero_and_one_mean_one_second_and_the_rest_themselves() {
        for del in 0..16 {
            let request = RxTimingSetupReq { del };
            let expected_s = if del == 0 { 1 } else { del };

            assert_eq!(request.rx1_delay_s(), expected_s);
            assert_eq!(request.rx2_delay_s(), expected_s + 1);
            assert_eq!(request.to_bytes(), [del]);
            assert_eq!(RxTimingSetupReq::from_bytes([0xf0 | del]), request);
        }
    }
}
