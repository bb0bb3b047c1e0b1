//! A device written by others, the `lorawan-device` crate, on this network: nothing of the server decides for it.
//!
//! Its radio is a virtual gateway on a real UDP socket. Its clock is virtual: a window opens as soon as the device says
//! so, and what was sent for it is checked against it to the microsecond, the hertz and the data rate.
#![allow(clippy::print_stdout, reason = "the seed of a failed run is needed to repeat it")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loam_tests::story::{self, PROFILE, Stream, hex};
use loam_tests::{Client, DEADLINE, Loam};
use lorawan_device::async_device::radio::{PhyRxTx, RfConfig, RxConfig, RxQuality, RxStatus, Timer, TxConfig};
use lorawan_device::async_device::{Device, JoinResponse, SendResponse, Timings};
use lorawan_device::region::{Configuration, Subband, US915};
use lorawan_device::{AppEui, AppKey, DevEui, JoinMode, Prng};
use mac::ids::GatewayEui;
use mac::lorawan_adapter::Ciphers;
use mac::phy::{DownFrame, parse_downlink};
use proto::v1::enqueue_downlink_request::Content;
use proto::v1::{self, DownlinkState, Region, RegionalRevision, event::Kind};
use simulator::gateway::{Downlinks, Reception, Transmission, VirtualGateway};
use tempfile::TempDir;

const DEV_EUI: u64 = 0x70b3_d57e_d003_0001;
const JOIN_EUI: u64 = 0x70b3_d57e_0000_0002;
const APP_KEY: [u8; 16] = 0x9a61_52c3_07fe_b84d_2e90_d71c_f5a6_483b_u128.to_be_bytes();

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_device_is_served_in_eu868() {
    let profile = v1::Profile {
        rx_delay_s: 5,
        extra_channels_hz: vec![867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000],
        ..story::profile(Region::Eu868)
    };
    let region = Configuration::new(lorawan_device::Region::EU868);
    let (_, used_hz) = serve(profile, region, |_| true).await;
    // With three default channels and five of the CFList it would be odd to see default ones only.
    assert!(used_hz.iter().any(|hz| *hz < 868_000_000), "{used_hz:?}");
}

/// The revision has no CFList for this plan: the sub-band is told by LinkADRReq.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_device_is_served_in_us915_with_its_sub_band_told_by_link_adr() {
    let profile = v1::Profile { rx_delay_s: 5, sub_bands: vec![2], ..story::profile(Region::Us915) };
    let (lost, used_hz) = serve(profile, us915(), in_sub_band_2).await;
    assert_eq!(lost, 0, "the device left the sub-band it joined on");
    assert!(used_hz.len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_device_is_served_in_us915_with_its_sub_band_told_by_the_accept() {
    let profile = v1::Profile {
        rx_delay_s: 5,
        sub_bands: vec![2],
        regional_revision: RegionalRevision::Rp002103.into(),
        ..story::profile(Region::Us915)
    };
    let (lost, _) = serve(profile, us915(), in_sub_band_2).await;
    assert_eq!(lost, 0, "the device left the sub-band it joined on");
}

fn us915() -> Configuration {
    let mut us915 = US915::new();
    us915.set_join_bias(Subband::_2);
    us915.into()
}

/// Channels 8 to 15: what a gateway with eight channels hears.
fn in_sub_band_2(freq_hz: u32) -> bool {
    (903_900_000..=905_300_000).contains(&freq_hz)
}

/// Joins, confirmed uplinks, downlinks both ways. Returns how many frames no gateway heard, and the frequencies used.
async fn serve(profile: v1::Profile, region: Configuration, hears: fn(u32) -> bool) -> (u64, HashSet<u32>) {
    let mut field = Field::start(profile).await;
    let seed = std::env::var("LOAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    println!("seed {seed} (set LOAM_SEED to repeat)");
    let (radio, timer, ears) = field.radio(hears).await;
    let mut device: Device<Radio, Ciphers, VirtualTimer, Prng> =
        Device::new_with_seed(region, radio, timer, seed);

    // It joins.
    device.get_mut_radio().expects = Expects::Downlink;
    let credentials = JoinMode::OTAA {
        deveui: DevEui::from(DEV_EUI.to_le_bytes()),
        appeui: AppEui::from(JOIN_EUI.to_le_bytes()),
        appkey: AppKey::from(APP_KEY),
    };
    let joined = device.join(&credentials).await.expect("the radio works");
    assert!(matches!(joined, JoinResponse::JoinSuccess), "{joined:?}");
    let join = field.join().await;
    let address: [u8; 4] =
        device.get_session().expect("a session").devaddr().as_ref().try_into().expect("four bytes");
    assert_eq!(join.dev_addr, format!("{:08x}", u32::from_le_bytes(address)));

    // Confirmed uplinks: the device sees each acknowledgement, the stream each decoded event.
    for round in 0..8u8 {
        let sent = device.send(&[round, 0xbe, 0xef], 2, true).await.expect("the radio works");
        assert!(matches!(sent, SendResponse::DownlinkReceived(_)), "round {round}: {sent:?}");
        assert!(ears.last().ack, "round {round}: a downlink without ACK");
        let uplink = field.uplink().await;
        assert_eq!((uplink.fcnt_up, uplink.f_port, uplink.confirmed), (u32::from(round), Some(2), true));
        assert_eq!(uplink.payload, [round, 0xbe, 0xef]);
        assert_eq!(uplink.object_json, format!("{{\"round\":{round}}}"));
    }

    // A downlink, byte for byte.
    let payload: Vec<u8> = (0..=40).collect();
    let item = field.enqueue(&payload, false).await;
    let sent = device.send(b"anything?", 3, false).await.expect("the radio works");
    assert!(matches!(sent, SendResponse::DownlinkReceived(_)), "{sent:?}");
    let downlink = device.take_downlink().expect("a payload");
    assert_eq!((downlink.fport, downlink.data.as_slice()), (99, payload.as_slice()));
    field.update(&item, DownlinkState::GatewayAcknowledged).await;

    // A confirmed one: the device acknowledges with its next uplink.
    let item = field.enqueue(b"confirm", true).await;
    device.send(b"anything?", 3, false).await.expect("the radio works");
    assert_eq!(device.take_downlink().expect("a payload").data.as_slice(), b"confirm");
    assert!(ears.last().confirmed);
    device.get_mut_radio().expects = Expects::Nothing;
    device.send(b"yes", 3, false).await.expect("the radio works");
    field.update(&item, DownlinkState::DeviceAcknowledged).await;

    let counters = ears.counters_down();
    assert!(counters.is_sorted_by(|a, b| a < b), "FCntDown does not rise: {counters:?}");
    (ears.lost.load(Ordering::Relaxed), ears.used_hz())
}

/// The server's side of the story.
struct Field {
    client: Client,
    stream: Stream,
    loam: Loam,
    _dir: TempDir,
}

impl Field {
    async fn start(profile: v1::Profile) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = dir.path().join("data");
        std::fs::create_dir(&data_dir).expect("empty");
        let loam = Loam::start(&data_dir);
        let mut client = loam.client();
        let script = "function decodeUplink(input) { return { data: { round: input.bytes[0] } }; }";
        let codec = v1::SetCodecRequest { id: "foreign".into(), script: script.into() };
        client.codecs.set_codec(codec).await.expect("a codec that compiles");
        let region = profile.region();
        let profile = v1::Profile { id: PROFILE.into(), codec_id: "foreign".into(), ..profile };
        story::register_profile(&client, profile).await;
        story::register_gateway(&client, GATEWAY, region).await;
        let device = v1::Device { join_eui: format!("{JOIN_EUI:016x}"), ..story::device(DEV_EUI) };
        let keys = v1::RootKeys { app_key: hex(&APP_KEY), nwk_key: String::new() };
        story::register(&client, device, Some(keys)).await;
        let stream = Stream::earliest(&client).await;
        Self { client, stream, loam, _dir: dir }
    }

    async fn radio(&self, hears: fn(u32) -> bool) -> (Radio, VirtualTimer, Arc<Ears>) {
        let connected = VirtualGateway::connect(self.loam.udp, GatewayEui::new(GATEWAY)).await;
        let (gateway, downlinks) = connected.expect("a downlink path");
        let now_ms = Arc::new(AtomicU64::new(0));
        let ears = Arc::new(Ears::default());
        let radio = Radio {
            gateway,
            downlinks,
            hears,
            now_ms: Arc::clone(&now_ms),
            ears: Arc::clone(&ears),
            expects: Expects::Nothing,
            sent_tmst_us: None,
            listens: None,
            waiting: None,
        };
        (radio, VirtualTimer(now_ms), ears)
    }

    async fn join(&mut self) -> v1::Join {
        loop {
            if let Some(Kind::Join(join)) = self.stream.event().await.kind {
                return join;
            }
        }
    }

    async fn uplink(&mut self) -> v1::Uplink {
        let (event, uplink) = self.stream.uplink().await;
        assert_eq!(event.dev_eui, format!("{DEV_EUI:016x}"));
        uplink
    }

    async fn enqueue(&mut self, payload: &[u8], confirmed: bool) -> String {
        let request = v1::EnqueueDownlinkRequest {
            dev_eui: format!("{DEV_EUI:016x}"),
            f_port: 99,
            content: Some(Content::Payload(payload.to_vec())),
            confirmed,
            ..v1::EnqueueDownlinkRequest::default()
        };
        let answer = self.client.downlinks.enqueue_downlink(request).await.expect("a queued item").into_inner();
        let id = answer.downlink.expect("the item").id;
        self.update(&id, DownlinkState::Queued).await;
        id
    }

    async fn update(&mut self, id: &str, state: DownlinkState) {
        loop {
            if let Some(Kind::Downlink(update)) = self.stream.event().await.kind
                && update.downlink_id == id
                && update.state() == state
            {
                return;
            }
        }
    }
}

/// What the test learns of the radio's life.
#[derive(Debug, Default)]
struct Ears {
    heard: Mutex<Vec<Flags>>,
    used_hz: Mutex<HashSet<u32>>,
    /// Frames on a channel the gateway does not hear.
    lost: AtomicU64,
}

/// The flags of a data downlink as it was on air.
#[derive(Clone, Copy, Debug)]
struct Flags {
    fcnt: u16,
    ack: bool,
    confirmed: bool,
}

impl Ears {
    fn last(&self) -> Flags {
        *self.heard.lock().expect("no panic").last().expect("a downlink was heard")
    }

    fn counters_down(&self) -> Vec<u16> {
        self.heard.lock().expect("no panic").iter().map(|flags| flags.fcnt).collect()
    }

    fn used_hz(&self) -> HashSet<u32> {
        self.used_hz.lock().expect("no panic").clone()
    }
}

/// Whether a window waits for what the network surely sends, or just looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expects {
    Downlink,
    Nothing,
}

struct Radio {
    gateway: VirtualGateway,
    downlinks: Downlinks,
    hears: fn(u32) -> bool,
    /// The device's clock: milliseconds since the end of its last frame.
    now_ms: Arc<AtomicU64>,
    ears: Arc<Ears>,
    expects: Expects,
    sent_tmst_us: Option<u32>,
    listens: Option<RfConfig>,
    /// Sent for the second window while the first one is open.
    waiting: Option<Transmission>,
}

impl Timings for Radio {
    fn get_rx_window_lead_time_ms(&self) -> u32 {
        0
    }
}

impl PhyRxTx for Radio {
    type PhyError = std::convert::Infallible;

    const MAX_RADIO_POWER: u8 = 20;

    async fn tx(&mut self, config: TxConfig, frame: &[u8]) -> Result<u32, Self::PhyError> {
        let freq_hz = config.rf.frequency;
        self.ears.used_hz.lock().expect("no panic").insert(freq_hz);
        if !(self.hears)(freq_hz) {
            self.ears.lost.fetch_add(1, Ordering::Relaxed);
            self.sent_tmst_us = None;
            return Ok(0);
        }
        let tmst_us = self.gateway.tmst_us();
        let reception = Reception {
            phy_payload: frame.to_vec(),
            freq_hz,
            data_rate: data_rate(&config.rf),
            rssi_dbm: -71,
            snr_db: 8.5,
            tmst_us,
        };
        self.gateway.push(&[reception]).await.expect("the server listens");
        self.sent_tmst_us = Some(tmst_us);
        Ok(0)
    }

    async fn setup_rx(&mut self, config: RxConfig) -> Result<(), Self::PhyError> {
        self.listens = Some(config.rf);
        Ok(())
    }

    async fn rx_continuous(&mut self, _: &mut [u8]) -> Result<(usize, RxQuality), Self::PhyError> {
        unreachable!("a device of class A does not listen without end")
    }

    async fn rx_single(&mut self, buffer: &mut [u8]) -> Result<RxStatus, Self::PhyError> {
        let Some(sent_tmst_us) = self.sent_tmst_us else { return Ok(RxStatus::RxTimeout) };
        let Some(transmission) = self.next_transmission().await else { return Ok(RxStatus::RxTimeout) };
        let opens_us = u32::try_from(self.now_ms.load(Ordering::Relaxed) * 1_000).expect("a few seconds");
        let starts_us = transmission.tmst_us.expect("class A names a time").wrapping_sub(sent_tmst_us);
        if starts_us > opens_us {
            self.waiting = Some(transmission);
            return Ok(RxStatus::RxTimeout);
        }
        let listens = self.listens.expect("the device sets its radio up first");
        assert_eq!(starts_us, opens_us, "{transmission:?}");
        assert_eq!(
            (transmission.freq_hz, transmission.data_rate.as_str()),
            (listens.frequency, data_rate(&listens).as_str())
        );
        assert!(transmission.inverted, "a device hears inverted chirps only");
        let frame = &transmission.phy_payload;
        if let Some(DownFrame::Data(data)) = parse_downlink(frame) {
            let flags = Flags { fcnt: data.fcnt.value(), ack: data.ack, confirmed: data.confirmed };
            self.ears.heard.lock().expect("no panic").push(flags);
        }
        buffer[..frame.len()].copy_from_slice(frame);
        Ok(RxStatus::Rx(frame.len(), RxQuality::new(-80, 9)))
    }
}

impl Radio {
    async fn next_transmission(&mut self) -> Option<Transmission> {
        if let Some(transmission) = self.waiting.take() {
            return Some(transmission);
        }
        let patience = match self.expects {
            Expects::Downlink => DEADLINE,
            // The deduplication window and what the decision takes.
            Expects::Nothing => Duration::from_millis(400),
        };
        match tokio::time::timeout(patience, self.downlinks.recv()).await {
            Ok(transmission) => Some(transmission.expect("the gateway lives as long as the radio")),
            Err(_) => {
                assert_eq!(self.expects, Expects::Nothing, "no downlink within {patience:?}");
                self.sent_tmst_us = None;
                None
            }
        }
    }
}

/// A clock that is where the device wants it to be.
struct VirtualTimer(Arc<AtomicU64>);

impl Timer for VirtualTimer {
    fn reset(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }

    async fn at(&mut self, millis: u64) {
        self.0.store(millis, Ordering::Relaxed);
    }

    async fn delay_ms(&mut self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

fn data_rate(rf: &RfConfig) -> String {
    format!("SF{}BW{}", rf.bb.sf.factor(), rf.bb.bw.hz() / 1_000)
}

const GATEWAY: u64 = 0x00c0_ee00_0000_0071;
