//! Device profiles.

use std::sync::Arc;

use async_trait::async_trait;
use mac::region::{DataRate, Region, RegionId, region};
use mac::units::Hz;
use mac::version::RegionalRevision;
use proto::v1;
use proto::v1::profile_service_server::ProfileService;
use store::{Removal, Written};
use tonic::{Request, Response, Status};

use super::codec::require_codec;
use super::provision::Provisioner;
use super::{Audit, cut_page, exists, in_use, unknown};
use crate::error::BridgeError;
use crate::registry::Registry;
use crate::validate::{self, invalid};

const PROFILE: &str = "profile";
const DEFAULT_RX_DELAY_S: u32 = 5;

pub(crate) struct ProfileApi {
    pub(crate) provisioner: Arc<Provisioner>,
    pub(crate) registry: Arc<Registry>,
}

#[async_trait]
impl ProfileService for ProfileApi {
    async fn create_profile(
        &self,
        request: Request<v1::CreateProfileRequest>,
    ) -> Result<Response<v1::CreateProfileResponse>, Status> {
        let audit = Audit::of(&request);
        let profile = checked(validate::required("profile", request.into_inner().profile)?)?;
        require_codec(&self.registry, "profile.codec_id", &profile.codec_id).await?;
        let tables = &self.provisioner.tables;
        match tables.insert_profile(&profile).await.map_err(BridgeError::from)? {
            Written::Done => {}
            Written::Exists(id) | Written::Missing(id) => return Err(exists(PROFILE, &id)),
        }
        if let Err(error) = self.provisioner.network.put_profile(profile.clone()).await {
            tables.delete_profile(&profile.id).await.map_err(BridgeError::from)?;
            return Err(error.into());
        }
        self.registry.parts_changed();
        audit.write(tables, "profile.create", &profile.id, &profile.name).await?;
        Ok(Response::new(v1::CreateProfileResponse { profile: Some(profile) }))
    }

    async fn get_profile(
        &self,
        request: Request<v1::GetProfileRequest>,
    ) -> Result<Response<v1::GetProfileResponse>, Status> {
        let id = request.into_inner().id;
        validate::slug("id", &id)?;
        let profile = self.provisioner.tables.profile(&id).await.map_err(BridgeError::from)?;
        let profile = profile.ok_or_else(|| unknown(PROFILE, &id))?;
        Ok(Response::new(v1::GetProfileResponse { profile: Some(profile) }))
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        let request = request.into_inner();
        let size = validate::page_size(request.page_size)?;
        let after = validate::page_token_id(&request.page_token)?;
        let mut profiles =
            self.provisioner.tables.profiles(after, size + 1).await.map_err(BridgeError::from)?;
        let more = cut_page(&mut profiles, size);
        let next_page_token =
            profiles.last().filter(|_| more).map(|profile| profile.id.clone()).unwrap_or_default();
        Ok(Response::new(v1::ListProfilesResponse { profiles, next_page_token }))
    }

    async fn update_profile(
        &self,
        request: Request<v1::UpdateProfileRequest>,
    ) -> Result<Response<v1::UpdateProfileResponse>, Status> {
        let audit = Audit::of(&request);
        let profile = checked(validate::required("profile", request.into_inner().profile)?)?;
        require_codec(&self.registry, "profile.codec_id", &profile.codec_id).await?;
        let tables = &self.provisioner.tables;
        if !tables.update_profile(&profile).await.map_err(BridgeError::from)? {
            return Err(unknown(PROFILE, &profile.id));
        }
        self.registry.parts_changed();
        if let Err(error) = self.provisioner.network.put_profile(profile.clone()).await {
            tracing::warn!(%error, profile = %profile.id, "the network server is told of the profile as soon as it answers");
            self.provisioner.finish_soon();
        }
        audit.write(tables, "profile.update", &profile.id, &profile.name).await?;
        Ok(Response::new(v1::UpdateProfileResponse { profile: Some(profile) }))
    }

    async fn delete_profile(
        &self,
        request: Request<v1::DeleteProfileRequest>,
    ) -> Result<Response<v1::DeleteProfileResponse>, Status> {
        let audit = Audit::of(&request);
        let id = request.into_inner().id;
        validate::slug("id", &id)?;
        let tables = &self.provisioner.tables;
        match tables.delete_profile(&id).await.map_err(BridgeError::from)? {
            Removal::InUse(devices) => return Err(in_use(PROFILE, &id, devices)),
            Removal::NotFound => return Err(unknown(PROFILE, &id)),
            Removal::Removed => {}
        }
        self.registry.parts_changed();
        self.provisioner.network.delete_profile(&id).await?;
        audit.write(tables, "profile.delete", &id, "").await?;
        Ok(Response::new(v1::DeleteProfileResponse {}))
    }
}

/// The longest FRMPayload that can ever be sent to a device of a profile, bytes: the N of the region's fastest downlink.
pub(crate) fn downlink_len_max(profile: &v1::Profile) -> usize {
    let (Some(id), Some(revision)) =
        (RegionId::from_number(profile.region), RegionalRevision::from_number(profile.regional_revision))
    else {
        return FRM_PAYLOAD_LEN_MAX;
    };
    let region = region(id);
    let dwell = profile.downlink_dwell_time.unwrap_or(false);
    let m = (0..=15).filter_map(|dr| {
        region.max_payload_m(mac::crypto::Direction::Down, DataRate::new(dr), revision, dwell)
    });
    m.max().map_or(FRM_PAYLOAD_LEN_MAX, |m| usize::from(m.saturating_sub(8)).min(FRM_PAYLOAD_LEN_MAX))
}

/// Larger than any region allows.
const FRM_PAYLOAD_LEN_MAX: usize = 242;

/// Checks a profile against its region and fills in the defaults.
fn checked(mut profile: v1::Profile) -> Result<v1::Profile, Status> {
    validate::slug("profile.id", &profile.id)?;
    validate::display_name("profile.name", &profile.name)?;
    let region_id = RegionId::from_number(profile.region).ok_or_else(|| {
        invalid(
            "profile.region",
            "is missing or not known here; regions are EU868, US915, AU915, AS923-1 and IN865",
        )
    })?;
    let region = region(region_id);
    if profile.mac_version == v1::MacVersion::Unspecified as i32 {
        profile.mac_version = v1::MacVersion::MacVersion103 as i32;
    }
    if mac::version::MacVersion::from_number(profile.mac_version).is_none() {
        return Err(invalid(
            "profile.mac_version",
            format!("{} is no version known here", profile.mac_version),
        ));
    }
    if profile.regional_revision == v1::RegionalRevision::Unspecified as i32 {
        profile.regional_revision = v1::RegionalRevision::Rp001103RevA as i32;
    }
    let revision = RegionalRevision::from_number(profile.regional_revision).ok_or_else(|| {
        invalid("profile.regional_revision", format!("{} is no revision known here", profile.regional_revision))
    })?;
    if profile.rx_delay_s == 0 {
        profile.rx_delay_s = DEFAULT_RX_DELAY_S;
    }
    at_most("profile.rx_delay_s", profile.rx_delay_s, 15)?;
    at_most("profile.rx1_dr_offset", profile.rx1_dr_offset, u32::from(region.rx1_dr_offset_max(revision)))?;
    check_rx2(&profile, region, revision)?;
    check_channels(&profile, region)?;
    if let Some(eirp) = profile.max_eirp_dbm {
        at_most("profile.max_eirp_dbm", eirp, 36)?;
    }
    Ok(profile)
}

fn check_rx2(profile: &v1::Profile, region: &Region, revision: RegionalRevision) -> Result<(), Status> {
    if let Some(data_rate) = profile.rx2_data_rate {
        let known =
            u8::try_from(data_rate).ok().and_then(|dr| region.modulation_down(DataRate::new(dr), revision));
        if known.is_none() {
            let problem = format!("{data_rate} is no downlink data rate of {}", region.id());
            return Err(invalid("profile.rx2_data_rate", problem));
        }
    }
    match profile.rx2_frequency_hz {
        Some(freq_hz) if !region.accepts_frequency(Hz::new(freq_hz)) => {
            let problem = format!("{freq_hz} Hz is outside of {}; give it in Hz", region.id());
            Err(invalid("profile.rx2_frequency_hz", problem))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_channels(profile: &v1::Profile, region: &Region) -> Result<(), Status> {
    if !profile.sub_bands.is_empty() && !region.is_fixed_plan() {
        return Err(invalid(
            "profile.sub_bands",
            format!("{} has none; they are for US915 and AU915", region.id()),
        ));
    }
    if let Some(bad) = profile.sub_bands.iter().find(|&&band| !(1..=8).contains(&band)) {
        return Err(invalid("profile.sub_bands", format!("{bad} is no sub-band; they are 1 to 8")));
    }
    if profile.sub_bands.len() > 8 {
        return Err(invalid(
            "profile.sub_bands",
            format!("{} are given; there are 8", profile.sub_bands.len()),
        ));
    }
    if !profile.extra_channels_hz.is_empty() && region.is_fixed_plan() {
        let problem = format!("{} has fixed channels; choose sub_bands instead", region.id());
        return Err(invalid("profile.extra_channels_hz", problem));
    }
    if profile.extra_channels_hz.len() > 5 {
        let problem = format!("{} are given; up to 5 can be sent", profile.extra_channels_hz.len());
        return Err(invalid("profile.extra_channels_hz", problem));
    }
    match profile.extra_channels_hz.iter().find(|&&freq_hz| !region.accepts_frequency(Hz::new(freq_hz))) {
        Some(bad) => Err(invalid(
            "profile.extra_channels_hz",
            format!("{bad} Hz is outside of {}; give it in Hz", region.id()),
        )),
        None => Ok(()),
    }
}

fn at_most(field: &str, value: u32, limit: u32) -> Result<(), Status> {
    if value > limit {
        return Err(invalid(field, format!("{value} is above {limit}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn profile(region: v1::Region) -> v1::Profile {
        v1::Profile { id: "soil".to_owned(), region: region as i32, ..v1::Profile::default() }
    }

    #[test]
    fn a_profile_gets_safe_defaults() {
        let profile = checked(profile(v1::Region::Eu868)).unwrap();
        assert_eq!(profile.mac_version(), v1::MacVersion::MacVersion103);
        assert_eq!(profile.regional_revision(), v1::RegionalRevision::Rp001103RevA);
        assert_eq!(profile.rx_delay_s, 5);
    }

    #[test]
    fn a_profile_that_its_region_cannot_follow_is_refused_with_the_field() {
        let cases: [(&str, v1::Profile); 8] = [
            ("profile.region", profile(v1::Region::Unspecified)),
            ("profile.rx_delay_s", v1::Profile { rx_delay_s: 16, ..profile(v1::Region::Eu868) }),
            ("profile.rx1_dr_offset", v1::Profile { rx1_dr_offset: 9, ..profile(v1::Region::Eu868) }),
            ("profile.rx2_data_rate", v1::Profile { rx2_data_rate: Some(15), ..profile(v1::Region::Eu868) }),
            (
                "profile.rx2_frequency_hz",
                v1::Profile { rx2_frequency_hz: Some(868), ..profile(v1::Region::Eu868) },
            ),
            ("profile.sub_bands", v1::Profile { sub_bands: vec![2], ..profile(v1::Region::Eu868) }),
            ("profile.sub_bands", v1::Profile { sub_bands: vec![9], ..profile(v1::Region::Us915) }),
            (
                "profile.extra_channels_hz",
                v1::Profile { extra_channels_hz: vec![867_100_000], ..profile(v1::Region::Us915) },
            ),
        ];
        for (field, profile) in cases {
            let status = checked(profile).unwrap_err();
            assert!(status.message().starts_with(field), "{field}: {status:?}");
        }
    }

    #[test]
    fn the_longest_downlink_is_that_of_the_regions_fastest_rate() {
        assert_eq!(downlink_len_max(&checked(profile(v1::Region::Eu868)).unwrap()), 242);
        assert_eq!(downlink_len_max(&v1::Profile::default()), 242);
    }
}
