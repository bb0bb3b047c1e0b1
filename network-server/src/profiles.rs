//! The profiles devices share. A profile that changes is there with the next uplink of each device.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mac::region::{DataRate, RegionId};
use mac::session::Profile;
use mac::units::Hz;
use mac::version::{MacVersion, RegionalRevision};
use parking_lot::RwLock;
use proto::v1;

/// One profile; devices hold it, its content is exchanged under them.
#[derive(Debug)]
pub(crate) struct ProfileEntry {
    profile: ArcSwap<Profile>,
}

impl ProfileEntry {
    pub(crate) fn load(&self) -> Arc<Profile> {
        self.profile.load_full()
    }
}

/// All profiles by id.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    entries: RwLock<BTreeMap<String, Arc<ProfileEntry>>>,
}

impl Profiles {
    /// Creates or replaces a profile.
    pub(crate) fn put(&self, id: &str, profile: Profile) {
        let profile = Arc::new(profile);
        let mut entries = self.entries.write();
        match entries.get(id) {
            Some(entry) => entry.profile.store(profile),
            None => {
                let entry = ProfileEntry { profile: ArcSwap::from(profile) };
                entries.insert(id.to_owned(), Arc::new(entry));
            }
        }
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<ProfileEntry>> {
        self.entries.read().get(id).cloned()
    }

    pub(crate) fn remove(&self, id: &str) {
        self.entries.write().remove(id);
    }
}

/// The profile in the words of `mac`, with the defaults of design and regulation.
///
/// # Errors
/// A sentence that names the field, the value and what is allowed.
pub(crate) fn from_message(message: &v1::Profile) -> Result<Profile, String> {
    let region = RegionId::from_number(message.region).ok_or_else(|| {
        format!("region {} is not known; take EU868, US915, AU915, AS923-1 or IN865", message.region)
    })?;
    let mac_version = match message.mac_version {
        0 => MacVersion::V1_0_3,
        number => {
            MacVersion::from_number(number).ok_or_else(|| format!("mac_version {number} is not known"))?
        }
    };
    let revision = match message.regional_revision {
        0 => RegionalRevision::Rp001_1_0_3A,
        number => RegionalRevision::from_number(number)
            .ok_or_else(|| format!("regional_revision {number} is not known"))?,
    };
    let mut sub_bands = 0u8;
    for band in &message.sub_bands {
        match band {
            1..=8 => sub_bands |= 1 << band.saturating_sub(1),
            other => return Err(format!("sub-band {other} does not exist; they are 1 to 8")),
        }
    }
    let profile = Profile {
        region,
        mac_version,
        revision,
        rx_delay_s: match message.rx_delay_s {
            0 => mac::session::RX_DELAY_S_DEFAULT,
            seconds => small(seconds, "rx_delay_s")?,
        },
        rx1_dr_offset: small(message.rx1_dr_offset, "rx1_dr_offset")?,
        rx2_dr: message.rx2_data_rate.map(|dr| small(dr, "rx2_data_rate")).transpose()?.map(DataRate::new),
        rx2_freq: message.rx2_frequency_hz.map(Hz::new),
        adr: !message.adr_disabled,
        device_status_interval_s: message.device_status_interval_s,
        sub_bands,
        extra_channels: message.extra_channels_hz.iter().copied().map(Hz::new).collect(),
        uplink_dwell: message.uplink_dwell_time,
        downlink_dwell: message.downlink_dwell_time,
        max_eirp_dbm: message.max_eirp_dbm.map(|dbm| small(dbm, "max_eirp_dbm")).transpose()?,
    };
    profile.check().map_err(|error| error.to_string())?;
    Ok(profile)
}

fn small(value: u32, name: &str) -> Result<u8, String> {
    u8::try_from(value).map_err(|_| format!("{name} is {value}; it is at most 255"))
}
