//! Europe, 863 to 870 MHz (RP002-1.0.5 §3.4).

use super::table::{
    Dwell, NO_CAP, PayloadTable, PowerTable, RateRow, Revisions, Rx1Table, SubBand, Way, both, channel,
    erp_dbm, lora, up,
};
use super::{DataRate, LrFhssCodingRate, Modulation, Plan, Region, RegionId};
use crate::units::{Dbm, Hz};
use crate::version::RegionalRevision::{
    Rp001_1_0_2, Rp001_1_0_2B, Rp002_1_0_1, Rp002_1_0_2, Rp002_1_0_4, Rp002_1_0_5,
};

/// EU868.
pub(super) static EU868: Region = Region {
    id: RegionId::Eu868,
    plan: Plan::Dynamic,
    channels: &[channel(0, 868_100_000), channel(1, 868_300_000), channel(2, 868_500_000)],
    freq_min: Hz::new(863_000_000),
    freq_max: Hz::new(870_000_000),
    data_rates: DATA_RATES,
    payloads: PAYLOADS,
    rx1: RX1,
    rx2: (Hz::new(869_525_000), DataRate::new(0)),
    powers: &[
        PowerTable {
            revisions: Revisions::until(Rp001_1_0_2),
            max: Dbm::new(20.0),
            below_max_db: &[0, 6, 9, 12, 15, 18],
        },
        PowerTable {
            revisions: Revisions::since(Rp001_1_0_2B),
            max: MAX_EIRP,
            below_max_db: &[0, 2, 4, 6, 8, 10, 12, 14],
        },
    ],
    max_eirp: MAX_EIRP,
    adr_dr_max: &[(Revisions::ALL, DataRate::new(5))],
    tx_param_setup: &[],
    dwell_defaults: &[],
    sub_bands: SUB_BANDS,
};

const MAX_EIRP: Dbm = Dbm::new(16.0);

const LR_FHSS: Revisions = Revisions::since(Rp002_1_0_2);
const SF5: Revisions = Revisions::since(Rp002_1_0_5);

const DATA_RATES: &[RateRow] = &[
    both(0, lora(12, 125_000), Revisions::ALL),
    both(1, lora(11, 125_000), Revisions::ALL),
    both(2, lora(10, 125_000), Revisions::ALL),
    both(3, lora(9, 125_000), Revisions::ALL),
    both(4, lora(8, 125_000), Revisions::ALL),
    both(5, lora(7, 125_000), Revisions::ALL),
    both(6, lora(7, 250_000), Revisions::ALL),
    both(7, Modulation::Fsk { bit_rate_bps: 50_000 }, Revisions::ALL),
    up(8, lr_fhss(137_000, LrFhssCodingRate::OneThird), LR_FHSS),
    up(9, lr_fhss(137_000, LrFhssCodingRate::TwoThirds), LR_FHSS),
    up(10, lr_fhss(336_000, LrFhssCodingRate::OneThird), LR_FHSS),
    up(11, lr_fhss(336_000, LrFhssCodingRate::TwoThirds), LR_FHSS),
    both(12, lora(6, 125_000), SF5),
    both(13, lora(5, 125_000), SF5),
];

const fn lr_fhss(ocw_hz: u32, cr: LrFhssCodingRate) -> Modulation {
    Modulation::LrFhss { ocw_hz, cr }
}

const PAYLOADS: &[PayloadTable] = &[
    payload(Revisions::until(Rp002_1_0_1), &[59, 59, 59, 123, 250, 250, 250, 250]),
    payload(
        Revisions::between(Rp002_1_0_2, Rp002_1_0_4),
        &[59, 59, 59, 123, 250, 250, 250, 250, 58, 123, 58, 123],
    ),
    payload(SF5, &[59, 59, 59, 123, 250, 250, 250, 250, 58, 123, 58, 123, 250, 250]),
];

const fn payload(revisions: Revisions, m: &'static [u8]) -> PayloadTable {
    PayloadTable { way: Way::Both, dwell: Dwell::Any, revisions, m }
}

const RX1: &[Rx1Table] = &[Rx1Table {
    dwell: Dwell::Any,
    revisions: Revisions::ALL,
    dr_max: NO_CAP,
    rows: &[
        &[0, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0],
        &[2, 1, 0, 0, 0, 0],
        &[3, 2, 1, 0, 0, 0],
        &[4, 3, 2, 1, 0, 0],
        &[5, 4, 3, 2, 1, 0],
        &[6, 5, 4, 3, 2, 1],
        &[7, 6, 5, 4, 3, 2],
        // LR-FHSS is answered with LoRa.
        &[1, 0, 0, 0, 0, 0],
        &[2, 1, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0],
        &[2, 1, 0, 0, 0, 0],
        // SF6 and SF5 of RP002-1.0.5.
        &[12, 5, 4, 3, 2, 1],
        &[13, 12, 5, 4, 3, 2],
    ],
}];

/// ETSI EN 300 220-2 annex B. The gaps belong to alarm systems: nothing is sent there.
const SUB_BANDS: &[SubBand] = &[
    sub_band(0, 863_000_000, 865_000_000, 1, 14.0),
    sub_band(1, 865_000_000, 868_000_000, 10, 14.0),
    sub_band(2, 868_000_000, 868_600_000, 10, 14.0),
    sub_band(3, 868_700_000, 869_200_000, 1, 14.0),
    sub_band(4, 869_400_000, 869_650_000, 100, 27.0),
    sub_band(5, 869_700_000, 870_000_000, 10, 14.0),
];

const fn sub_band(index: u8, from_hz: u32, to_hz: u32, duty_cycle_permille: u16, max_erp_dbm: f32) -> SubBand {
    SubBand {
        index,
        from: Hz::new(from_hz),
        to: Hz::new(to_hz),
        duty_cycle_permille: Some(duty_cycle_permille),
        max_eirp: erp_dbm(max_erp_dbm),
    }
}
