//! Words the stories are told in: register things, watch the stream, send frames of virtual devices.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mac::ids::{DevAddr, DevEui, GatewayEui};
use mac::region::RegionId;
use proto::v1::watch_response::Item;
use proto::v1::{self, Event, Region};
use simulator::device::{Uplink, VirtualDevice};
use simulator::gateway::{Downlinks, Reception, VirtualGateway};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use crate::{Client, DEADLINE, Loam};

/// The application all stories use.
pub const APPLICATION: &str = "field";

/// The profile all stories use unless they make their own.
pub const PROFILE: &str = "probe";

/// Registers the application, a profile for `region` and the gateways.
pub async fn register_basics(client: &Client, region: Region, gateways: &[u64]) {
    register_profile(client, profile(region)).await;
    for eui in gateways {
        register_gateway(client, *eui, region).await;
    }
}

/// Registers the application and a profile.
pub async fn register_profile(client: &Client, profile: v1::Profile) {
    let mut client = client.clone();
    client
        .applications
        .create_application(v1::CreateApplicationRequest { id: APPLICATION.into(), name: "Field".into() })
        .await
        .expect("a new application");
    client
        .profiles
        .create_profile(v1::CreateProfileRequest { profile: Some(profile) })
        .await
        .expect("a new profile");
}

/// The profile [`register_basics`] makes: RX1 after 1 s, no codec.
pub fn profile(region: Region) -> v1::Profile {
    v1::Profile {
        id: PROFILE.into(),
        name: "Probe".into(),
        region: region.into(),
        rx_delay_s: 1,
        codec_id: "none".into(),
        ..v1::Profile::default()
    }
}

/// Registers one gateway.
pub async fn register_gateway(client: &Client, eui: u64, region: Region) {
    let gateway = v1::Gateway {
        gateway_eui: format!("{eui:016x}"),
        name: format!("gateway {eui:x}"),
        region: region.into(),
        ..v1::Gateway::default()
    };
    client
        .clone()
        .gateways
        .create_gateway(v1::CreateGatewayRequest { gateway: Some(gateway) })
        .await
        .expect("a new gateway");
}

/// Registers a device of [`PROFILE`] without keys.
pub fn device(dev_eui: u64) -> v1::Device {
    v1::Device {
        dev_eui: format!("{dev_eui:016x}"),
        application_id: APPLICATION.into(),
        profile_id: PROFILE.into(),
        name: format!("device {dev_eui:x}"),
        ..v1::Device::default()
    }
}

/// Registers a device, with its root keys when it joins.
pub async fn register(client: &Client, device: v1::Device, keys: Option<v1::RootKeys>) {
    let request = v1::CreateDeviceRequest { device: Some(device), keys };
    client.clone().devices.create_device(request).await.expect("a new device");
}

/// Registers and personalises (ABP, 1.0.x) a device; the keys are made of its DevEUI.
pub async fn register_abp(client: &Client, dev_eui: u64, dev_addr: u32) -> AbpKeys {
    let keys = AbpKeys::of(dev_eui);
    register(client, device(dev_eui), None).await;
    client
        .clone()
        .devices
        .activate_device(v1::ActivateDeviceRequest {
            dev_eui: format!("{dev_eui:016x}"),
            dev_addr: format!("{dev_addr:08x}"),
            nwk_s_key: hex(&keys.nwk_s_key),
            app_s_key: hex(&keys.app_s_key),
            ..v1::ActivateDeviceRequest::default()
        })
        .await
        .expect("a device takes its session");
    keys
}

/// Session keys of a personalised device.
#[derive(Clone, Copy, Debug)]
pub struct AbpKeys {
    /// NwkSKey.
    pub nwk_s_key: [u8; 16],
    /// AppSKey.
    pub app_s_key: [u8; 16],
}

impl AbpKeys {
    /// Keys that differ for each device.
    pub fn of(dev_eui: u64) -> Self {
        let mut nwk_s_key = [0x11; 16];
        let mut app_s_key = [0x22; 16];
        nwk_s_key[..8].copy_from_slice(&dev_eui.to_be_bytes());
        app_s_key[..8].copy_from_slice(&dev_eui.to_be_bytes());
        Self { nwk_s_key, app_s_key }
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An open stream of events.
#[derive(Debug)]
pub struct Stream {
    inner: Streaming<v1::WatchResponse>,
    /// The cursor of the last message.
    pub cursor: Vec<u8>,
}

impl Stream {
    /// Opens a stream and waits for its first message, so that nothing after this call is missed.
    pub async fn open(client: &Client, request: v1::WatchRequest) -> Self {
        let inner = client.clone().events.watch(request).await.expect("a stream").into_inner();
        let mut stream = Self { inner, cursor: Vec::new() };
        let first = stream.message().await;
        assert!(!matches!(first, Some(Item::Event(_))), "the first message carries no event");
        stream
    }

    /// A stream of everything from the earliest event on.
    pub async fn earliest(client: &Client) -> Self {
        let start = v1::watch_request::Start::Earliest(true);
        Self::open(client, v1::WatchRequest { start: Some(start), ..v1::WatchRequest::default() }).await
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        loop {
            match self.message().await {
                Some(Item::Event(event)) => return event,
                Some(Item::Gap(gap)) => panic!("events are gone: {gap:?}"),
                Some(Item::Heartbeat(_)) | None => {}
            }
        }
    }

    /// The next uplink event; others are passed over.
    pub async fn uplink(&mut self) -> (Event, v1::Uplink) {
        loop {
            let event = self.event().await;
            if let Some(v1::event::Kind::Uplink(uplink)) = event.kind.clone() {
                return (event, uplink);
            }
        }
    }

    /// Collects uplinks until `count` different ones are there.
    pub async fn uplinks(&mut self, count: usize) -> Vec<(Event, v1::Uplink)> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        while found.len() < count {
            let (event, uplink) = self.uplink().await;
            if seen.insert(event.id.clone()) {
                found.push((event, uplink));
            }
        }
        found
    }

    /// True when no event comes within `quiet`. Only for "must not happen": it costs the time it waits.
    pub async fn is_quiet_for(&mut self, quiet: Duration) -> bool {
        tokio::time::timeout(quiet, self.event()).await.is_err()
    }

    async fn message(&mut self) -> Option<Item> {
        let next = tokio::time::timeout(DEADLINE, self.inner.next()).await;
        let message =
            next.expect("a message before the deadline").expect("the stream goes on").expect("no error");
        self.cursor = message.cursor;
        message.item
    }
}

/// The gateway of a [`Stand`].
pub const GATEWAY: u64 = 0x0016_c001_ff10_aa01;

/// The personalised device of a [`Stand`].
pub const DEVICE: u64 = 0x70b3_d57e_d005_0001;

/// The DevAddr of [`DEVICE`].
pub const DEV_ADDR: u32 = 0x0126_0001;

/// A server with one gateway and one personalised device, for tests of one thing at a time.
#[derive(Debug)]
#[allow(missing_docs, reason = "each field is what it is named after")]
pub struct Stand {
    pub loam: Loam,
    pub client: Client,
    pub gateway: VirtualGateway,
    pub downlinks: Downlinks,
    pub device: VirtualDevice,
    dir: TempDir,
}

impl Stand {
    /// Starts everything in a directory of its own.
    pub async fn set_up() -> Self {
        Self::set_up_with(&[]).await
    }

    /// Like [`Stand::set_up`], with settings as environment variables.
    pub async fn set_up_with(settings: &[(&str, &str)]) -> Self {
        Self::set_up_in(tempfile::tempdir().expect("a temporary directory"), settings).await
    }

    /// Like [`Stand::set_up_with`], in a directory an earlier start may have left something in.
    pub async fn set_up_in(dir: TempDir, settings: &[(&str, &str)]) -> Self {
        let loam = Loam::start_with(&dir.path().join("data"), settings);
        let client = loam.client();
        register_basics(&client, Region::Eu868, &[GATEWAY]).await;
        register_abp(&client, DEVICE, DEV_ADDR).await;
        let (gateway, downlinks) =
            VirtualGateway::connect(loam.udp, GatewayEui::new(GATEWAY)).await.expect("a downlink path");
        Self { loam, client, gateway, downlinks, device: abp_device(DEVICE, DEV_ADDR), dir }
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory beside it for files of the test.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Sends what a device put on air through the gateway.
    pub async fn push(&self, uplink: &Uplink) {
        self.gateway.push(&[self.heard(uplink)]).await.expect("loopback takes a datagram");
    }

    /// What the gateway hears of a frame at this moment.
    pub fn heard(&self, uplink: &Uplink) -> Reception {
        heard(&self.gateway, uplink)
    }

    /// Sends an uplink of the device and waits for its event.
    pub async fn uplink_arrives(&mut self, payload: &[u8]) -> v1::Uplink {
        let mut stream = Stream::latest(&self.client).await;
        let sent = self.device.uplink(0, Some((1, payload)), false);
        self.push(&sent).await;
        let (event, uplink) = stream.uplink().await;
        assert_eq!(event.dev_eui, format!("{DEVICE:016x}"));
        assert_eq!((uplink.fcnt_up, uplink.payload.as_slice()), (sent.fcnt, payload));
        uplink
    }

    /// Stops the server with SIGTERM and gives back the directory for another start.
    pub fn end(self) -> (std::process::ExitStatus, TempDir) {
        (self.loam.terminate(), self.dir)
    }
}

/// What a gateway hears of a frame at this moment.
pub fn heard(gateway: &VirtualGateway, uplink: &Uplink) -> Reception {
    Reception {
        phy_payload: uplink.phy_payload.clone(),
        freq_hz: uplink.freq_hz,
        data_rate: uplink.data_rate.clone(),
        rssi_dbm: -80,
        snr_db: 7.0,
        tmst_us: gateway.tmst_us(),
    }
}

/// The device that [`register_abp`] registers, in EU868.
pub fn abp_device(dev_eui: u64, dev_addr: u32) -> VirtualDevice {
    let AbpKeys { nwk_s_key, app_s_key } = AbpKeys::of(dev_eui);
    VirtualDevice::abp(DevEui::new(dev_eui), DevAddr::new(dev_addr), RegionId::Eu868, nwk_s_key, app_s_key)
}

/// Sends a Join-Request and waits for the accept, which it returns too.
pub async fn join_over_the_air(
    gateway: &VirtualGateway,
    downlinks: &mut Downlinks,
    device: &mut VirtualDevice,
) -> Vec<u8> {
    let request = device.join_request(0);
    gateway.push(&[heard(gateway, &request)]).await.expect("loopback takes a datagram");
    let accept = tokio::time::timeout(DEADLINE, downlinks.recv()).await.expect("an accept before the deadline");
    let phy_payload = accept.expect("the gateway goes on").phy_payload;
    device.take_join_accept(&phy_payload).expect("an accept for this device");
    phy_payload
}

impl Stream {
    /// A stream of what comes from here on.
    pub async fn latest(client: &Client) -> Self {
        let start = v1::watch_request::Start::Latest(true);
        Self::open(client, v1::WatchRequest { start: Some(start), ..v1::WatchRequest::default() }).await
    }
}

/// How often each reason was counted, as `GetInfo` tells; those with 0 are left out.
pub async fn drop_counts(client: &Client) -> BTreeMap<String, u64> {
    let info = client.clone().system.get_info(v1::GetInfoRequest {}).await.expect("an answer").into_inner();
    info.drops.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Waits until a reason was counted so often.
pub async fn drops_reach(client: &Client, reason: &str, count: u64) {
    crate::eventually(&format!("{count} drops as {reason}"), async || {
        let counted = drop_counts(client).await.get(reason).copied().unwrap_or(0);
        (counted >= count).then_some(())
    })
    .await;
}

/// Waits until so many frames were refused, whatever for.
pub async fn drops_sum_to(client: &Client, count: u64) {
    crate::eventually(&format!("{count} drops"), async || {
        let counted: u64 = drop_counts(client).await.values().sum();
        (counted >= count).then_some(())
    })
    .await;
}

/// The last refusals, newest first.
pub async fn drops(client: &Client) -> Vec<v1::list_drops_response::Drop> {
    let request = v1::ListDropsRequest { limit: 1_000, ..v1::ListDropsRequest::default() };
    client.clone().events.list_drops(request).await.expect("a list").into_inner().drops
}

/// Asks for a page of the API's port with HTTP/1.1; gives its status and body.
pub async fn http_get(server: SocketAddr, path: &str) -> (u16, String) {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(server).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(DEADLINE, ask).await.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The values of one counter by its label, from the text of `/metrics`.
pub fn counters(metrics: &str, name: &str, label: &str) -> BTreeMap<String, u64> {
    let prefix = format!("{name}{{{label}=\"");
    let read = |line: &str| {
        let (key, value) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        Some((key.to_owned(), value.parse().ok()?))
    };
    metrics.lines().filter_map(read).collect()
}

/// Waits for a moment; only where a test is about time itself.
pub async fn pause(span: Duration) {
    tokio::time::timeout(span, std::future::pending::<()>()).await.expect_err("it never ends by itself");
}
