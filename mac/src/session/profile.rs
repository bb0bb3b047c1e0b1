//! What a kind of device is and how the network treats it.

use crate::crypto::Direction;
use crate::drop_reason::DropReason;
use crate::region::{Channel, ChannelMask, DataRate, Modulation, Region, RegionId, region};
use crate::units::Hz;
use crate::verify::SentWith;
use crate::version::{MacVersion, RegionalRevision};

/// The network's settings for a kind of device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Region the devices are used in.
    pub region: RegionId,
    /// Link-layer version they were built for.
    pub mac_version: MacVersion,
    /// Revision of the regional parameters they were built for.
    pub revision: RegionalRevision,
    /// Seconds from the end of an uplink to RX1, 1 to 15.
    pub rx_delay_s: u8,
    /// Offset between the data rates of uplink and RX1.
    pub rx1_dr_offset: u8,
    /// Data rate of RX2; `None`: the region's.
    pub rx2_dr: Option<DataRate>,
    /// Frequency of RX2; `None`: the region's.
    pub rx2_freq: Option<Hz>,
    /// Whether the network steers data rate, power and repetitions of devices that ask for it.
    pub adr: bool,
    /// Seconds between `DevStatusReq`; 0: never.
    pub device_status_interval_s: u32,
    /// Sub-bands of a fixed plan that the gateways hear, bit 0 for the first; 0: all.
    pub sub_bands: u8,
    /// Channels beside the default ones in a dynamic plan, at most [`EXTRA_CHANNELS_MAX`].
    pub extra_channels: Vec<Hz>,
    /// Whether devices keep the uplink dwell limit of 400 ms; `None`: as they boot.
    pub uplink_dwell: Option<bool>,
    /// Whether downlinks keep the dwell limit of 400 ms; `None`: as devices boot.
    pub downlink_dwell: Option<bool>,
    /// Largest radiated power told to the devices where the region can tell it, dBm; `None`: as they boot.
    pub max_eirp_dbm: Option<u8>,
}

/// A profile asks for what its region does not have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub enum ProfileError {
    #[error("rx_delay_s is {got}; it is 1 to 15")]
    RxDelay { got: u8 },
    #[error("rx1_dr_offset is {got}; in {region} it is 0 to {max}")]
    Rx1DrOffset { got: u8, region: RegionId, max: u8 },
    #[error("rx2_data_rate is {got}, which {region} has not for downlinks")]
    Rx2DataRate { got: u8, region: RegionId },
    #[error("{what} {freq} is not in the band of {region}")]
    Frequency { what: &'static str, freq: Hz, region: RegionId },
    #[error("{what} {freq} is in a part of the band where nothing may be sent in {region}")]
    ForbiddenFrequency { what: &'static str, freq: Hz, region: RegionId },
    #[error("{what} {freq} is not a multiple of {step_hz} Hz, which is all a device can be told")]
    FrequencyStep { what: &'static str, freq: Hz, step_hz: u32 },
    #[error("extra_channels are for dynamic plans; {region} has a fixed plan, use sub_bands")]
    ExtraChannelsOfFixedPlan { region: RegionId },
    #[error("{got} extra_channels; there are at most {EXTRA_CHANNELS_MAX}")]
    TooManyExtraChannels { got: usize },
    #[error("extra channel {freq} is listed twice or is a default channel of {region}")]
    DuplicateChannel { freq: Hz, region: RegionId },
    #[error("sub_bands are for fixed plans; {region} has a dynamic plan, use extra_channels")]
    SubBandsOfDynamicPlan { region: RegionId },
}

/// What the network puts into a Join-Accept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JoinSettings {
    /// Offset of RX1.
    pub rx1_dr_offset: u8,
    /// Data rate of RX2.
    pub rx2_dr: DataRate,
    /// Seconds to RX1, 1 to 15.
    pub rx_delay_s: u8,
    /// Channels, where the region and its revision can tell them so.
    pub cf_list: Option<[u8; 16]>,
}

impl Default for Profile {
    /// A 1.0.3 device in EU868 with the product's safe defaults.
    fn default() -> Self {
        Self {
            region: RegionId::Eu868,
            mac_version: MacVersion::V1_0_3,
            revision: RegionalRevision::Rp001_1_0_3A,
            rx_delay_s: RX_DELAY_S_DEFAULT,
            rx1_dr_offset: 0,
            rx2_dr: None,
            rx2_freq: None,
            adr: true,
            device_status_interval_s: 0,
            sub_bands: 0,
            extra_channels: Vec::new(),
            uplink_dwell: None,
            downlink_dwell: None,
            max_eirp_dbm: None,
        }
    }
}

impl Profile {
    /// Checks the profile against its region. A profile that passes never makes the network ask a device for something
    /// its region forbids.
    pub fn check(&self) -> Result<(), ProfileError> {
        let region = self.region();
        let id = self.region;
        if !(1..=15).contains(&self.rx_delay_s) {
            return Err(ProfileError::RxDelay { got: self.rx_delay_s });
        }
        let max = region.rx1_dr_offset_max(self.revision).min(DL_SETTINGS_OFFSET_MAX);
        if self.rx1_dr_offset > max {
            return Err(ProfileError::Rx1DrOffset { got: self.rx1_dr_offset, region: id, max });
        }
        if region.modulation_down(self.rx2_dr(), self.revision).is_none() {
            return Err(ProfileError::Rx2DataRate { got: self.rx2_dr().value(), region: id });
        }
        if let Some(freq) = self.rx2_freq {
            check_frequency(region, "rx2_frequency", freq)?;
        }
        if region.is_fixed_plan() {
            if !self.extra_channels.is_empty() {
                return Err(ProfileError::ExtraChannelsOfFixedPlan { region: id });
            }
        } else if self.sub_bands != 0 {
            return Err(ProfileError::SubBandsOfDynamicPlan { region: id });
        }
        self.check_extra_channels(region)
    }

    fn check_extra_channels(&self, region: &Region) -> Result<(), ProfileError> {
        if self.extra_channels.len() > EXTRA_CHANNELS_MAX {
            return Err(ProfileError::TooManyExtraChannels { got: self.extra_channels.len() });
        }
        let mut left = self.extra_channels.as_slice();
        while let Some((&freq, others)) = left.split_first() {
            check_frequency(region, "extra channel", freq)?;
            let is_default = region.default_channels().iter().any(|channel| channel.freq == freq);
            if is_default || others.contains(&freq) {
                return Err(ProfileError::DuplicateChannel { freq, region: self.region });
            }
            left = others;
        }
        Ok(())
    }

    /// The tables of the profile's region.
    pub fn region(&self) -> &'static Region {
        region(self.region)
    }

    /// Data rate of RX2: the profile's or the region's.
    pub fn rx2_dr(&self) -> DataRate {
        self.rx2_dr.unwrap_or_else(|| self.region().rx2_default().1)
    }

    /// Frequency of RX2: the profile's or the region's.
    pub fn rx2_freq(&self) -> Hz {
        self.rx2_freq.unwrap_or_else(|| self.region().rx2_default().0)
    }

    /// How an uplink was sent, in the terms of the region. `extra` are the channels the session has beside the default ones.
    ///
    /// Refused when frequency or modulation are not the region's, and from 1.0.4 on when the frame is longer than its data
    /// rate carries (TS001-1.0.4 §4.3); the dwell limit is not held against a device that may not know it.
    pub fn sent_with(
        &self,
        freq: Hz,
        modulation: Modulation,
        extra: &[Channel],
        phy_len: usize,
    ) -> Result<SentWith, DropReason> {
        let region = self.region();
        let dr = region
            .data_rate_up(modulation, self.revision)
            .filter(|_| region.accepts_frequency(freq))
            .ok_or(DropReason::WrongRegion)?;
        let max_m = region.max_payload_m(Direction::Up, dr, self.revision, false);
        let too_long = max_m.is_some_and(|m| phy_len > usize::from(m) + MHDR_AND_MIC_LEN);
        if too_long && self.mac_version >= MacVersion::V1_0_4 {
            return Err(DropReason::PayloadTooLong);
        }
        Ok(SentWith { dr, channel: region.uplink_channel(freq, dr, extra) })
    }

    /// What a Join-Accept tells a device of this profile. OptNeg is the join server's to set.
    ///
    /// Where a device boots with the downlink dwell limit of 400 ms the accept has no list: with one it lasts longer at the
    /// data rate of RX2 (AS923 up to RP001-1.0.3A). The device is told its channels once it has joined.
    pub fn join_settings(&self) -> JoinSettings {
        let region = self.region();
        let (_, downlink_dwell) = region.dwell_defaults(self.revision);
        let extra = extra_channels(region, &self.extra_slots());
        JoinSettings {
            rx1_dr_offset: self.rx1_dr_offset,
            rx2_dr: self.rx2_dr(),
            rx_delay_s: self.rx_delay_s,
            cf_list: region.cf_list(&extra, self.channel_target(), self.revision).filter(|_| !downlink_dwell),
        }
    }

    /// The extra channels in their places; zero where there is none.
    pub(crate) fn extra_slots(&self) -> ExtraSlots {
        let mut slots = ExtraSlots::default();
        for (slot, freq) in slots.iter_mut().zip(&self.extra_channels) {
            *slot = *freq;
        }
        slots
    }

    /// The channels of a fixed plan that shall be on; the default ones of a dynamic plan.
    pub(crate) fn channel_target(&self) -> ChannelMask {
        self.region().sub_band_mask(self.sub_bands)
    }

    /// The dwell limits that shall hold: uplink, downlink.
    pub(crate) fn dwell(&self) -> (bool, bool) {
        let (uplink, downlink) = self.region().dwell_defaults(self.revision);
        (self.uplink_dwell.unwrap_or(uplink), self.downlink_dwell.unwrap_or(downlink))
    }

    /// A mark that changes when anything a device may be asked for changes; what a device refused is forgotten then.
    pub(crate) fn tag(&self) -> u16 {
        let mut hash = Fnv::new();
        hash.write(&self.region.number().to_le_bytes());
        hash.write(&self.mac_version.number().to_le_bytes());
        hash.write(&self.revision.number().to_le_bytes());
        hash.write(&[
            self.rx_delay_s,
            self.rx1_dr_offset,
            self.rx2_dr().value(),
            self.sub_bands,
            u8::from(self.adr),
        ]);
        hash.write(&self.rx2_freq().value().to_le_bytes());
        let (uplink, downlink) = self.dwell();
        hash.write(&[u8::from(uplink), u8::from(downlink), self.max_eirp_dbm.map_or(u8::MAX, |eirp| eirp)]);
        for freq in self.extra_slots() {
            hash.write(&freq.value().to_le_bytes());
        }
        let [a, b, c, d, ..] = hash.finish().to_le_bytes();
        u16::from_le_bytes([a ^ c, b ^ d])
    }
}

/// Frequencies of the channels behind the default ones of a dynamic plan; zero where there is none.
pub(crate) type ExtraSlots = [Hz; EXTRA_CHANNELS_MAX];

/// The extra channels of a dynamic plan, with the numbers the device gives them.
pub(crate) fn extra_channels(region: &Region, slots: &ExtraSlots) -> Vec<Channel> {
    let Some(like) = region.default_channels().first() else {
        return Vec::new();
    };
    (region.first_extra_index()..)
        .zip(slots)
        .filter(|(_, freq)| freq.value() != 0)
        .map(|(index, &freq)| Channel { index, freq, dr_min: DataRate::new(0), dr_max: like.dr_max })
        .collect()
}

/// A small hash that is the same in every process (FNV-1a, 64 bits). Not for data an attacker chooses freely.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) const fn finish(self) -> u64 {
        self.0
    }
}

fn check_frequency(region: &Region, what: &'static str, freq: Hz) -> Result<(), ProfileError> {
    if !region.accepts_frequency(freq) {
        return Err(ProfileError::Frequency { what, freq, region: region.id() });
    }
    // An answer goes out on the channel of its uplink, and no gateway may send there.
    if region.downlink_limits(freq).is_none() {
        return Err(ProfileError::ForbiddenFrequency { what, freq, region: region.id() });
    }
    let step_hz = region.freq_unit_hz();
    if !freq.value().is_multiple_of(step_hz) {
        return Err(ProfileError::FrequencyStep { what, freq, step_hz });
    }
    Ok(())
}

/// Channels a profile may add to a dynamic plan: as many as a CFList holds.
pub const EXTRA_CHANNELS_MAX: usize = 5;
/// Farm backhaul is slow; devices that join are told this receive delay unless the profile says otherwise.
pub const RX_DELAY_S_DEFAULT: u8 = 5;
const DL_SETTINGS_OFFSET_MAX: u8 = 7;
const MHDR_AND_MIC_LEN: usize = 5;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_profile_that_asks_for_what_the_region_lacks_is_refused() {
        let eu = Profile::default();
        assert_eq!(eu.check(), Ok(()));
        assert!(Profile { rx_delay_s: 0, ..eu.clone() }.check().is_err());
        assert!(Profile { rx_delay_s: 16, ..eu.clone() }.check().is_err());
        assert!(Profile { rx1_dr_offset: 6, ..eu.clone() }.check().is_err());
        assert!(Profile { rx2_dr: Some(DataRate::new(15)), ..eu.clone() }.check().is_err());
        assert!(Profile { rx2_freq: Some(Hz::new(915_000_000)), ..eu.clone() }.check().is_err());
        assert!(
            Profile { rx2_freq: Some(Hz::new(869_300_000)), ..eu.clone() }.check().is_err(),
            "the band of alarm systems"
        );
        assert!(Profile { sub_bands: 2, ..eu.clone() }.check().is_err());
        let with = |extra: &[u32]| Profile {
            extra_channels: extra.iter().copied().map(Hz::new).collect(),
            ..Profile::default()
        };
        assert_eq!(with(&[867_100_000, 867_300_000]).check(), Ok(()));
        assert!(with(&[868_100_000]).check().is_err(), "a default channel is read-only");
        assert!(with(&[867_100_000, 867_100_000]).check().is_err());
        assert!(with(&[867_100_050]).check().is_err());
        assert!(
            with(&[867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000, 866_900_000])
                .check()
                .is_err()
        );
        let us = Profile { region: RegionId::Us915, ..Profile::default() };
        assert_eq!(Profile { sub_bands: 2, ..us.clone() }.check(), Ok(()));
        assert!(Profile { extra_channels: vec![Hz::new(902_500_000)], ..us }.check().is_err());
    }

    /// PARSE-020, REGION-024.
    #[test]
    fn a_frame_of_another_region_or_too_long_for_its_rate_is_refused() {
        let sf12 = Modulation::Lora { sf: 12, bw_hz: 125_000 };
        let us_500 = Modulation::Lora { sf: 8, bw_hz: 500_000 };
        let new = Profile { mac_version: MacVersion::V1_0_4, ..Profile::default() };
        let sent = |profile: &Profile, freq_hz, modulation, phy_len| {
            profile.sent_with(Hz::new(freq_hz), modulation, &[], phy_len)
        };
        let first = SentWith { dr: DataRate::new(0), channel: Some(0) };
        assert_eq!(sent(&new, 868_100_000, sf12, 64), Ok(first));
        assert_eq!(sent(&new, 868_100_000, sf12, 65), Err(DropReason::PayloadTooLong));
        assert_eq!(sent(&Profile::default(), 868_100_000, sf12, 65), Ok(first));
        assert_eq!(sent(&new, 903_900_000, sf12, 20), Err(DropReason::WrongRegion));
        assert_eq!(sent(&new, 868_100_000, us_500, 20), Err(DropReason::WrongRegion));
        assert_eq!(sent(&new, 867_100_000, sf12, 20).map(|sent| sent.channel), Ok(None));
    }

    #[test]
    fn the_tag_follows_what_a_device_may_be_asked_for_and_nothing_else() {
        let one = Profile::default();
        let status = Profile { device_status_interval_s: 60, ..one.clone() };
        let delay = Profile { rx_delay_s: 1, ..one.clone() };
        let spelled_out = Profile { rx2_dr: Some(DataRate::new(0)), ..one.clone() };
        assert_eq!(one.tag(), status.tag());
        assert_eq!(one.tag(), spelled_out.tag());
        assert_ne!(one.tag(), delay.tag());
    }
}
