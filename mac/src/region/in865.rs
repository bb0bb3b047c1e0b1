//! India, 865 to 867 MHz (RP002-1.0.5 §3.12).

use super::table::{
    Dwell, NA, NO_CAP, PayloadTable, PowerTable, RateRow, Revisions, Rx1Table, SubBand, Way, both, channel,
    lora,
};
use super::{DataRate, Modulation, Plan, Region, RegionId};
use crate::units::{Dbm, Hz};
use crate::version::RegionalRevision::{Rp001_1_1B, Rp002_1_0_0, Rp002_1_0_4, Rp002_1_0_5};

/// IN865.
pub(super) static IN865: Region = Region {
    id: RegionId::In865,
    plan: Plan::Dynamic,
    channels: &[channel(0, 865_062_500), channel(1, 865_402_500), channel(2, 865_985_000)],
    freq_min: Hz::new(865_000_000),
    freq_max: Hz::new(867_000_000),
    data_rates: DATA_RATES,
    payloads: PAYLOADS,
    rx1: &[rx1(Revisions::until(Rp001_1_1B), RP001_DR_MAX), rx1(Revisions::since(Rp002_1_0_0), NO_CAP)],
    rx2: (Hz::new(866_550_000), DataRate::new(2)),
    powers: &[
        PowerTable {
            revisions: Revisions::until(Rp002_1_0_4),
            max: MAX_EIRP,
            below_max_db: &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20],
        },
        PowerTable {
            revisions: SF5,
            max: Dbm::new(29.2),
            below_max_db: &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28],
        },
    ],
    max_eirp: MAX_EIRP,
    adr_dr_max: &[(Revisions::ALL, DataRate::new(5))],
    tx_param_setup: &[],
    dwell_defaults: &[],
    sub_bands: &[SubBand {
        index: 0,
        from: Hz::new(865_000_000),
        to: Hz::new(867_000_000),
        duty_cycle_permille: None,
        max_eirp: MAX_EIRP,
    }],
};

const MAX_EIRP: Dbm = Dbm::new(30.0);
/// RP001 knows no RX1 data rate above 5, whatever the offset adds.
const RP001_DR_MAX: u8 = 5;
const SF5: Revisions = Revisions::since(Rp002_1_0_5);

const DATA_RATES: &[RateRow] = &[
    both(0, lora(12, 125_000), Revisions::ALL),
    both(1, lora(11, 125_000), Revisions::ALL),
    both(2, lora(10, 125_000), Revisions::ALL),
    both(3, lora(9, 125_000), Revisions::ALL),
    both(4, lora(8, 125_000), Revisions::ALL),
    both(5, lora(7, 125_000), Revisions::ALL),
    both(7, Modulation::Fsk { bit_rate_bps: 50_000 }, Revisions::ALL),
    both(12, lora(6, 125_000), SF5),
    both(13, lora(5, 125_000), SF5),
];

const PAYLOADS: &[PayloadTable] = &[
    payload(Revisions::until(Rp002_1_0_4), &[59, 59, 59, 123, 250, 250, NA, 250]),
    payload(SF5, &[59, 59, 59, 123, 250, 250, NA, 250, NA, NA, NA, NA, 250, 250]),
];

const fn payload(revisions: Revisions, m: &'static [u8]) -> PayloadTable {
    PayloadTable { way: Way::Both, dwell: Dwell::Any, revisions, m }
}

const fn rx1(revisions: Revisions, dr_max: u8) -> Rx1Table {
    Rx1Table {
        dwell: Dwell::Any,
        revisions,
        dr_max,
        // Offsets 6 and 7 make the answer faster. There is no data rate 6: what would be 6 is 5.
        rows: &[
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[1, 0, 0, 0, 0, 0, 2, 3],
            &[2, 1, 0, 0, 0, 0, 3, 4],
            &[3, 2, 1, 0, 0, 0, 4, 5],
            &[4, 3, 2, 1, 0, 0, 5, 5],
            &[5, 4, 3, 2, 1, 0, 5, 7],
            &[],
            &[7, 5, 5, 4, 3, 2, 7, 7],
            &[],
            &[],
            &[],
            &[],
            // SF6 and SF5 of RP002-1.0.5.
            &[12, 5, 4, 3, 2, 1, 13, 13],
            &[13, 12, 5, 4, 3, 2, 13, 13],
        ],
    }
}
