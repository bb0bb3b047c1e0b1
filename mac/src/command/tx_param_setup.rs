//! `TxParamSetupReq` and `TxParamSetupAns`: dwell limits and largest power, where the region asks for it
//! (TS001-1.1 §5.9).

use super::{bit, nibble};

/// Sets the dwell limits and the largest radiated power.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TxParamSetupReq {
    /// Whether a downlink may last 400 ms at most.
    pub downlink_dwell: bool,
    /// Whether an uplink may last 400 ms at most.
    pub uplink_dwell: bool,
    /// Position in [`MAX_EIRP_DBM`], 0..=15.
    pub max_eirp_index: u8,
}

/// The largest radiated powers a device can be told, in dBm (TS001-1.1 §5.9, table 12).
pub const MAX_EIRP_DBM: [u8; 16] = [8, 10, 12, 13, 14, 16, 18, 20, 21, 24, 26, 27, 29, 30, 33, 36];

impl TxParamSetupReq {
    /// The request for a power limit in dBm; the next lower one that can be told is, and below 8 dBm it is 8.
    pub fn new(downlink_dwell: bool, uplink_dwell: bool, max_eirp_dbm: u8) -> Self {
        let not_above = MAX_EIRP_DBM.iter().take_while(|&&dbm| dbm <= max_eirp_dbm).count();
        let max_eirp_index = u8::try_from(not_above.saturating_sub(1)).unwrap_or(0);
        Self { downlink_dwell, uplink_dwell, max_eirp_index }
    }

    /// The power limit in dBm.
    pub fn max_eirp_dbm(self) -> u8 {
        let [.., highest] = MAX_EIRP_DBM;
        MAX_EIRP_DBM.get(usize::from(self.max_eirp_index)).copied().unwrap_or(highest)
    }

    /// Reads the payload.
    pub const fn from_bytes([settings]: [u8; 1]) -> Self {
        Self {
            downlink_dwell: bit(settings, 5),
            uplink_dwell: bit(settings, 4),
            max_eirp_index: settings & 0x0f,
        }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.downlink_dwell) << 5 | u8::from(self.uplink_dwell) << 4 | nibble(self.max_eirp_index)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-031
    #[test]
    fn sixteen_powers_and_both_dwell_bits_are_told() {
        for (index, &dbm) in (0u8..).zip(&MAX_EIRP_DBM) {
            for (downlink, uplink) in [(false, false), (false, true), (true, false), (true, true)] {
                let request = TxParamSetupReq::new(downlink, uplink, dbm);

                assert_eq!(request.to_bytes(), [u8::from(downlink) << 5 | u8::from(uplink) << 4 | index]);
                assert_eq!(TxParamSetupReq::from_bytes(request.to_bytes()), request);
                assert_eq!(request.max_eirp_dbm(), dbm);
            }
        }
    }

    #[test]
    fn a_power_between_two_is_rounded_down() {
        assert_eq!(TxParamSetupReq::new(false, false, 15).max_eirp_dbm(), 14);
        assert_eq!(TxParamSetupReq::new(false, false, 255).max_eirp_dbm(), 36);
        assert_eq!(TxParamSetupReq::new(false, false, 0).max_eirp_dbm(), 8);
    }
}
