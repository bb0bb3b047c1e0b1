//! Device profiles.

use std::sync::Arc;

use async_trait::async_trait;
use mac::region::{DataRate, RegionId, region};
use mac::session::ProfileError;
use mac::units::Hz;
use mac::version::RegionalRevision;
use proto::v1;
use proto::v1::profile_service_server::ProfileService;
use store::{Removal, Written};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::codec::require_codec;
use super::provision::Provisioner;
use super::{Audit, cut_page, exists, in_use, to_its_end, unknown};
use crate::error::BridgeError;
use crate::registry::Registry;
use crate::validate::{self, invalid};

const PROFILE: &str = "profile";
const DEFAULT_RX_DELAY_S: u32 = 5;

#[derive(Clone)]
pub(crate) struct ProfileApi {
    pub(crate) provisioner: Arc<Provisioner>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) tasks: TaskTracker,
}

#[async_trait]
impl ProfileService for ProfileApi {
    async fn create_profile(
        &self,
        request: Request<v1::CreateProfileRequest>,
    ) -> Result<Response<v1::CreateProfileResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.create(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
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
            self.provisioner.tables.profiles(after, size.saturating_add(1)).await.map_err(BridgeError::from)?;
        let more = cut_page(&mut profiles, size);
        let next_page_token =
            profiles.last().filter(|_| more).map(|profile| profile.id.clone()).unwrap_or_default();
        Ok(Response::new(v1::ListProfilesResponse { profiles, next_page_token }))
    }

    async fn update_profile(
        &self,
        request: Request<v1::UpdateProfileRequest>,
    ) -> Result<Response<v1::UpdateProfileResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.update(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }

    async fn delete_profile(
        &self,
        request: Request<v1::DeleteProfileRequest>,
    ) -> Result<Response<v1::DeleteProfileResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.delete(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }
}

impl ProfileApi {
    async fn create(
        &self,
        request: v1::CreateProfileRequest,
        audit: &Audit,
    ) -> Result<v1::CreateProfileResponse, Status> {
        let profile = checked(validate::required("profile", request.profile)?)?;
        require_codec(&self.registry, "profile.codec_id", &profile.codec_id).await?;
        let tables = &self.provisioner.tables;
        match tables.insert_profile(&profile).await.map_err(BridgeError::from)? {
            Written::Done => {}
            Written::Exists(id) | Written::Missing(id) => return Err(exists(PROFILE, &id)),
        }
        if let Err(error) = self.provisioner.tell_profile(&profile.id).await {
            tables.delete_profile(&profile.id).await.map_err(BridgeError::from)?;
            return Err(error.into());
        }
        self.registry.parts_changed();
        audit.write(tables, "profile.create", &profile.id, &profile.name).await?;
        Ok(v1::CreateProfileResponse { profile: Some(profile) })
    }

    async fn update(
        &self,
        request: v1::UpdateProfileRequest,
        audit: &Audit,
    ) -> Result<v1::UpdateProfileResponse, Status> {
        let profile = checked(validate::required("profile", request.profile)?)?;
        require_codec(&self.registry, "profile.codec_id", &profile.codec_id).await?;
        let tables = &self.provisioner.tables;
        if !tables.update_profile(&profile).await.map_err(BridgeError::from)? {
            return Err(unknown(PROFILE, &profile.id));
        }
        self.registry.parts_changed();
        if let Err(error) = self.provisioner.tell_profile(&profile.id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, profile = %profile.id, "the network server is told of the profile as soon as it answers");
        }
        // Its devices may have to be told as well.
        self.provisioner.finish_soon();
        audit.write(tables, "profile.update", &profile.id, &profile.name).await?;
        Ok(v1::UpdateProfileResponse { profile: Some(profile) })
    }

    async fn delete(
        &self,
        request: v1::DeleteProfileRequest,
        audit: &Audit,
    ) -> Result<v1::DeleteProfileResponse, Status> {
        let id = request.id;
        validate::slug("id", &id)?;
        let tables = &self.provisioner.tables;
        let _turn = self.provisioner.profiles_turn().await;
        match tables.delete_profile(&id).await.map_err(BridgeError::from)? {
            Removal::InUse(devices) => return Err(in_use(PROFILE, &id, devices)),
            Removal::NotFound => return Err(unknown(PROFILE, &id)),
            Removal::Removed => {}
        }
        self.registry.parts_changed();
        self.provisioner.network.delete_profile(&id).await?;
        audit.write(tables, "profile.delete", &id, "").await?;
        Ok(v1::DeleteProfileResponse {})
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
    if profile.sub_bands.len() > 8 {
        let problem = format!("{} are given; there are 8", profile.sub_bands.len());
        return Err(invalid("profile.sub_bands", problem));
    }
    if let Some(bad) = profile.sub_bands.iter().find(|&&band| !(1..=8).contains(&band)) {
        return Err(invalid("profile.sub_bands", format!("{bad} is no sub-band; they are 1 to 8")));
    }
    if let Some(eirp) = profile.max_eirp_dbm {
        at_most("profile.max_eirp_dbm", eirp, 36)?;
    }
    // The rules of the region are those the network server holds it against.
    let rules = mac::session::Profile {
        region: region_id,
        revision,
        rx_delay_s: small("profile.rx_delay_s", profile.rx_delay_s)?,
        rx1_dr_offset: small("profile.rx1_dr_offset", profile.rx1_dr_offset)?,
        rx2_dr: match profile.rx2_data_rate {
            Some(data_rate) => Some(DataRate::new(small("profile.rx2_data_rate", data_rate)?)),
            None => None,
        },
        rx2_freq: profile.rx2_frequency_hz.map(Hz::new),
        sub_bands: u8::from(!profile.sub_bands.is_empty()),
        extra_channels: profile.extra_channels_hz.iter().copied().map(Hz::new).collect(),
        ..mac::session::Profile::default()
    };
    rules.check().map_err(|error| invalid(field_of(&error), error))?;
    Ok(profile)
}

/// The field a profile breaks a rule of its region with.
#[allow(clippy::wildcard_enum_match_arm, reason = "every other rule is about the extra channels")]
fn field_of(error: &ProfileError) -> &'static str {
    match error {
        ProfileError::Frequency { what: "rx2_frequency", .. }
        | ProfileError::FrequencyStep { what: "rx2_frequency", .. }
        | ProfileError::ForbiddenFrequency { what: "rx2_frequency", .. } => "profile.rx2_frequency_hz",
        ProfileError::Rx1DrOffset { .. } => "profile.rx1_dr_offset",
        ProfileError::Rx2DataRate { .. } => "profile.rx2_data_rate",
        ProfileError::RxDelay { .. } => "profile.rx_delay_s",
        ProfileError::SubBandsOfDynamicPlan { .. } => "profile.sub_bands",
        _ => "profile.extra_channels_hz",
    }
}

fn small(field: &str, value: u32) -> Result<u8, Status> {
    u8::try_from(value).map_err(|_| invalid(field, format!("{value} is above {}", u8::MAX)))
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
        let cases: [(&str, v1::Profile); 12] = [
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
            (
                "profile.extra_channels_hz",
                v1::Profile { extra_channels_hz: vec![868_100_000], ..profile(v1::Region::Eu868) },
            ),
            (
                "profile.extra_channels_hz",
                v1::Profile { extra_channels_hz: vec![867_100_000; 2], ..profile(v1::Region::Eu868) },
            ),
            (
                "profile.extra_channels_hz",
                v1::Profile { extra_channels_hz: vec![867_100_050], ..profile(v1::Region::Eu868) },
            ),
            (
                "profile.rx2_frequency_hz",
                v1::Profile { rx2_frequency_hz: Some(869_525_050), ..profile(v1::Region::Eu868) },
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
