//! Tells the server of the farm, through the same API a user has.

use mac::ids::DevEui;
use proto::v1;
use simulator::farm::{FarmDevice, GATEWAYS, Kind, devices};

use crate::client::Client;
use crate::exit::Failure;

/// What the farm's events are read under.
pub(super) const APPLICATION: &str = "farm";

/// The kinds of devices with what people call them.
const KINDS: [(Kind, &str); 4] = [
    (Kind::Soil, "Soil probe"),
    (Kind::Tank, "Tank gauge"),
    (Kind::Weather, "Weather station"),
    (Kind::Valve, "Irrigation valve"),
];

/// Seconds between the questions for battery and margin; only the weather stations are asked.
const STATUS_INTERVAL_S: u32 = 30;

/// Registers gateways, application, codecs, profiles and devices.
pub(super) async fn register(client: &Client) -> Result<(), Failure> {
    for (name, eui) in GATEWAYS {
        let gateway = v1::Gateway {
            gateway_eui: eui_text(eui),
            name: name.to_owned(),
            region: v1::Region::Eu868.into(),
            ..v1::Gateway::default()
        };
        let request = v1::CreateGatewayRequest { gateway: Some(gateway) };
        client.ask(client.gateways().create_gateway(request)).await?;
    }
    let application = v1::CreateApplicationRequest { id: APPLICATION.to_owned(), name: "Demo farm".to_owned() };
    client.ask(client.applications().create_application(application)).await?;
    for (kind, name) in KINDS {
        let id = kind.codec_id().to_owned();
        let codec = v1::SetCodecRequest { id: id.clone(), script: kind.codec_script().to_owned() };
        client.ask(client.codecs().set_codec(codec)).await?;
        let profile = v1::Profile {
            id: id.clone(),
            name: name.to_owned(),
            region: v1::Region::Eu868.into(),
            // Gateways on the same machine are quick enough for the shortest delay.
            rx_delay_s: 1,
            device_status_interval_s: if kind == Kind::Weather { STATUS_INTERVAL_S } else { 0 },
            codec_id: id,
            ..v1::Profile::default()
        };
        client
            .ask(client.profiles().create_profile(v1::CreateProfileRequest { profile: Some(profile) }))
            .await?;
    }
    for device in devices() {
        client.ask(client.devices().create_device(create_request(&device))).await?;
    }
    Ok(())
}

/// How the API writes a DevEUI or gateway EUI.
pub(super) fn eui_text(eui: u64) -> String {
    format!("{eui:016x}")
}

/// What the farmer calls a device; the EUI of one that is not the farm's.
pub(super) fn name_of(dev_eui: DevEui) -> String {
    devices()
        .into_iter()
        .find(|d| d.dev_eui == dev_eui)
        .map_or_else(|| dev_eui.to_string(), |d| d.name.to_owned())
}

fn create_request(device: &FarmDevice) -> v1::CreateDeviceRequest {
    let profile = device.kind.codec_id().to_owned();
    v1::CreateDeviceRequest {
        device: Some(v1::Device {
            dev_eui: eui_text(device.dev_eui.value()),
            join_eui: eui_text(device.join_eui.value()),
            application_id: APPLICATION.to_owned(),
            name: device.name.to_owned(),
            tags: [(KIND_TAG.to_owned(), profile.clone())].into(),
            profile_id: profile,
            ..v1::Device::default()
        }),
        keys: Some(v1::RootKeys { app_key: hex::encode(device.app_key), nwk_key: String::new() }),
    }
}

/// The tag that says what a device is; its value is the kind's codec id.
pub(super) const KIND_TAG: &str = "kind";
