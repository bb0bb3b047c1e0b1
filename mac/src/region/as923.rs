//! Asia, groups of AS923 (RP002-1.0.5 §3.10).
//!
//! The groups are the same plan, moved down the band: 0 for AS923-1, 1.8 MHz for AS923-2, 6.6 MHz for AS923-3 and
//! 5.9 MHz for AS923-4. A group is one more call of [`group`] with its offset, band and channels.

use super::table::{
    Dwell, DwellDefault, NA, NO_CAP, PayloadTable, PowerTable, RateRow, Revisions, Rx1Table, SubBand, Way,
    both, channel, lora,
};
use super::{Channel, DataRate, Modulation, Plan, Region, RegionId};
use crate::units::{Dbm, Hz};
use crate::version::RegionalRevision::{
    Rp001_1_0_2, Rp001_1_0_2B, Rp001_1_1B, Rp002_1_0_0, Rp002_1_0_1, Rp002_1_0_4, Rp002_1_0_5,
};

/// AS923-1.
pub(super) static AS923_1: Region =
    group(RegionId::As923_1, 0, [915_000_000, 928_000_000], &AS923_1_CHANNELS, AS923_1_SUB_BANDS);

static AS923_1_CHANNELS: [Channel; 2] = channels(0);

/// One per cent holds for 923.0 to 923.5 MHz. The rest of the band is kept to it as well, each part with its own
/// account.
const AS923_1_SUB_BANDS: &[SubBand] = &[
    sub_band(0, 915_000_000, 923_000_000),
    sub_band(1, 923_000_000, 923_500_000),
    sub_band(2, 923_500_000, 928_000_000),
];

const fn group(
    id: RegionId,
    below_group_1_hz: u32,
    [freq_min_hz, freq_max_hz]: [u32; 2],
    channels: &'static [Channel],
    sub_bands: &'static [SubBand],
) -> Region {
    Region {
        id,
        plan: Plan::Dynamic,
        channels,
        freq_min: Hz::new(freq_min_hz),
        freq_max: Hz::new(freq_max_hz),
        data_rates: DATA_RATES,
        payloads: PAYLOADS,
        rx1: RX1,
        rx2: (Hz::new(moved_down(923_200_000, below_group_1_hz)), DataRate::new(2)),
        powers: POWERS,
        max_eirp: MAX_EIRP,
        adr_dr_max: ADR_DR_MAX,
        tx_param_setup: TX_PARAM_SETUP,
        dwell_defaults: DWELL_DEFAULTS,
        sub_bands,
    }
}

const fn channels(below_group_1_hz: u32) -> [Channel; 2] {
    [
        channel(0, moved_down(923_200_000, below_group_1_hz)),
        channel(1, moved_down(923_400_000, below_group_1_hz)),
    ]
}

#[allow(clippy::arithmetic_side_effects, reason = "the compiler computes the tables and refuses an overflow")]
const fn moved_down(freq_hz: u32, below_group_1_hz: u32) -> u32 {
    freq_hz - below_group_1_hz
}

const fn sub_band(index: u8, from_hz: u32, to_hz: u32) -> SubBand {
    SubBand {
        index,
        from: Hz::new(from_hz),
        to: Hz::new(to_hz),
        duty_cycle_permille: Some(10),
        max_eirp: MAX_EIRP,
    }
}

const MAX_EIRP: Dbm = Dbm::new(16.0);
/// RP001 knows no RX1 data rate above 5, whatever the offset adds.
const RP001_DR_MAX: u8 = 5;
const RP001: Revisions = Revisions::until(Rp001_1_1B);
const RP002: Revisions = Revisions::since(Rp002_1_0_0);
const SF5: Revisions = Revisions::since(Rp002_1_0_5);

const ADR_DR_MAX: &[(Revisions, DataRate)] = &[(Revisions::ALL, DataRate::new(5))];
const TX_PARAM_SETUP: &[Revisions] = &[Revisions::since(Rp001_1_0_2)];
/// RP002 leaves the uplink to the country; the careful answer is the limit.
const DWELL_DEFAULTS: &[DwellDefault] = &[
    DwellDefault { revisions: Revisions::between(Rp001_1_0_2B, Rp001_1_1B), uplink: true, downlink: true },
    DwellDefault { revisions: RP002, uplink: true, downlink: false },
];

const DATA_RATES: &[RateRow] = &[
    both(0, lora(12, 125_000), Revisions::ALL),
    both(1, lora(11, 125_000), Revisions::ALL),
    both(2, lora(10, 125_000), Revisions::ALL),
    both(3, lora(9, 125_000), Revisions::ALL),
    both(4, lora(8, 125_000), Revisions::ALL),
    both(5, lora(7, 125_000), Revisions::ALL),
    both(6, lora(7, 250_000), Revisions::ALL),
    both(7, Modulation::Fsk { bit_rate_bps: 50_000 }, Revisions::ALL),
    both(12, lora(6, 125_000), SF5),
    both(13, lora(5, 125_000), SF5),
];

const POWERS: &[PowerTable] = &[
    PowerTable {
        revisions: Revisions::until(Rp001_1_0_2),
        max: Dbm::new(14.0),
        below_max_db: &[0, 2, 4, 6, 8, 10],
    },
    PowerTable {
        revisions: Revisions::since(Rp001_1_0_2B),
        max: MAX_EIRP,
        below_max_db: &[0, 2, 4, 6, 8, 10, 12, 14],
    },
];

const PAYLOADS: &[PayloadTable] = &[
    payload(Dwell::Unlimited, Revisions::until(Rp002_1_0_0), &[59, 59, 59, 123, 250, 250, 250, 250]),
    payload(
        Dwell::Unlimited,
        Revisions::between(Rp002_1_0_1, Rp002_1_0_4),
        &[59, 59, 123, 123, 250, 250, 250, 250],
    ),
    payload(Dwell::Unlimited, SF5, &[59, 59, 123, 123, 250, 250, 250, 250, NA, NA, NA, NA, 250, 250]),
    payload(Dwell::Limited, Revisions::until(Rp002_1_0_4), &[NA, NA, 19, 61, 133, 250, 250, 250]),
    payload(Dwell::Limited, SF5, &[NA, NA, 19, 61, 133, 250, 250, 250, NA, NA, NA, NA, 250, 250]),
];

const fn payload(dwell: Dwell, revisions: Revisions, m: &'static [u8]) -> PayloadTable {
    PayloadTable { way: Way::Both, dwell, revisions, m }
}

const RX1: &[Rx1Table] = &[
    rx1(Dwell::Unlimited, RP001, RP001_DR_MAX, RX1_ROWS),
    rx1(Dwell::Unlimited, RP002, NO_CAP, RX1_ROWS),
    rx1(Dwell::Limited, RP001, RP001_DR_MAX, RX1_ROWS_DWELL),
    rx1(Dwell::Limited, RP002, NO_CAP, RX1_ROWS_DWELL),
];

const fn rx1(dwell: Dwell, revisions: Revisions, dr_max: u8, rows: &'static [&'static [u8]]) -> Rx1Table {
    Rx1Table { dwell, revisions, dr_max, rows }
}

/// Offsets 6 and 7 make the answer faster than the uplink.
const RX1_ROWS: &[&[u8]] = &[
    &[0, 0, 0, 0, 0, 0, 1, 2],
    &[1, 0, 0, 0, 0, 0, 2, 3],
    &[2, 1, 0, 0, 0, 0, 3, 4],
    &[3, 2, 1, 0, 0, 0, 4, 5],
    &[4, 3, 2, 1, 0, 0, 5, 6],
    &[5, 4, 3, 2, 1, 0, 6, 7],
    &[6, 5, 4, 3, 2, 1, 7, 7],
    &[7, 6, 5, 4, 3, 2, 7, 7],
    &[],
    &[],
    &[],
    &[],
    &[12, 5, 4, 3, 2, 1, 13, 13],
    &[13, 12, 5, 4, 3, 2, 13, 13],
];

/// With a dwell limit for downlinks, data rates 0 and 1 take too long.
const RX1_ROWS_DWELL: &[&[u8]] = &[
    &[2, 2, 2, 2, 2, 2, 2, 2],
    &[2, 2, 2, 2, 2, 2, 2, 3],
    &[2, 2, 2, 2, 2, 2, 3, 4],
    &[3, 2, 2, 2, 2, 2, 4, 5],
    &[4, 3, 2, 2, 2, 2, 5, 6],
    &[5, 4, 3, 2, 2, 2, 6, 7],
    &[6, 5, 4, 3, 2, 2, 7, 7],
    &[7, 6, 5, 4, 3, 2, 7, 7],
    &[],
    &[],
    &[],
    &[],
    &[12, 5, 4, 3, 2, 2, 13, 13],
    &[13, 12, 5, 4, 3, 2, 13, 13],
];
