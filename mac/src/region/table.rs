//! The shapes of the regional tables: a row says for which revisions of the documents it holds.

use super::{Channel, DataRate, Modulation};
use crate::units::{Dbm, Hz};
use crate::version::RegionalRevision;

/// A range of revisions, both ends included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revisions {
    first: RegionalRevision,
    last: RegionalRevision,
}

impl Revisions {
    pub(super) const ALL: Self = Self::until(RegionalRevision::Rp002_1_0_5);

    pub(super) const fn since(first: RegionalRevision) -> Self {
        Self { first, last: RegionalRevision::Rp002_1_0_5 }
    }

    pub(super) const fn until(last: RegionalRevision) -> Self {
        Self { first: RegionalRevision::Ts001_1_0_1, last }
    }

    pub(super) const fn between(first: RegionalRevision, last: RegionalRevision) -> Self {
        Self { first, last }
    }

    pub(super) fn contain(self, rev: RegionalRevision) -> bool {
        self.first <= rev && rev <= self.last
    }
}

/// Which way a row of a table holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Both,
    Down,
    Up,
}

impl Way {
    pub(super) fn allows_up(self) -> bool {
        self != Self::Down
    }

    pub(super) fn allows_down(self) -> bool {
        self != Self::Up
    }
}

/// One data rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateRow {
    pub(super) dr: DataRate,
    pub(super) modulation: Modulation,
    pub(super) way: Way,
    pub(super) revisions: Revisions,
}

/// A default channel of a dynamic plan: data rates 0 to 5.
pub(super) const fn channel(index: u8, freq_hz: u32) -> Channel {
    Channel { index, freq: Hz::new(freq_hz), dr_min: DataRate::new(0), dr_max: DataRate::new(5) }
}

pub(super) const fn both(dr: u8, modulation: Modulation, revisions: Revisions) -> RateRow {
    RateRow { dr: DataRate::new(dr), modulation, way: Way::Both, revisions }
}

pub(super) const fn up(dr: u8, modulation: Modulation, revisions: Revisions) -> RateRow {
    RateRow { dr: DataRate::new(dr), modulation, way: Way::Up, revisions }
}

pub(super) const fn down(dr: u8, modulation: Modulation, revisions: Revisions) -> RateRow {
    RateRow { dr: DataRate::new(dr), modulation, way: Way::Down, revisions }
}

pub(super) const fn lora(sf: u8, bw_hz: u32) -> Modulation {
    Modulation::Lora { sf, bw_hz }
}

/// When a row of a table holds, by the dwell limit of 400 ms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dwell {
    Any,
    Limited,
    Unlimited,
}

impl Dwell {
    pub(super) fn matches(self, dwell_400ms: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Limited => dwell_400ms,
            Self::Unlimited => !dwell_400ms,
        }
    }
}

/// The largest MACPayload by data rate; the first table that matches counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PayloadTable {
    pub(super) way: Way,
    pub(super) dwell: Dwell,
    pub(super) revisions: Revisions,
    /// M in bytes, indexed by data rate; `NA` where there is none.
    pub(super) m: &'static [u8],
}

/// Marks a data rate that has no entry in a payload table.
pub(super) const NA: u8 = 0;

/// The data rate of RX1; the first table that matches counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rx1Table {
    pub(super) dwell: Dwell,
    pub(super) revisions: Revisions,
    /// No answer is faster than this data rate.
    pub(super) dr_max: u8,
    /// Indexed by uplink data rate, then by `RX1DROffset`; an empty row where the uplink data rate does not exist.
    pub(super) rows: &'static [&'static [u8]],
}

/// `dr_max` of a table without a cap.
pub(super) const NO_CAP: u8 = 15;

/// The steps of the device's transmit power; the first table that matches counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PowerTable {
    pub(super) revisions: Revisions,
    pub(super) max: Dbm,
    /// Decibels below `max`, indexed by `TXPower`.
    pub(super) below_max_db: &'static [u8],
}

/// What a device assumes about the dwell limit until it is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct DwellDefault {
    pub(super) revisions: Revisions,
    pub(super) uplink: bool,
    pub(super) downlink: bool,
}

/// A part of the band with its own limits for a transmitter, here the gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubBand {
    /// Position in the region's list, from 0; names the sub-band in a ledger of airtime.
    pub index: u8,
    /// Lowest frequency, included.
    pub from: Hz,
    /// Highest frequency; belongs to the next sub-band where one begins there.
    pub to: Hz,
    /// Share of an hour that may be used for transmission, in thousandths; `None` where the region has no such limit.
    pub duty_cycle_permille: Option<u16>,
    /// Largest radiated power relative to an isotropic antenna.
    pub max_eirp: Dbm,
}

/// A limit given as effective radiated power (relative to a half-wave dipole) as isotropic power.
pub(super) const fn erp_dbm(erp_dbm: f32) -> Dbm {
    Dbm::new(erp_dbm + DIPOLE_GAIN_DB)
}

const DIPOLE_GAIN_DB: f32 = 2.15;
