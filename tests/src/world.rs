//! A field with a server, gateways and devices: what most stories start with.

use std::path::{Path, PathBuf};

use mac::ids::{DevAddr, DevEui, GatewayEui, JoinEui};
use mac::join_frame::JoinAccept;
use mac::keys::{Key, NetworkKeys};
use mac::region::RegionId;
use proto::v1::list_drops_response::Drop as Refusal;
use proto::v1::watch_request::Start;
use proto::v1::{self, DownlinkState, Event, MacVersion, Region, event::Kind};
use simulator::device::{Heard, RootKeys, Uplink, VirtualDevice};
use simulator::gateway::{Reception, Transmission, VirtualGateway};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::story::{self, AbpKeys, PROFILE, Stream, hex};
use crate::{Client, DEADLINE, Loam, eventually};

/// The JoinEUI of all devices that join.
pub const JOIN_EUI: u64 = 0x70b3_d57e_0000_0001;

/// See the file's head.
#[derive(Debug)]
pub struct World {
    /// Clients of the running server.
    pub client: Client,
    /// Every event since the first, in the order they came.
    pub seen: Vec<Event>,
    stream: Stream,
    region: Region,
    is_1_1: bool,
    gateways: Vec<VirtualGateway>,
    downlinks: mpsc::UnboundedReceiver<Transmission>,
    loam: Option<Loam>,
    data_dir: PathBuf,
    // Last, because the server runs in it.
    _dir: TempDir,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// As in a power cut.
    Kill,
    /// By SIGTERM.
    Terminate,
}

/// A frame as gateways heard it.
#[derive(Clone, Debug)]
pub struct OnAir {
    /// The frame.
    pub uplink: Uplink,
    /// Gateway and its counter at the end of the frame.
    heard: Vec<(GatewayEui, u32)>,
}

/// A downlink that hits a window of the frame it answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 1 or 2.
    pub window: u8,
    /// Seconds from the end of the uplink.
    pub delay_s: u32,
    /// What the gateway was asked to send.
    pub transmission: Transmission,
}

impl World {
    /// A server with `gateways` gateways and the profile of [`story::profile`].
    pub async fn start(region: Region, gateways: u64) -> Self {
        Self::with_profile(story::profile(region), gateways).await
    }

    /// Like [`World::start`], with a profile of its own; its id has to be [`PROFILE`].
    pub async fn with_profile(profile: v1::Profile, gateways: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).expect("empty");
        let loam = Loam::start(&data_dir);
        let client = loam.client();
        let region = profile.region();
        let is_1_1 = profile.mac_version() == MacVersion::MacVersion110;
        let euis: Vec<u64> = (1..=gateways).map(gateway_eui).collect();
        story::register_profile(&client, profile).await;
        for eui in &euis {
            story::register_gateway(&client, *eui, region).await;
        }
        let stream = Stream::earliest(&client).await;
        let (gateways, downlinks) = connect(&loam, &euis).await;
        let loam = Some(loam);
        Self {
            client,
            seen: Vec::new(),
            stream,
            region,
            is_1_1,
            gateways,
            downlinks,
            loam,
            data_dir,
            _dir: dir,
        }
    }

    /// The running server.
    pub fn loam(&self) -> &Loam {
        self.loam.as_ref().expect("a world has a server")
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Ends the server and starts it again on the same directory. The stream goes on after the last event it brought.
    pub async fn restart(&mut self, end: End) {
        let loam = self.loam.take().expect("a world has a server");
        match end {
            End::Kill => loam.kill(),
            End::Terminate => {
                let status = loam.terminate();
                assert!(status.success(), "SIGTERM ended it with {status}");
            }
        }
        let loam = Loam::start(&self.data_dir);
        self.client = loam.client();
        let euis: Vec<u64> = self.gateways.iter().map(|g| g.eui().value()).collect();
        (self.gateways, self.downlinks) = connect(&loam, &euis).await;
        self.loam = Some(loam);
        let start = Some(Start::Cursor(self.stream.cursor.clone()));
        self.stream =
            Stream::open(&self.client, v1::WatchRequest { start, ..v1::WatchRequest::default() }).await;
    }

    // ---- devices -----------------------------------------------------------------------------------------------

    /// Registers and personalises a device with a DevAddr of its own.
    pub async fn abp(&self, number: u64) -> VirtualDevice {
        self.abp_at(number, 0x0100_0000 + u32::try_from(number).expect("a small number")).await
    }

    /// Registers and personalises a device.
    pub async fn abp_at(&self, number: u64, dev_addr: u32) -> VirtualDevice {
        self.activated(number, dev_addr, v1::ActivateDeviceRequest::default()).await
    }

    /// Registers and personalises a device with the counters of `counters`; the rest of it is filled in.
    pub async fn activated(
        &self,
        number: u64,
        dev_addr: u32,
        counters: v1::ActivateDeviceRequest,
    ) -> VirtualDevice {
        let keys = AbpKeys::of(dev_eui(number));
        story::register(&self.client, story::device(dev_eui(number)), None).await;
        let request = v1::ActivateDeviceRequest {
            dev_eui: name(number),
            dev_addr: format!("{dev_addr:08x}"),
            nwk_s_key: hex(&keys.nwk_s_key),
            app_s_key: hex(&keys.app_s_key),
            ..counters
        };
        self.client.clone().devices.activate_device(request).await.expect("a device takes its session");
        let (dev_eui, dev_addr) = (DevEui::new(dev_eui(number)), DevAddr::new(dev_addr));
        VirtualDevice::abp(dev_eui, dev_addr, self.region_id(), keys.nwk_s_key, keys.app_s_key)
    }

    /// Registers a device that joins; 1.1 when the profile is.
    pub async fn otaa(&self, number: u64) -> VirtualDevice {
        let root = self.root_keys(number);
        let device = v1::Device { join_eui: format!("{JOIN_EUI:016x}"), ..story::device(dev_eui(number)) };
        let keys = v1::RootKeys {
            app_key: hex(&root.app_key),
            nwk_key: root.nwk_key.map(|key| hex(&key)).unwrap_or_default(),
        };
        story::register(&self.client, device, Some(keys)).await;
        VirtualDevice::otaa(DevEui::new(dev_eui(number)), JoinEui::new(JOIN_EUI), self.region_id(), root)
    }

    /// A device that has joined and whose first uplink was taken.
    pub async fn joined(&mut self, number: u64) -> VirtualDevice {
        let mut device = self.otaa(number).await;
        self.join(&mut device).await;
        self.send(&mut device, b"hello").await;
        self.uplink_of(number).await;
        device
    }

    /// The root keys of a device.
    pub fn root_keys(&self, number: u64) -> RootKeys {
        let key = |filler: u8| {
            let mut key = [filler; 16];
            key[..8].copy_from_slice(&number.to_be_bytes());
            key
        };
        RootKeys { app_key: key(0x33), nwk_key: self.is_1_1.then(|| key(0x44)) }
    }

    /// Sends a Join-Request, waits for the accept, and has the device take it.
    pub async fn join(&mut self, device: &mut VirtualDevice) -> Answer {
        let request = device.join_request(0);
        let on_air = self.carry(request).await;
        let answer = self.answer(&on_air).await;
        device.take_join_accept(&answer.transmission.phy_payload).expect("an accept for this device");
        answer
    }

    /// What a Join-Accept says.
    pub fn read_accept(&self, number: u64, answer: &Answer) -> JoinAccept {
        let root = self.root_keys(number);
        let key = root.nwk_key.unwrap_or(root.app_key);
        JoinAccept::open(&answer.transmission.phy_payload, &key).expect("a Join-Accept").accept
    }

    /// What the network knows of a device's session.
    pub async fn state(&self, number: u64) -> v1::DeviceState {
        let request = v1::GetDeviceRequest { dev_eui: name(number) };
        let answer = self.client.clone().devices.get_device(request).await.expect("a registered device");
        answer.into_inner().state.unwrap_or_default()
    }

    /// A gateway, counted from 0.
    pub fn gateway(&self, index: usize) -> &VirtualGateway {
        &self.gateways[index]
    }

    // ---- the air -----------------------------------------------------------------------------------------------

    /// Sends an unconfirmed uplink on port 1; all gateways hear it.
    pub async fn send(&self, device: &mut VirtualDevice, payload: &[u8]) -> OnAir {
        self.carry(device.uplink(0, Some((1, payload)), false)).await
    }

    /// Sends a confirmed uplink on port 1; all gateways hear it.
    pub async fn send_confirmed(&self, device: &mut VirtualDevice, payload: &[u8]) -> OnAir {
        self.carry(device.uplink(0, Some((1, payload)), true)).await
    }

    /// A frame that all gateways hear.
    pub async fn carry(&self, uplink: Uplink) -> OnAir {
        let all: Vec<usize> = (0..self.gateways.len()).collect();
        self.carry_by(&all, uplink).await
    }

    /// A frame that these gateways hear, the first one best.
    pub async fn carry_by(&self, gateways: &[usize], uplink: Uplink) -> OnAir {
        self.carry_at(gateways, uplink, VirtualGateway::tmst_us).await
    }

    /// A frame that these gateways hear when their counters stand at `tmst_us`.
    pub async fn carry_at(
        &self,
        gateways: &[usize],
        uplink: Uplink,
        tmst_us: impl Fn(&VirtualGateway) -> u32,
    ) -> OnAir {
        let mut heard = Vec::new();
        for (place, index) in (0u8..).zip(gateways) {
            let gateway = &self.gateways[*index];
            let tmst_us = tmst_us(gateway);
            let reception = Reception {
                phy_payload: uplink.phy_payload.clone(),
                freq_hz: uplink.freq_hz,
                data_rate: uplink.data_rate.clone(),
                rssi_dbm: -80 - i32::from(place),
                snr_db: SNR_DB - f32::from(place),
                tmst_us,
            };
            gateway.push(&[reception]).await.expect("the server listens");
            heard.push((gateway.eui(), tmst_us));
        }
        OnAir { uplink, heard }
    }

    /// The next downlink. It has to hit a window of this frame exactly: delay, frequency, data rate, polarity.
    pub async fn answer(&mut self, on_air: &OnAir) -> Answer {
        let transmission = self.downlink().await;
        on_air
            .answered_by(transmission)
            .unwrap_or_else(|t| panic!("{t:?} hits no window of {:?}; heard {:?}", on_air.uplink, on_air.heard))
    }

    /// The next downlink, whatever it answers.
    pub async fn downlink(&mut self) -> Transmission {
        let next = tokio::time::timeout(DEADLINE, self.downlinks.recv()).await;
        next.expect("a downlink before the deadline").expect("gateways live as long as the world")
    }

    /// The answer to this frame, as the device hears it.
    pub async fn hear(&mut self, device: &mut VirtualDevice, on_air: &OnAir) -> Heard {
        let answer = self.answer(on_air).await;
        device.take_downlink(&answer.transmission.phy_payload).expect("a downlink for this device")
    }

    /// True when no downlink is waiting at the gateways.
    pub fn is_silent(&mut self) -> bool {
        self.downlinks.try_recv().is_err()
    }

    // ---- events and refusals -----------------------------------------------------------------------------------

    /// The next event; it is also added to `seen`.
    pub async fn event(&mut self) -> Event {
        let event = self.stream.event().await;
        self.seen.push(event.clone());
        event
    }

    /// The first event from here on that `pick` takes.
    pub async fn find<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    }

    /// The next uplink event of a device.
    pub async fn uplink_of(&mut self, number: u64) -> v1::Uplink {
        self.find(|event| match &event.kind {
            Some(Kind::Uplink(uplink)) if event.dev_eui == name(number) => Some(uplink.clone()),
            _ => None,
        })
        .await
    }

    /// The uplink counters of a device that events have told of so far.
    pub fn counters_seen(&self, number: u64) -> Vec<u32> {
        let of_device = self.seen.iter().filter(|event| event.dev_eui == name(number));
        of_device
            .filter_map(|event| match &event.kind {
                Some(Kind::Uplink(uplink)) => Some(uplink.fcnt_up),
                _ => None,
            })
            .collect()
    }

    /// The next error event with this code.
    pub async fn note(&mut self, code: &str) -> v1::ErrorNote {
        self.find(|event| match &event.kind {
            Some(Kind::Error(note)) if note.code == code => Some(note.clone()),
            _ => None,
        })
        .await
    }

    /// The last refused frames of a device, newest first.
    pub async fn drops(&self, number: u64) -> Vec<Refusal> {
        let request = v1::ListDropsRequest { dev_eui: name(number), ..v1::ListDropsRequest::default() };
        self.client.clone().events.list_drops(request).await.expect("a list").into_inner().drops
    }

    /// Waits until a frame of a device is refused; it has to be for this reason.
    pub async fn refusal(&self, number: u64, reason: &str) -> Refusal {
        let drops = eventually(reason, async || {
            let drops = self.drops(number).await;
            (!drops.is_empty()).then_some(drops)
        })
        .await;
        let reasons: Vec<&str> = drops.iter().map(|drop| drop.reason.as_str()).collect();
        assert!(reasons.iter().all(|got| *got == reason), "refused for {reasons:?}, not for {reason}");
        drops.into_iter().next().expect("not empty")
    }

    // ---- the queue ---------------------------------------------------------------------------------------------

    /// Queues bytes for a device on port 10 and waits until the network knows.
    pub async fn enqueue(&mut self, number: u64, payload: &[u8]) -> v1::Downlink {
        self.enqueue_as(number, payload, v1::EnqueueDownlinkRequest::default()).await
    }

    /// Like [`World::enqueue`], with the wishes of `wishes`.
    pub async fn enqueue_as(
        &mut self,
        number: u64,
        payload: &[u8],
        wishes: v1::EnqueueDownlinkRequest,
    ) -> v1::Downlink {
        let request = v1::EnqueueDownlinkRequest {
            dev_eui: name(number),
            f_port: 10,
            content: Some(v1::enqueue_downlink_request::Content::Payload(payload.to_vec())),
            ..wishes
        };
        let answer = self.client.clone().downlinks.enqueue_downlink(request).await.expect("a queued item");
        let item = answer.into_inner().downlink.expect("the item");
        self.update(&item.id, DownlinkState::Queued).await;
        item
    }

    /// The next event that tells of this item being in this state.
    pub async fn update(&mut self, id: &str, state: DownlinkState) -> v1::DownlinkUpdate {
        self.find(|event| match &event.kind {
            Some(Kind::Downlink(update)) if update.downlink_id == id && update.state() == state => {
                Some(update.clone())
            }
            _ => None,
        })
        .await
    }

    /// The states of an item that events have told of so far.
    pub fn states_seen(&self, id: &str) -> Vec<DownlinkState> {
        let updates = self.seen.iter().filter_map(|event| match &event.kind {
            Some(Kind::Downlink(update)) if update.downlink_id == id => Some(update.state()),
            _ => None,
        });
        updates.collect()
    }

    /// The items of a device, finished ones too, in the order they were queued.
    pub async fn items(&self, number: u64) -> Vec<v1::Downlink> {
        let request = v1::ListDownlinksRequest {
            dev_eui: name(number),
            include_finished: true,
            ..v1::ListDownlinksRequest::default()
        };
        self.client.clone().downlinks.list_downlinks(request).await.expect("a list").into_inner().downlinks
    }

    /// Waits until an item is in this state.
    pub async fn item_in(&self, number: u64, id: &str, state: DownlinkState) -> v1::Downlink {
        eventually(state.as_str_name(), async || {
            self.items(number).await.into_iter().find(|item| item.id == id && item.state() == state)
        })
        .await
    }

    fn region_id(&self) -> RegionId {
        region_id(self.region)
    }
}

impl OnAir {
    /// What a transmission is to this frame; the transmission itself when it hits none of its windows.
    pub fn answered_by(&self, transmission: Transmission) -> Result<Answer, Box<Transmission>> {
        let hit = self.heard.iter().filter(|(gateway, _)| *gateway == transmission.gateway).find_map(
            |(_, tmst_us)| {
                let sent_us = transmission.tmst_us?;
                let window =
                    self.uplink.window_hit(*tmst_us, sent_us, transmission.freq_hz, &transmission.data_rate)?;
                Some((window, sent_us.wrapping_sub(*tmst_us) / 1_000_000))
            },
        );
        match hit {
            Some((window, delay_s)) if transmission.inverted => Ok(Answer { window, delay_s, transmission }),
            _ => Err(Box::new(transmission)),
        }
    }
}

/// The DevEUI of a device.
pub fn dev_eui(number: u64) -> u64 {
    0x70b3_d57e_d000_0000 + number
}

/// The DevEUI of a device as the API writes it.
pub fn name(number: u64) -> String {
    format!("{:016x}", dev_eui(number))
}

/// The EUI of a gateway; they are counted from 1.
pub fn gateway_eui(number: u64) -> u64 {
    0x00c0_ee00_0000_0000 + number
}

/// The network session keys of a personalised device.
pub fn network_keys(number: u64) -> NetworkKeys {
    NetworkKeys::from_nwk_s_key(&Key::new(AbpKeys::of(dev_eui(number)).nwk_s_key))
}

/// A profile of [`PROFILE`] for another version; the receive delay is the default for devices that join.
pub fn profile_of(region: Region, mac_version: MacVersion) -> v1::Profile {
    v1::Profile { id: PROFILE.into(), mac_version: mac_version.into(), rx_delay_s: 5, ..story::profile(region) }
}

async fn connect(loam: &Loam, euis: &[u64]) -> (Vec<VirtualGateway>, mpsc::UnboundedReceiver<Transmission>) {
    let (to_world, downlinks) = mpsc::unbounded_channel();
    let mut gateways = Vec::new();
    for eui in euis {
        let connected = VirtualGateway::connect(loam.udp, GatewayEui::new(*eui)).await;
        let (gateway, mut of_gateway) = connected.expect("a downlink path");
        gateways.push(gateway);
        let to_world = to_world.clone();
        tokio::spawn(async move {
            while let Some(transmission) = of_gateway.recv().await {
                if to_world.send(transmission).is_err() {
                    break;
                }
            }
        });
    }
    (gateways, downlinks)
}

fn region_id(region: Region) -> RegionId {
    match region {
        Region::As9231 => RegionId::As923_1,
        Region::Au915 => RegionId::Au915,
        Region::Eu868 | Region::Unspecified => RegionId::Eu868,
        Region::In865 => RegionId::In865,
        Region::Us915 => RegionId::Us915,
    }
}

/// How well the first gateway hears.
const SNR_DB: f32 = 7.0;
