//! `loam profile`

use clap::{Args, Subcommand};
use proto::v1::{self, MacVersion, Region, RegionalRevision};
use serde_json::{Value, json};

use super::{PAGE_SIZE, all_pages};
use crate::client::{Client, Context};
use crate::exit::Failure;
use crate::output::text_or_null;
use crate::words::{self, MAC_VERSIONS, REGIONS, REVISIONS, parse_mac_version, parse_region, parse_revision};

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Create a profile
    Create {
        /// 1 to 64 of a-z, 0-9 and "-"; starts with a letter
        id: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the profiles
    List,
    /// Show one profile
    Show { id: String },
    /// Change what is named and keep the rest; devices follow with their next uplink
    Update {
        id: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a profile that no device uses
    Delete { id: String },
}

/// What a profile says. `update` changes only what is named.
#[derive(Args, Debug, Default)]
pub(crate) struct Settings {
    /// What people read [default: the id]
    #[arg(long)]
    name: Option<String>,
    /// EU868, US915, AU915, AS923-1 or IN865
    #[arg(long, value_parser = parse_region)]
    region: Option<Region>,
    /// LoRaWAN version of the device: 1.0.0 to 1.0.4 or 1.1.0 [default: 1.0.3]
    #[arg(long, value_parser = parse_mac_version, value_name = "VERSION")]
    mac_version: Option<MacVersion>,
    /// Regional parameters of the device, such as RP002-1.0.4 [default: RP001-1.0.3-A]
    #[arg(long, value_parser = parse_revision, value_name = "REVISION")]
    regional_revision: Option<RegionalRevision>,
    /// Seconds from an uplink to its first receive window [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=15), value_name = "SECONDS")]
    rx_delay_s: Option<u32>,
    /// RX1 data rate offset [default: the region's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=7), value_name = "N")]
    rx1_dr_offset: Option<u32>,
    /// Data rate of the second receive window, or `default`
    #[arg(long, value_parser = number_or_default, value_name = "DR")]
    rx2_data_rate: Option<OrDefault>,
    /// Frequency of the second receive window, or `default`
    #[arg(long, value_parser = number_or_default, value_name = "HZ")]
    rx2_frequency_hz: Option<OrDefault>,
    /// Whether the network steers data rate, power and repetitions [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    adr: Option<bool>,
    /// Seconds between questions for battery and margin; 0 never asks [default: 0]
    #[arg(long, value_name = "SECONDS")]
    device_status_interval_s: Option<u32>,
    /// Sub-bands 1 to 8 the gateways hear, for US915 and AU915; `all` for all of them
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = sub_band)]
    sub_bands: Option<Vec<SubBand>>,
    /// Uplink channels beside the region's own, up to 5, for EU868, AS923-1 and IN865; `none` takes them away
    #[arg(long, value_delimiter = ',', value_name = "HZ,…", value_parser = extra_channel)]
    extra_channels_hz: Option<Vec<ExtraChannel>>,
    /// Uplink dwell time limit of 400 ms: true, false, or `default` (the region's at boot)
    #[arg(long, value_parser = bool_or_default, value_name = "BOOL")]
    uplink_dwell_time: Option<BoolOrDefault>,
    /// Downlink dwell time limit of 400 ms: true, false, or `default`
    #[arg(long, value_parser = bool_or_default, value_name = "BOOL")]
    downlink_dwell_time: Option<BoolOrDefault>,
    /// Maximum EIRP told to the device, or `default` (the region's)
    #[arg(long, value_parser = number_or_default, value_name = "DBM")]
    max_eirp_dbm: Option<OrDefault>,
    /// How payloads are decoded: a codec's id, cayenne-lpp or none [default: none]
    #[arg(long, value_name = "CODEC")]
    codec: Option<String>,
}

/// `None` is the word `default`.
#[derive(Clone, Copy, Debug)]
struct OrDefault(Option<u32>);

#[derive(Clone, Copy, Debug)]
struct BoolOrDefault(Option<bool>);

/// `None` is the word `all`.
#[derive(Clone, Copy, Debug)]
struct SubBand(Option<u32>);

/// `None` is the word `none`.
#[derive(Clone, Copy, Debug)]
struct ExtraChannel(Option<u32>);

fn number_or_default(text: &str) -> Result<OrDefault, String> {
    match text {
        "default" => Ok(OrDefault(None)),
        number => number
            .parse()
            .map(|number| OrDefault(Some(number)))
            .map_err(|_| "write a whole number, or `default`".to_owned()),
    }
}

fn bool_or_default(text: &str) -> Result<BoolOrDefault, String> {
    match text {
        "default" => Ok(BoolOrDefault(None)),
        "true" => Ok(BoolOrDefault(Some(true))),
        "false" => Ok(BoolOrDefault(Some(false))),
        _ => Err("write true, false or `default`".to_owned()),
    }
}

fn sub_band(text: &str) -> Result<SubBand, String> {
    match text.parse() {
        Ok(number @ 1..=8) => Ok(SubBand(Some(number))),
        _ if text == "all" => Ok(SubBand(None)),
        _ => Err("sub-bands are 1 to 8; write them like 2 or 1,2, or `all`".to_owned()),
    }
}

fn extra_channel(text: &str) -> Result<ExtraChannel, String> {
    match text.parse() {
        Ok(freq_hz @ 100_000_000..=2_500_000_000) => Ok(ExtraChannel(Some(freq_hz))),
        _ if text == "none" => Ok(ExtraChannel(None)),
        _ => Err("channels are frequencies in Hz like 867100000, or `none`".to_owned()),
    }
}

impl Settings {
    fn apply(self, profile: &mut v1::Profile) {
        if let Some(name) = self.name {
            profile.name = name;
        }
        if let Some(region) = self.region {
            profile.region = region.into();
        }
        if let Some(version) = self.mac_version {
            profile.mac_version = version.into();
        }
        if let Some(revision) = self.regional_revision {
            profile.regional_revision = revision.into();
        }
        if let Some(delay_s) = self.rx_delay_s {
            profile.rx_delay_s = delay_s;
        }
        if let Some(offset) = self.rx1_dr_offset {
            profile.rx1_dr_offset = offset;
        }
        if let Some(OrDefault(data_rate)) = self.rx2_data_rate {
            profile.rx2_data_rate = data_rate;
        }
        if let Some(OrDefault(freq_hz)) = self.rx2_frequency_hz {
            profile.rx2_frequency_hz = freq_hz;
        }
        if let Some(adr) = self.adr {
            profile.adr_disabled = !adr;
        }
        if let Some(interval_s) = self.device_status_interval_s {
            profile.device_status_interval_s = interval_s;
        }
        if let Some(sub_bands) = self.sub_bands {
            profile.sub_bands = sub_bands.iter().filter_map(|band| band.0).collect();
        }
        if let Some(channels) = self.extra_channels_hz {
            profile.extra_channels_hz = channels.iter().filter_map(|channel| channel.0).collect();
        }
        if let Some(BoolOrDefault(limit)) = self.uplink_dwell_time {
            profile.uplink_dwell_time = limit;
        }
        if let Some(BoolOrDefault(limit)) = self.downlink_dwell_time {
            profile.downlink_dwell_time = limit;
        }
        if let Some(OrDefault(eirp_dbm)) = self.max_eirp_dbm {
            profile.max_eirp_dbm = eirp_dbm;
        }
        if let Some(codec) = self.codec {
            profile.codec_id = codec;
        }
    }
}

pub(crate) async fn run(context: &Context, command: ProfileCommand) -> Result<(), Failure> {
    let client = context.connect().await?;
    let output = context.output;
    match command {
        ProfileCommand::Create { id, settings } => {
            if settings.region.is_none() {
                return Err(Failure::usage("a profile needs --region: EU868, US915, AU915, AS923-1 or IN865"));
            }
            let mut profile = v1::Profile { name: id.clone(), id, ..v1::Profile::default() };
            settings.apply(&mut profile);
            let request = v1::CreateProfileRequest { profile: Some(profile) };
            let answer = client.ask(client.profiles().create_profile(request)).await?;
            let profile = answer.profile.unwrap_or_default();
            output.done(&format!("profile {} created", profile.id), &as_json(&profile))
        }
        ProfileCommand::Update { id, settings } => {
            let mut profile = get(&client, id).await?;
            settings.apply(&mut profile);
            let request = v1::UpdateProfileRequest { profile: Some(profile) };
            let answer = client.ask(client.profiles().update_profile(request)).await?;
            let profile = answer.profile.unwrap_or_default();
            output.done(&format!("profile {} updated", profile.id), &as_json(&profile))
        }
        ProfileCommand::List => {
            let profiles = list(&client).await?;
            let rows = profiles
                .iter()
                .map(|p| {
                    vec![
                        p.id.clone(),
                        p.name.clone(),
                        words::word(REGIONS, p.region),
                        mac_version(p),
                        revision(p),
                        codec_word(p),
                    ]
                })
                .collect();
            output.list(
                &["id", "name", "region", "lorawan", "revision", "codec"],
                rows,
                profiles.iter().map(as_json).collect(),
                "there are no profiles; create one with `loam profile create ID --region EU868`",
            )
        }
        ProfileCommand::Show { id } => {
            let profile = get(&client, id).await?;
            output.record(&fields(&profile), &as_json(&profile))
        }
        ProfileCommand::Delete { id } => {
            let request = v1::DeleteProfileRequest { id: id.clone() };
            client.ask(client.profiles().delete_profile(request)).await?;
            output.done(&format!("profile {id} deleted"), &json!({ "deleted": id }))
        }
    }
}

async fn get(client: &Client, id: String) -> Result<v1::Profile, Failure> {
    let answer = client.ask(client.profiles().get_profile(v1::GetProfileRequest { id })).await?;
    Ok(answer.profile.unwrap_or_default())
}

/// All profiles.
pub(super) async fn list(client: &Client) -> Result<Vec<v1::Profile>, Failure> {
    let mut profiles = client.profiles();
    Ok(all_pages!(client, profiles, |token| profiles
        .list_profiles(v1::ListProfilesRequest { page_size: PAGE_SIZE, page_token: token.clone() })))
}

fn fields<'a>(profile: &v1::Profile) -> Vec<(&'a str, String)> {
    let regional = |value: Option<String>| value.unwrap_or_else(|| "the region's".to_owned());
    let limit = |value: Option<bool>| {
        regional(value.map(|limited| (if limited { "400 ms" } else { "no limit" }).to_owned()))
    };
    vec![
        ("id", profile.id.clone()),
        ("name", profile.name.clone()),
        ("region", words::word(REGIONS, profile.region)),
        ("LoRaWAN version", mac_version(profile)),
        ("regional revision", revision(profile)),
        ("RX1 delay", format!("{} s", rx_delay_s(profile))),
        ("RX1 data rate offset", profile.rx1_dr_offset.to_string()),
        ("RX2 data rate", regional(profile.rx2_data_rate.map(|dr| dr.to_string()))),
        ("RX2 frequency", regional(profile.rx2_frequency_hz.map(|hz| format!("{hz} Hz")))),
        ("ADR", (if profile.adr_disabled { "off" } else { "on" }).to_owned()),
        (
            "device status",
            match profile.device_status_interval_s {
                0 => "never asked for".to_owned(),
                seconds => format!("every {seconds} s"),
            },
        ),
        ("sub-bands", joined(&profile.sub_bands)),
        ("extra channels", joined(&profile.extra_channels_hz)),
        ("uplink dwell time", limit(profile.uplink_dwell_time)),
        ("downlink dwell time", limit(profile.downlink_dwell_time)),
        ("max EIRP", regional(profile.max_eirp_dbm.map(|dbm| format!("{dbm} dBm")))),
        ("codec", codec_word(profile)),
    ]
}

fn as_json(profile: &v1::Profile) -> Value {
    json!({
        "id": profile.id,
        "name": profile.name,
        "region": words::word(REGIONS, profile.region),
        "mac_version": mac_version(profile),
        "regional_revision": revision(profile),
        "rx_delay_s": rx_delay_s(profile),
        "rx1_dr_offset": profile.rx1_dr_offset,
        "rx2_data_rate": profile.rx2_data_rate,
        "rx2_frequency_hz": profile.rx2_frequency_hz,
        "adr": !profile.adr_disabled,
        "device_status_interval_s": profile.device_status_interval_s,
        "sub_bands": profile.sub_bands,
        "extra_channels_hz": profile.extra_channels_hz,
        "uplink_dwell_time": profile.uplink_dwell_time,
        "downlink_dwell_time": profile.downlink_dwell_time,
        "max_eirp_dbm": profile.max_eirp_dbm,
        "codec_id": text_or_null(&profile.codec_id),
    })
}

// What the API leaves unspecified has a meaning (profile.proto); people read the meaning.

fn mac_version(profile: &v1::Profile) -> String {
    match profile.mac_version {
        0 => "1.0.3".to_owned(),
        number => words::word(MAC_VERSIONS, number),
    }
}

fn revision(profile: &v1::Profile) -> String {
    match profile.regional_revision {
        0 => "RP001-1.0.3-A".to_owned(),
        number => words::word(REVISIONS, number),
    }
}

fn rx_delay_s(profile: &v1::Profile) -> u32 {
    if profile.rx_delay_s == 0 { 5 } else { profile.rx_delay_s }
}

fn codec_word(profile: &v1::Profile) -> String {
    if profile.codec_id.is_empty() { "none".to_owned() } else { profile.codec_id.clone() }
}

fn joined(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
