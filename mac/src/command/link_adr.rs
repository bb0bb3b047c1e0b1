//! `LinkADRReq` and `LinkADRAns`: data rate, transmit power, channels and repetitions (TS001-1.0.4 §5.2).

use super::{bit, nibble};
use crate::region::DataRate;

/// Sets data rate, power, repetitions and a part of the channel mask.
///
/// Contiguous requests in one downlink are one block: the masks are applied in order, everything else is taken from
/// the last request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkAdrReq {
    /// Data rate of uplinks, 0..=14; 15 leaves it as it is (1.0.4, 1.1).
    pub data_rate: DataRate,
    /// Index of the transmit power, 0..=14; 15 leaves it as it is (1.0.4, 1.1).
    pub tx_power: u8,
    /// Sixteen channels, bit 0 the lowest; which ones, `ch_mask_cntl` says.
    pub ch_mask: u16,
    /// How to read `ch_mask`, 0..=7; depends on the region.
    pub ch_mask_cntl: u8,
    /// How often each uplink is sent, 1..=15. 0 is the default of 1 (up to 1.0.4) or leaves it as it is (1.1).
    pub nb_trans: u8,
}

/// The requests of one block, with the steps of [`crate::region::link_adr_block`].
///
/// All carry the same data rate, power and repetitions, for devices that do not read the last one. `nb_trans` is kept
/// within 1..=15: 0 would mean something else in each version.
pub fn link_adr_requests(
    steps: &[(u8, u16)],
    data_rate: DataRate,
    tx_power: u8,
    nb_trans: u8,
) -> impl Iterator<Item = LinkAdrReq> {
    steps.iter().map(move |&(ch_mask_cntl, ch_mask)| LinkAdrReq {
        data_rate,
        tx_power,
        ch_mask,
        ch_mask_cntl,
        nb_trans: nb_trans.clamp(1, 15),
    })
}

impl LinkAdrReq {
    /// Reads the payload.
    pub const fn from_bytes([rate_power, mask_low, mask_high, redundancy]: [u8; 4]) -> Self {
        Self {
            data_rate: DataRate::new(rate_power >> 4),
            tx_power: rate_power & 0x0f,
            ch_mask: u16::from_le_bytes([mask_low, mask_high]),
            ch_mask_cntl: redundancy >> 4 & 0b111,
            nb_trans: redundancy & 0x0f,
        }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 4] {
        let [mask_low, mask_high] = self.ch_mask.to_le_bytes();
        [
            nibble(self.data_rate.value()) << 4 | nibble(self.tx_power),
            mask_low,
            mask_high,
            self.ch_mask_cntl.min(7) << 4 | nibble(self.nb_trans),
        ]
    }
}

/// What the device did with the request; with any part refused it changed nothing.
///
/// Up to 1.0.4 there is one answer a request of the block, all alike from 1.0.2 on; 1.1 answers the block once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkAdrAns {
    /// The mask was understood and leaves a channel.
    pub channel_mask_ack: bool,
    /// The data rate is known and possible on an enabled channel.
    pub data_rate_ack: bool,
    /// The device can send with that power, or lower.
    pub power_ack: bool,
}

impl LinkAdrAns {
    /// Whether the device applied the request.
    pub const fn accepted(self) -> bool {
        self.channel_mask_ack && self.data_rate_ack && self.power_ack
    }

    /// Reads the payload.
    pub const fn from_bytes([status]: [u8; 1]) -> Self {
        Self { channel_mask_ack: bit(status, 0), data_rate_ack: bit(status, 1), power_ack: bit(status, 2) }
    }

    /// Writes the payload.
    pub fn to_bytes(self) -> [u8; 1] {
        [u8::from(self.channel_mask_ack) | u8::from(self.data_rate_ack) << 1 | u8::from(self.power_ack) << 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MAC-016
    #[test]
    fn no_request_asks_for_zero_repetitions() {
        for asked in 0..=255 {
            let steps = [(7, 0x0002), (0, 0xff00)];
            let requests: Vec<_> = link_adr_requests(&steps, DataRate::new(3), 2, asked).collect();

            assert_eq!(requests.len(), 2);
            for request in requests {
                assert!((1..=15).contains(&request.nb_trans));
                assert_eq!(LinkAdrReq::from_bytes(request.to_bytes()), request);
            }
        }
    }

    #[test]
    fn a_value_too_large_becomes_the_largest_and_spoils_no_neighbour() {
        let wild = LinkAdrReq {
            data_rate: DataRate::new(16),
            tx_power: 0xf0,
            ch_mask: 0,
            ch_mask_cntl: 8,
            nb_trans: 16,
        };

        assert_eq!(wild.to_bytes(), [0xff, 0, 0, 0x7f]);
    }
}
