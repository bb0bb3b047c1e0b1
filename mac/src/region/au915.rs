//! Australia and South America, 915 to 928 MHz (RP002-1.0.5 §3.8).
//!
//! Up to RP001-1.0.2 the uplink data rates, their payload sizes and the RX1 rates were those of US915; the rates from
//! SF12 on came with its revision B.

use super::fixed::{self, DOWN_RATES, lr_fhss};
use super::table::{
    Dwell, DwellDefault, NA, NO_CAP, PayloadTable, RateRow, Revisions, Rx1Table, SubBand, Way, lora, up,
};
use super::{Channel, DataRate, LrFhssCodingRate, Plan, Region, RegionId};
use crate::units::Hz;
use crate::version::RegionalRevision::{
    Rp001_1_0_2, Rp001_1_0_2B, Rp001_1_0_3A, Rp001_1_1B, Rp002_1_0_1, Rp002_1_0_2, Rp002_1_0_5,
};

/// AU915.
pub(super) static AU915: Region = Region {
    id: RegionId::Au915,
    plan: Plan::Fixed72,
    channels: &CHANNELS,
    freq_min: Hz::new(915_000_000),
    freq_max: Hz::new(928_000_000),
    data_rates: DATA_RATES,
    payloads: PAYLOADS,
    rx1: RX1,
    rx2: fixed::RX2,
    powers: fixed::POWERS,
    max_eirp: fixed::MAX_EIRP,
    adr_dr_max: &[(US915_RATES, DataRate::new(3)), (SF12_RATES, DataRate::new(5))],
    tx_param_setup: TX_PARAM_SETUP,
    dwell_defaults: &[
        DwellDefault {
            revisions: Revisions::between(Rp001_1_0_3A, Rp001_1_0_3A),
            uplink: true,
            downlink: false,
        },
        DwellDefault { revisions: Revisions::since(Rp001_1_1B), uplink: true, downlink: false },
    ],
    sub_bands: &[SubBand {
        index: 0,
        from: Hz::new(915_000_000),
        to: Hz::new(928_000_000),
        duty_cycle_permille: None,
        max_eirp: fixed::MAX_EIRP,
    }],
};

/// Revisions with the uplink data rates of US915.
const US915_RATES: Revisions = Revisions::until(Rp001_1_0_2);
/// Revisions with data rates from SF12 on.
const SF12_RATES: Revisions = Revisions::since(Rp001_1_0_2B);
/// RP001-1.1-A is dated before RP001-1.0.3-A and has no `TxParamSetupReq`.
const TX_PARAM_SETUP: &[Revisions] =
    &[Revisions::between(Rp001_1_0_3A, Rp001_1_0_3A), Revisions::since(Rp001_1_1B)];

static CHANNELS: [Channel; fixed::CHANNELS] = fixed::uplink_channels(915_200_000, 5, 915_900_000, 6);

const DATA_RATES: &[RateRow] = &[
    up(0, lora(12, 125_000), SF12_RATES),
    up(1, lora(11, 125_000), SF12_RATES),
    up(2, lora(10, 125_000), SF12_RATES),
    up(3, lora(9, 125_000), SF12_RATES),
    up(4, lora(8, 125_000), SF12_RATES),
    up(5, lora(7, 125_000), SF12_RATES),
    up(6, lora(8, 500_000), SF12_RATES),
    up(7, lr_fhss(LrFhssCodingRate::OneThird), Revisions::since(Rp002_1_0_2)),
    up(9, lora(6, 125_000), Revisions::since(Rp002_1_0_5)),
    up(10, lora(5, 125_000), Revisions::since(Rp002_1_0_5)),
    up(0, lora(10, 125_000), US915_RATES),
    up(1, lora(9, 125_000), US915_RATES),
    up(2, lora(8, 125_000), US915_RATES),
    up(3, lora(7, 125_000), US915_RATES),
    up(4, lora(8, 500_000), US915_RATES),
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
    PayloadTable { revisions: US915_RATES, ..fixed::UP_PAYLOAD_US915 },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Unlimited,
        revisions: Revisions::between(Rp001_1_0_2B, Rp002_1_0_1),
        m: &[59, 59, 59, 123, 250, 250, 250],
    },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Unlimited,
        revisions: fixed::LR_FHSS_ONLY,
        m: &[59, 59, 59, 123, 250, 250, 250, 58],
    },
    // Data rates 9 and 10 have the largest frame there is: 250 bytes at SF6 stay below 400 ms.
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Unlimited,
        revisions: Revisions::since(Rp002_1_0_5),
        m: &[59, 59, 59, 123, 250, 250, 250, 58, NA, 250, 250],
    },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Limited,
        revisions: Revisions::between(Rp001_1_0_2B, Rp002_1_0_1),
        m: &[NA, NA, 19, 61, 133, 250, 250],
    },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Limited,
        revisions: fixed::LR_FHSS_ONLY,
        m: &[NA, NA, 19, 61, 133, 250, 250, 58],
    },
    PayloadTable {
        way: Way::Up,
        dwell: Dwell::Limited,
        revisions: Revisions::since(Rp002_1_0_5),
        m: &[NA, NA, 19, 61, 133, 250, 250, 58, NA, 250, 250],
    },
    fixed::DOWN_PAYLOAD,
    fixed::DOWN_PAYLOAD_SF5,
];

const RX1: &[Rx1Table] = &[
    Rx1Table { revisions: US915_RATES, ..fixed::RX1_US915 },
    Rx1Table {
        dwell: Dwell::Any,
        revisions: SF12_RATES,
        dr_max: NO_CAP,
        rows: &[
            &[8, 8, 8, 8, 8, 8],
            &[9, 8, 8, 8, 8, 8],
            &[10, 9, 8, 8, 8, 8],
            &[11, 10, 9, 8, 8, 8],
            &[12, 11, 10, 9, 8, 8],
            &[13, 12, 11, 10, 9, 8],
            &[13, 13, 12, 11, 10, 9],
            // LR-FHSS is answered with LoRa.
            &[9, 8, 8, 8, 8, 8],
            &[],
            // SF6 and SF5 of RP002-1.0.5; downlink data rate 0 is SF5 on 500 kHz.
            &[14, 13, 12, 11, 10, 9],
            &[0, 14, 13, 12, 11, 10],
        ],
    },
];
