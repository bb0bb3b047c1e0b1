//! What the 72-channel plans US915 and AU915 share (RP002-1.0.5 §3.5 and §3.8).

use super::table::{
    Dwell, NA, NO_CAP, PayloadTable, PowerTable, RateRow, Revisions, Rx1Table, Way, down, lora,
};
use super::{Channel, ChannelMask, DataRate, LrFhssCodingRate, Modulation};
use crate::units::{Dbm, Hz};
use crate::version::RegionalRevision::{
    Rp001_1_0_2B, Rp001_1_0_3A, Rp001_1_1A, Rp001_1_1B, Rp002_1_0_2, Rp002_1_0_4, Rp002_1_0_5, Ts001_1_0_1,
};

/// Every channel of a fixed plan.
pub(super) const ALL_CHANNELS: ChannelMask =
    ChannelMask::from_words([0xffff, 0xffff, 0xffff, 0xffff, 0x00ff, 0]);

/// Number of uplink channels of a fixed plan.
pub(super) const CHANNELS: usize = 72;

/// Channels 0 to 63 of 125 kHz, 200 kHz apart, and 64 to 71 of 500 kHz, 1.6 MHz apart.
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "the compiler computes the tables and refuses an overflow"
)]
pub(super) const fn uplink_channels(
    narrow_freq_hz: u32,
    narrow_dr_max: u8,
    wide_freq_hz: u32,
    wide_dr: u8,
) -> [Channel; CHANNELS] {
    let nothing =
        Channel { index: 0, freq: Hz::new(0), dr_min: DataRate::new(0), dr_max: DataRate::new(narrow_dr_max) };
    let mut channels = [nothing; CHANNELS];
    let mut index: u8 = 0;
    while (index as usize) < CHANNELS {
        let channel = &mut channels[index as usize];
        channel.index = index;
        if index < FIRST_WIDE {
            channel.freq = Hz::new(narrow_freq_hz + 200_000 * index as u32);
        } else {
            channel.freq = Hz::new(wide_freq_hz + 1_600_000 * (index - FIRST_WIDE) as u32);
            channel.dr_min = DataRate::new(wide_dr);
            channel.dr_max = DataRate::new(wide_dr);
        }
        index += 1;
    }
    channels
}

/// The frequency of RX1: eight channels, 600 kHz apart, by uplink channel modulo 8; `None` for a channel above 71.
pub(super) fn rx1_freq(uplink_channel: u8) -> Option<Hz> {
    if usize::from(uplink_channel) >= CHANNELS {
        return None;
    }
    Some(Hz::new(FIRST_DOWNLINK_HZ.saturating_add(600_000 * u32::from(uplink_channel % 8))))
}

/// The channels of the sub-bands whose bits are set: eight of 125 kHz and one of 500 kHz each.
pub(super) fn sub_band_mask(sub_bands: u8) -> ChannelMask {
    ALL_CHANNELS.channels().filter(|&channel| sub_bands & (1 << sub_band(channel)) != 0).collect()
}

/// The sub-band of a channel, 0 to 7.
const fn sub_band(channel: u8) -> u8 {
    if channel < FIRST_WIDE { channel / 8 } else { channel % 8 }
}

/// RX2 until the device is told another: the first downlink channel at the slowest rate.
pub(super) const RX2: (Hz, DataRate) = (Hz::new(FIRST_DOWNLINK_HZ), DataRate::new(8));

/// The data rates of downlinks.
pub(super) const DOWN_RATES: [RateRow; 8] = [
    down(0, lora(5, 500_000), Revisions::since(Rp002_1_0_5)),
    down(8, lora(12, 500_000), Revisions::ALL),
    down(9, lora(11, 500_000), Revisions::ALL),
    down(10, lora(10, 500_000), Revisions::ALL),
    down(11, lora(9, 500_000), Revisions::ALL),
    down(12, lora(8, 500_000), Revisions::ALL),
    down(13, lora(7, 500_000), Revisions::ALL),
    down(14, lora(6, 500_000), Revisions::since(Rp002_1_0_5)),
];

/// LR-FHSS over 1.523 MHz.
pub(super) const fn lr_fhss(cr: LrFhssCodingRate) -> Modulation {
    Modulation::LrFhss { ocw_hz: 1_523_000, cr }
}

/// Payload of downlinks up to RP002-1.0.4.
pub(super) const DOWN_PAYLOAD: PayloadTable = PayloadTable {
    way: Way::Down,
    dwell: Dwell::Any,
    revisions: Revisions::until(Rp002_1_0_4),
    m: &[NA, NA, NA, NA, NA, NA, NA, NA, 61, 137, 250, 250, 250, 250],
};

/// Payload of downlinks since RP002-1.0.5, with SF5 and SF6.
pub(super) const DOWN_PAYLOAD_SF5: PayloadTable = PayloadTable {
    way: Way::Down,
    dwell: Dwell::Any,
    revisions: Revisions::since(Rp002_1_0_5),
    m: &[250, NA, NA, NA, NA, NA, NA, NA, 61, 137, 250, 250, 250, 250, 250],
};

/// Data rates of RX1 in US915, and in AU915 while it had the uplink rates of US915.
pub(super) const RX1_US915: Rx1Table = Rx1Table {
    dwell: Dwell::Any,
    revisions: Revisions::ALL,
    dr_max: NO_CAP,
    rows: &[
        &[10, 9, 8, 8],
        &[11, 10, 9, 8],
        &[12, 11, 10, 9],
        &[13, 12, 11, 10],
        &[13, 13, 12, 11],
        // LR-FHSS is answered with LoRa.
        &[10, 9, 8, 8],
        &[11, 10, 9, 8],
        // SF6 and SF5 of RP002-1.0.5; downlink data rate 0 is SF5 on 500 kHz.
        &[14, 13, 12, 11],
        &[0, 14, 13, 12],
    ],
};

/// Uplink payload of US915 before LR-FHSS, and of AU915 while it had the uplink rates of US915.
pub(super) const UP_PAYLOAD_US915: PayloadTable =
    PayloadTable { way: Way::Up, dwell: Dwell::Any, revisions: Revisions::ALL, m: &[19, 61, 133, 250, 250] };

/// The transmit powers of both plans: 30 dBm in steps of 2 dB, 11, 16 or 15 of them.
pub(super) const POWERS: &[PowerTable] = &[
    power(Revisions::between(Ts001_1_0_1, Rp001_1_0_2B), 11),
    power(Revisions::between(Rp001_1_0_3A, Rp001_1_0_3A), 16),
    power(Revisions::between(Rp001_1_1A, Rp001_1_1A), 11),
    power(Revisions::since(Rp001_1_1B), 15),
];

/// The largest radiated power of both plans.
pub(super) const MAX_EIRP: Dbm = Dbm::new(30.0);

/// Revisions with LR-FHSS but without SF5 and SF6.
pub(super) const LR_FHSS_ONLY: Revisions = Revisions::between(Rp002_1_0_2, Rp002_1_0_4);

const fn power(revisions: Revisions, steps: usize) -> PowerTable {
    let (below_max_db, _) = STEPS_DB.split_at(steps);
    PowerTable { revisions, max: MAX_EIRP, below_max_db }
}

const STEPS_DB: &[u8] = &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
const FIRST_DOWNLINK_HZ: u32 = 923_300_000;
const FIRST_WIDE: u8 = 64;
