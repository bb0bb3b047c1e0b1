//! What nobody should send: each ends in one named reason, one counter, and a sentence a person can act on; nothing is
//! half-written, and the server goes on.

#![allow(clippy::print_stdout, reason = "a test tells its seed")]

mod codecs;
mod datagrams;
mod frames;
mod joins;
mod people;

use loam_tests::story::{self, GATEWAY, Stand, hex};
use loam_tests::{Client, eventually};
use mac::ids::{DevEui, JoinEui};
use mac::region::RegionId;
use proto::v1;
use simulator::device::{RootKeys, VirtualDevice};

const JOIN_EUI: u64 = 0x70b3_d57e_d000_0001;
const MODERN_PROFILE: &str = "modern";
const APP_KEY: [u8; 16] = *b"\x8a\x3f\x5c\x1e\x9b\x7d\x20\x46\xe1\xc8\xa9\x7f\x3b\x5d\x60\x24";
const OTHER_KEY: [u8; 16] = *b"\x31\x9c\x77\x02\xd4\x5e\xaa\x18\x0b\xf6\x63\xc9\x25\x8d\x4f\xe0";

/// `/metrics` and `GetInfo` tell the same counts.
async fn counts_agree(stand: &Stand) {
    eventually("/metrics and GetInfo agree", async || {
        let (status, text) = story::http_get(stand.loam.api, "/metrics").await;
        assert_eq!(status, 200);
        let mut counted = story::counters(&text, "loam_drops_total", "reason");
        counted.retain(|_, count| *count > 0);
        (counted == story::drop_counts(&stand.client).await).then_some(())
    })
    .await;
}

/// The datagram a gateway would send for this frame, in EU868 at SF7.
fn push_data(stand: &Stand, phy_payload: &[u8]) -> Vec<u8> {
    let body = serde_json::json!({ "rxpk": [{
        "tmst": stand.gateway.tmst_us(), "freq": 868.1, "chan": 0, "stat": 1, "modu": "LORA", "datr": "SF7BW125",
        "codr": "4/5", "rssi": -80, "lsnr": 7.0, "size": phy_payload.len(), "data": base64(phy_payload),
    }]});
    [&[2, 0x12, 0x34, 0], GATEWAY.to_be_bytes().as_slice(), body.to_string().as_bytes()].concat()
}

async fn device_state(client: &Client, dev_eui: u64) -> v1::DeviceState {
    let request = v1::GetDeviceRequest { dev_eui: format!("{dev_eui:016x}") };
    let answer = client.clone().devices.get_device(request).await.expect("a device").into_inner();
    answer.state.expect("a state")
}

/// For devices of LoRaWAN 1.0.4.
async fn create_modern_profile(client: &Client) {
    let modern = v1::Profile {
        id: MODERN_PROFILE.into(),
        mac_version: v1::MacVersion::MacVersion104.into(),
        regional_revision: v1::RegionalRevision::Rp002104.into(),
        ..story::profile(v1::Region::Eu868)
    };
    let request = v1::CreateProfileRequest { profile: Some(modern) };
    client.clone().profiles.create_profile(request).await.expect("a new profile");
}

async fn register_otaa(client: &Client, dev_eui: u64, profile: &str, app_key: &[u8; 16]) {
    let device = v1::Device {
        join_eui: format!("{JOIN_EUI:016x}"),
        profile_id: profile.into(),
        ..story::device(dev_eui)
    };
    let keys = v1::RootKeys { app_key: hex(app_key), nwk_key: String::new() };
    let request = v1::CreateDeviceRequest { device: Some(device), keys: Some(keys) };
    client.clone().devices.create_device(request).await.expect("a new device");
}

fn otaa(dev_eui: u64, join_eui: u64, app_key: &[u8; 16]) -> VirtualDevice {
    let root = RootKeys { app_key: *app_key, nwk_key: None };
    VirtualDevice::otaa(DevEui::new(dev_eui), JoinEui::new(join_eui), RegionId::Eu868, root)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
