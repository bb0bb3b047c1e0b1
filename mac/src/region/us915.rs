//! North America, 902 to 928 MHz (RP002-1.0.5 §3.5).

use super::fixed::{self, DOWN_RATES, lr_fhss};
use super::table::{Dwell, PayloadTable, RateRow, Revisions, SubBand, Way, lora, up};
use super::{Channel, DataRate, LrFhssCodingRate, Plan, Region, RegionId};
use crate::units::Hz;
use crate::version::RegionalRevision::{Rp002_1_0_1, Rp002_1_0_2, Rp002_1_0_5};

/// US915.
pub(super) static US915: Region = Region {
    id: RegionId::Us915,
    plan: Plan::Fixed72,
    channels: &CHANNELS,
    freq_min: Hz::new(902_000_000),
    freq_max: Hz::new(928_000_000),
    data_rates: DATA_RATES,
    payloads: PAYLOADS,
    rx1: &[fixed::RX1_US915],
    rx2: fixed::RX2,
    powers: fixed::POWERS,
    max_eirp: fixed::MAX_EIRP,
    adr_dr_max: &[(Revisions::ALL, DataRate::new(3))],
    tx_param_setup: &[],
    // 47 CFR 15.247 limits the 125 kHz channels to 400 ms; the payload tables are made for it, nothing is set.
    dwell_defaults: &[],
    sub_bands: &[SubBand {
        index: 0,
        from: Hz::new(902_000_000),
        to: Hz::new(928_000_000),
        duty_cycle_permille: None,
        max_eirp: fixed::MAX_EIRP,
    }],
};

static CHANNELS: [Channel; fixed::CHANNELS] = fixed::uplink_channels(902_300_000, 3, 903_000_000, 4);

const DATA_RATES: &[RateRow] = &[
    up(0, lora(10, 125_000), Revisions::ALL),
    up(1, lora(9, 125_000), Revisions::ALL),
    up(2, lora(8, 125_000), Revisions::ALL),
    up(3, lora(7, 125_000), Revisions::ALL),
    up(4, lora(8, 500_000), Revisions::ALL),
    up(5, lr_fhss(LrFhssCodingRate::OneThird), Revisions::since(Rp002_1_0_2)),
    up(6, lr_fhss(LrFhssCodingRate::TwoThirds), Revisions::since(Rp002_1_0_2)),
    up(7, lora(6, 125_000), Revisions::since(Rp002_1_0_5)),
    up(8, lora(5, 125_000), Revisions::since(Rp002_1_0_5)),
    DOWN_RATES[0],
    DOWN_RATES[1],
    DOWN_RATES[2],
    DOWN_RATES[3],
    DOWN_RATES[4],
    DOWN_RATES[5],
    DOWN_RATES[6],
    DOWN_RATES[7],
];

const PAYLOADS: &[PayloadTable] = &[
    PayloadTable { revisions: Revisions::until(Rp002_1_0_1), ..fixed::UP_PAYLOAD_US915 },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Any,
        revisions: fixed::LR_FHSS_ONLY,
        m: &[19, 61, 133, 250, 250, 58, 133],
    },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Any,
        revisions: Revisions::since(Rp002_1_0_5),
        // Data rates 7 and 8 have the largest frame there is: 250 bytes at SF6 stay below 400 ms.
        m: &[19, 61, 133, 250, 250, 58, 133, 250, 250],
    },
    fixed::DOWN_PAYLOAD,
    fixed::DOWN_PAYLOAD_SF5,
];
