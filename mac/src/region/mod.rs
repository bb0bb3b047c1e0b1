//! Regional parameters: what a device may send where, and when and how the network answers.
//!
//! A region is data: one constant of type [`Region`] in a file of its own, with tables that say for which revisions
//! of the regional parameters they hold. Another plan is another file and another [`RegionId`].
//!
//! Every lookup is total. A data rate, channel or offset the tables do not know gives `None`; nothing allocates.

use std::fmt;
use std::str::FromStr;

use crate::command::WireFrequency;
use crate::crypto::Direction;
use crate::units::{Dbm, Hz};
use crate::version::RegionalRevision;

mod as923;
mod au915;
mod cf_list;
mod channel_mask;
mod eu868;
mod fixed;
mod in865;
mod link_adr;
mod modulation;
mod table;
mod us915;

pub use cf_list::{CF_LIST_FREQUENCIES, CF_LIST_LEN, CfList};
pub use channel_mask::{CHANNEL_MASK_WORDS, ChannelMask};
pub use link_adr::{apply_link_adr_block, link_adr_block};
pub use modulation::{CodingRate, CodingRateError, LrFhssCodingRate, Modulation};
pub use table::SubBand;
use table::{DwellDefault, NA, PayloadTable, PowerTable, RateRow, Revisions, Rx1Table};

/// Seconds from the end of an uplink to RX1 unless the device was told another delay (RP002-1.0.5 §3.3).
pub const RECEIVE_DELAY1_S: u8 = 1;
/// Seconds from the end of a Join-Request to RX1 (RP002-1.0.5 §3.3).
pub const JOIN_ACCEPT_DELAY1_S: u8 = 5;
/// Seconds from RX1 to RX2, after uplinks and Join-Requests alike.
pub const RX2_AFTER_RX1_S: u8 = 1;

/// The parameters of a region.
pub fn region(id: RegionId) -> &'static Region {
    match id {
        RegionId::As923_1 => &as923::AS923_1,
        RegionId::Au915 => &au915::AU915,
        RegionId::Eu868 => &eu868::EU868,
        RegionId::In865 => &in865::IN865,
        RegionId::Us915 => &us915::US915,
    }
}

/// Names a region of the regional parameters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RegionId {
    /// Asia, group 1.
    As923_1,
    /// Australia and South America.
    Au915,
    /// Europe.
    Eu868,
    /// India.
    In865,
    /// North America.
    Us915,
}

impl RegionId {
    /// Every region that is built, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Eu868, Self::Us915, Self::Au915, Self::As923_1, Self::In865];

    /// The number of the region in `loam.v1.Region`.
    pub const fn number(self) -> i32 {
        match self {
            Self::Eu868 => 1,
            Self::Us915 => 2,
            Self::Au915 => 3,
            Self::As923_1 => 4,
            Self::In865 => 5,
        }
    }

    /// The region with that number in `loam.v1.Region`; `None` for 0 and for numbers that are not known.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.number() == number)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::As923_1 => "AS923-1",
            Self::Au915 => "AU915",
            Self::Eu868 => "EU868",
            Self::In865 => "IN865",
            Self::Us915 => "US915",
        }
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for RegionId {
    type Err = RegionError;

    /// Reads `EU868` and the like, upper or lower case; `AS923` is AS923-1.
    fn from_str(text: &str) -> Result<Self, RegionError> {
        if text.eq_ignore_ascii_case("AS923") {
            return Ok(Self::As923_1);
        }
        let named = Self::ALL.iter().copied().find(|id| id.text().eq_ignore_ascii_case(text));
        named.ok_or_else(|| RegionError { value: text.chars().take(VALUE_CHARS_MAX).collect() })
    }
}

/// A text names no region that is built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{value}` is not a region; known are EU868, US915, AU915, AS923-1 and IN865")]
pub struct RegionError {
    value: String,
}

/// The index of a data rate, 0..=15; what it stands for depends on region, direction and revision.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DataRate(u8);

impl DataRate {
    /// The data rate of that index.
    pub const fn new(index: u8) -> Self {
        Self(index)
    }

    /// The index.
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for DataRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DR{}", self.0)
    }
}

/// An uplink channel.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Channel {
    /// The device's number for it; the `TxCh` of the 1.1 MIC and the bit in channel masks.
    pub index: u8,
    /// Centre frequency.
    pub freq: Hz,
    /// Slowest data rate.
    pub dr_min: DataRate,
    /// Fastest data rate.
    pub dr_max: DataRate,
}

/// The regional parameters of one region.
#[derive(Debug)]
pub struct Region {
    id: RegionId,
    plan: Plan,
    /// Default channels of a dynamic plan, all channels of a fixed one.
    channels: &'static [Channel],
    freq_min: Hz,
    freq_max: Hz,
    data_rates: &'static [RateRow],
    payloads: &'static [PayloadTable],
    rx1: &'static [Rx1Table],
    rx2: (Hz, DataRate),
    powers: &'static [PowerTable],
    max_eirp: Dbm,
    adr_dr_max: &'static [(Revisions, DataRate)],
    tx_param_setup: &'static [Revisions],
    dwell_defaults: &'static [DwellDefault],
    sub_bands: &'static [SubBand],
}

/// How a region hands out channels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Plan {
    /// A few default channels; the network adds others. Answers go out on the uplink's channel.
    Dynamic,
    /// 64 channels of 125 kHz, eight of 500 kHz, and eight for answers.
    Fixed72,
}

impl Region {
    /// Which region this is.
    pub const fn id(&self) -> RegionId {
        self.id
    }

    /// Whether the channels are fixed and switched by mask; otherwise the network adds them one by one.
    pub fn is_fixed_plan(&self) -> bool {
        self.plan == Plan::Fixed72
    }

    /// Unit of the frequency field in MAC commands and the CFList, in hertz.
    pub const fn freq_unit_hz(&self) -> u32 {
        100
    }

    /// Whether the frequency lies in the band of the region; a frame outside was sent for another region.
    pub fn accepts_frequency(&self, freq: Hz) -> bool {
        self.freq_min <= freq && freq <= self.freq_max
    }

    /// The index of the data rate an uplink was sent with; `None` when the region has none for it.
    pub fn data_rate_up(&self, modulation: Modulation, rev: RegionalRevision) -> Option<DataRate> {
        self.rates(rev).find(|row| row.way.allows_up() && row.modulation == modulation).map(|row| row.dr)
    }

    /// How an uplink of that data rate is modulated; `None` for one the region does not have.
    pub fn modulation_up(&self, dr: DataRate, rev: RegionalRevision) -> Option<Modulation> {
        self.rates(rev).find(|row| row.way.allows_up() && row.dr == dr).map(|row| row.modulation)
    }

    /// How a downlink of that data rate is modulated; `None` for one the region does not have, or for uplinks only.
    pub fn modulation_down(&self, dr: DataRate, rev: RegionalRevision) -> Option<Modulation> {
        self.rates(rev).find(|row| row.way.allows_down() && row.dr == dr).map(|row| row.modulation)
    }

    /// The largest MACPayload in bytes (M: FHDR, FPort and FRMPayload); the largest FRMPayload is 8 less (N).
    ///
    /// `dwell_400ms` is the dwell limit of that direction; regions without one ignore it. A device that was not told
    /// of the limit may send more than it allows, so what arrives is checked without it. `None` for a data rate that
    /// may not be used.
    pub fn max_payload_m(
        &self,
        direction: Direction,
        dr: DataRate,
        rev: RegionalRevision,
        dwell_400ms: bool,
    ) -> Option<u8> {
        let table = self.payloads.iter().find(|table| {
            let way = match direction {
                Direction::Down => table.way.allows_down(),
                Direction::Up => table.way.allows_up(),
            };
            way && table.revisions.contain(rev) && table.dwell.matches(dwell_400ms)
        })?;
        table.m.get(usize::from(dr.value())).copied().filter(|&m| m != NA)
    }

    /// The slowest uplink data rate that may be used; answers must fit it when the device chooses the rate itself.
    pub fn data_rate_min(&self, rev: RegionalRevision, uplink_dwell_400ms: bool) -> DataRate {
        (0..DATA_RATES)
            .map(DataRate::new)
            .find(|&dr| self.max_payload_m(Direction::Up, dr, rev, uplink_dwell_400ms).is_some())
            .unwrap_or_default()
    }

    /// The fastest data rate the network sends a device to (RP002 leaves it to the network).
    ///
    /// Rates above it exist, but not on every channel.
    pub fn adr_max_dr(&self, rev: RegionalRevision) -> DataRate {
        let row = self.adr_dr_max.iter().find(|(revisions, _)| revisions.contain(rev));
        row.map_or_else(DataRate::default, |&(_, dr)| dr)
    }

    /// The default channels of a dynamic plan, all 72 of a fixed one.
    pub const fn default_channels(&self) -> &'static [Channel] {
        self.channels
    }

    /// The device's index of the channel a frame came in on: for `TxCh` of the 1.1 MIC, and for RX1 of a fixed plan.
    ///
    /// `extra` are the channels the device has beside the default ones; fixed plans have none. Where two of its
    /// channels share the frequency, the data rate decides. `None` when no channel fits, or when it stays open which:
    /// a wrong index is worse than none.
    pub fn uplink_channel(&self, freq: Hz, dr: DataRate, extra: &[Channel]) -> Option<u8> {
        let extra = if self.is_fixed_plan() { &[] } else { extra };
        let mut on_freq = self.channels.iter().chain(extra).filter(|channel| channel.freq == freq);
        let first = on_freq.next()?;
        let Some(second) = on_freq.next() else {
            return Some(first.index);
        };
        [first, second]
            .into_iter()
            .chain(on_freq)
            .find(|channel| channel.dr_min <= dr && dr <= channel.dr_max)
            .map(|channel| channel.index)
    }

    /// Frequency and data rate of RX1 (RP002-1.0.5, "receive windows" of the region).
    ///
    /// In a dynamic plan the frequency is `uplink_freq`; the caller gives the one of `DlChannelReq` instead where the
    /// device has acknowledged it. In a fixed plan it follows from `uplink_channel`. `downlink_dwell_400ms` matters
    /// in AS923 only. `None` when the uplink was off plan, or `offset` is larger than the region allows: RX2 remains.
    pub fn rx1(
        &self,
        uplink_freq: Hz,
        uplink_channel: Option<u8>,
        uplink_dr: DataRate,
        offset: u8,
        downlink_dwell_400ms: bool,
        rev: RegionalRevision,
    ) -> Option<(Hz, DataRate)> {
        let freq = match self.plan {
            Plan::Dynamic => uplink_freq,
            Plan::Fixed72 => fixed::rx1_freq(uplink_channel?)?,
        };
        let dr = self.rx1_data_rate(uplink_dr, offset, downlink_dwell_400ms, rev)?;
        Some((freq, dr))
    }

    /// The largest `RX1DROffset` of the region.
    pub fn rx1_dr_offset_max(&self, rev: RegionalRevision) -> u8 {
        let widths = self.rx1.iter().filter(|table| table.revisions.contain(rev)).flat_map(|table| table.rows);
        let width = widths.map(|row| row.len()).max().unwrap_or(1);
        u8::try_from(width.saturating_sub(1)).unwrap_or(0)
    }

    fn rx1_data_rate(
        &self,
        uplink_dr: DataRate,
        offset: u8,
        downlink_dwell_400ms: bool,
        rev: RegionalRevision,
    ) -> Option<DataRate> {
        let table = self
            .rx1
            .iter()
            .find(|table| table.revisions.contain(rev) && table.dwell.matches(downlink_dwell_400ms))?;
        let row = table.rows.get(usize::from(uplink_dr.value()))?;
        let dr = *row.get(usize::from(offset))?;
        let dr = DataRate::new(dr.min(table.dr_max));
        self.modulation_down(dr, rev).map(|_| dr)
    }

    /// Frequency and data rate of RX2 until the device is told others.
    pub const fn rx2_default(&self) -> (Hz, DataRate) {
        self.rx2
    }

    /// The channel list for a Join-Accept, 16 bytes; `None` when there is nothing to tell or the revision has no list.
    ///
    /// A dynamic plan lists the frequencies of `extra`, those that follow the default channels in the order of their
    /// index; the device uses data rates 0 to 5 on them. A fixed plan lists `mask`, from RP001-1.0.3 on. The plan the
    /// device has afterwards is [`Region::mask_after_join`].
    pub fn cf_list(
        &self,
        extra: &[Channel],
        mask: ChannelMask,
        rev: RegionalRevision,
    ) -> Option<[u8; CF_LIST_LEN]> {
        match self.plan {
            Plan::Dynamic => {
                let frequencies = self.cf_list_frequencies(extra);
                let any = frequencies.iter().any(|&freq| freq != WireFrequency::DISABLED);
                any.then(|| CfList::Frequencies(frequencies).to_bytes())
            }
            Plan::Fixed72 => {
                let mask = mask.intersection(fixed::ALL_CHANNELS);
                let tells = Revisions::since(RegionalRevision::Rp001_1_0_3A).contain(rev)
                    && !mask.is_empty()
                    && mask != fixed::ALL_CHANNELS;
                tells.then(|| CfList::Masks(mask).to_bytes())
            }
        }
    }

    /// The channels that are on right after a join answered with [`Region::cf_list`] of the same arguments.
    pub fn mask_after_join(&self, extra: &[Channel], mask: ChannelMask, rev: RegionalRevision) -> ChannelMask {
        match self.plan {
            Plan::Dynamic => {
                let listed = (self.first_extra_index()..).zip(self.cf_list_frequencies(extra));
                let listed = listed.filter(|&(_, freq)| freq != WireFrequency::DISABLED);
                self.channels
                    .iter()
                    .map(|channel| channel.index)
                    .chain(listed.map(|(index, _)| index))
                    .collect()
            }
            Plan::Fixed72 => match self.cf_list(extra, mask, rev) {
                Some(_) => mask.intersection(fixed::ALL_CHANNELS),
                None => fixed::ALL_CHANNELS,
            },
        }
    }

    /// The channels that are on before anything is said: the default ones, or all of a fixed plan.
    pub fn default_mask(&self) -> ChannelMask {
        self.channels.iter().map(|channel| channel.index).collect()
    }

    /// The channels of the sub-bands whose bits are set: bit 0 is the first, channels 0 to 7 and 64. 0 is all.
    ///
    /// A dynamic plan has no sub-bands and gives its default channels.
    pub fn sub_band_mask(&self, sub_bands: u8) -> ChannelMask {
        match self.plan {
            Plan::Fixed72 if sub_bands != 0 => fixed::sub_band_mask(sub_bands),
            Plan::Fixed72 | Plan::Dynamic => self.default_mask(),
        }
    }

    /// The index of the first channel the network may add in a dynamic plan; those below are read-only.
    pub fn first_extra_index(&self) -> u8 {
        u8::try_from(self.channels.len()).unwrap_or(u8::MAX)
    }

    fn cf_list_frequencies(&self, extra: &[Channel]) -> [WireFrequency; CF_LIST_FREQUENCIES] {
        let mut frequencies = [WireFrequency::DISABLED; CF_LIST_FREQUENCIES];
        for channel in extra {
            let position = channel.index.checked_sub(self.first_extra_index()).map(usize::from);
            let field = position.and_then(|position| frequencies.get_mut(position));
            let freq = WireFrequency::from_hz(channel.freq, self.freq_unit_hz());
            if let (Some(field), Some(freq)) = (field, freq) {
                *field = freq;
            }
        }
        frequencies
    }

    /// The largest radiated power of a device at `TXPower` 0.
    pub const fn max_eirp_dbm(&self) -> Dbm {
        self.max_eirp
    }

    /// Number of steps of the transmit power: `TXPower` is 0 to one less.
    ///
    /// RP001-1.0.3-A has 16 in the fixed plans; LoRaWAN 1.0.4 and 1.1 read index 15 as "leave unchanged".
    pub fn tx_power_steps(&self, rev: RegionalRevision) -> u8 {
        self.power_table(rev).map_or(1, |table| u8::try_from(table.below_max_db.len()).unwrap_or(u8::MAX))
    }

    /// The radiated power at an index of `TXPower`; `None` for an index the revision does not have.
    pub fn tx_power_dbm(&self, index: u8, rev: RegionalRevision) -> Option<Dbm> {
        let table = self.power_table(rev)?;
        let below_db = *table.below_max_db.get(usize::from(index))?;
        Some(Dbm::new(table.max.value() - f32::from(below_db)))
    }

    fn power_table(&self, rev: RegionalRevision) -> Option<&PowerTable> {
        self.powers.iter().find(|table| table.revisions.contain(rev))
    }

    /// The dwell limit a device keeps before it is told: (uplink, downlink), true for 400 ms.
    pub fn dwell_defaults(&self, rev: RegionalRevision) -> (bool, bool) {
        let row = self.dwell_defaults.iter().find(|row| row.revisions.contain(rev));
        row.map_or((false, false), |row| (row.uplink, row.downlink))
    }

    /// Whether devices of the region know `TxParamSetupReq`; others do not answer it.
    pub fn supports_tx_param_setup(&self, rev: RegionalRevision) -> bool {
        self.tx_param_setup.iter().any(|revisions| revisions.contain(rev))
    }

    /// Whether channels are added by `NewChannelReq` and moved by `DlChannelReq`; fixed plans know neither.
    pub fn supports_new_channel(&self) -> bool {
        !self.is_fixed_plan()
    }

    /// The limits for a gateway that transmits there; `None` where it must not transmit at all.
    pub fn downlink_limits(&self, freq: Hz) -> Option<&'static SubBand> {
        // Neighbours share an edge; the later one owns it, as it begins there.
        self.sub_bands.iter().rev().find(|band| band.from <= freq && freq <= band.to)
    }

    /// The sub-bands of the region in rising order.
    pub const fn sub_bands(&self) -> &'static [SubBand] {
        self.sub_bands
    }

    fn rates(&self, rev: RegionalRevision) -> impl Iterator<Item = &'static RateRow> {
        self.data_rates.iter().filter(move |row| row.revisions.contain(rev))
    }
}

const DATA_RATES: u8 = 16;
const VALUE_CHARS_MAX: usize = 64;
