//! The field: devices that go on whatever becomes of the server, and the air between them and the gateways.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use loam_tests::Loam;
use loam_tests::story::{self, AbpKeys};
use mac::ids::{DevAddr, DevEui, GatewayEui, JoinEui};
use mac::join_frame::JoinAccept;
use mac::region::RegionId;
use proto::v1::{self, MacVersion};
use rand::RngExt as _;
use rand::rngs::StdRng;
use simulator::device::{Ignored, RootKeys, Uplink, VirtualDevice};
use simulator::gateway::{Reception, Transmission, TxAnswer, VirtualGateway};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::account::{Account, Counter, SessionKey};

pub(crate) const GATEWAYS: [u64; 3] = [0x00c0_0000_0000_0001, 0x00c0_0000_0000_0002, 0x00c0_0000_0000_0003];
pub(crate) const JOIN_EUI: u64 = 0x70b3_d57e_0000_0001;
/// Items of the queue go to this port, and their payload begins with their number.
pub(crate) const ITEM_PORT: u8 = 9;

/// What a device is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Kind {
    pub(crate) version: MacVersion,
    pub(crate) joins: bool,
}

/// One device and its radio.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dev_eui: u64,
    pub(crate) kind: Kind,
    radio: Mutex<Radio>,
    heard: Notify,
}

#[derive(Debug)]
struct Radio {
    device: VirtualDevice,
    has_session: bool,
    /// The frame whose windows are open.
    listening: u64,
    /// The frame it heard the last answer to.
    answered: u64,
    /// The last frames, for those who send them again.
    history: VecDeque<Made>,
}

/// What a frame, or the answer to it, is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum What {
    Data { fcnt: u32, confirmed: bool },
    Join { dev_nonce: u16 },
}

impl Node {
    pub(crate) fn new(dev_eui: u64, kind: Kind) -> Self {
        let id = DevEui::new(dev_eui);
        let device = if kind.joins {
            VirtualDevice::otaa(id, JoinEui::new(JOIN_EUI), RegionId::In865, root_keys(dev_eui, kind))
        } else {
            let AbpKeys { nwk_s_key, app_s_key } = AbpKeys::of(dev_eui);
            VirtualDevice::abp(id, DevAddr::new(abp_addr(dev_eui)), RegionId::In865, nwk_s_key, app_s_key)
        };
        let radio =
            Radio { device, has_session: !kind.joins, listening: 0, answered: 0, history: VecDeque::new() };
        Self { dev_eui, kind, radio: Mutex::new(radio), heard: Notify::new() }
    }

    fn radio(&self) -> MutexGuard<'_, Radio> {
        self.radio.lock().expect("no task panics")
    }

    /// Opens the windows of a frame that is about to be sent; those of the one before are over.
    fn listen(&self) -> u64 {
        let order = fresh_order();
        self.radio().listening = order;
        order
    }

    pub(crate) fn has_session(&self) -> bool {
        self.radio().has_session
    }

    /// Its registration.
    pub(crate) fn registration(&self) -> v1::CreateDeviceRequest {
        let mut device =
            v1::Device { profile_id: profile_id(self.kind.version).into(), ..story::device(self.dev_eui) };
        let keys = self.kind.joins.then(|| {
            device.join_eui = format!("{JOIN_EUI:016x}");
            let root = root_keys(self.dev_eui, self.kind);
            v1::RootKeys {
                app_key: story::hex(&root.app_key),
                nwk_key: root.nwk_key.map(|key| story::hex(&key)).unwrap_or_default(),
            }
        });
        v1::CreateDeviceRequest { device: Some(device), keys }
    }

    /// Its personalisation.
    pub(crate) fn activation(&self) -> v1::ActivateDeviceRequest {
        let keys = AbpKeys::of(self.dev_eui);
        v1::ActivateDeviceRequest {
            dev_eui: format!("{:016x}", self.dev_eui),
            dev_addr: format!("{:08x}", abp_addr(self.dev_eui)),
            nwk_s_key: story::hex(&keys.nwk_s_key),
            app_s_key: story::hex(&keys.app_s_key),
            ..v1::ActivateDeviceRequest::default()
        }
    }
}

fn root_keys(dev_eui: u64, kind: Kind) -> RootKeys {
    let key = |filler: u8| {
        let mut key = [filler; 16];
        key[..8].copy_from_slice(&dev_eui.to_be_bytes());
        key
    };
    RootKeys { app_key: key(0x33), nwk_key: (kind.version == MacVersion::MacVersion110).then(|| key(0x44)) }
}

/// Two neighbours share an address.
fn abp_addr(dev_eui: u64) -> u32 {
    let number = u32::try_from(dev_eui & 0x00ff_ffff).expect("24 bits");
    0x0100_0000 + number / 2
}

/// The profile of a version.
pub(crate) fn profile_id(version: MacVersion) -> &'static str {
    match version {
        MacVersion::MacVersion104 => "v104",
        MacVersion::MacVersion110 => "v110",
        MacVersion::MacVersion100
        | MacVersion::MacVersion101
        | MacVersion::MacVersion102
        | MacVersion::MacVersion103
        | MacVersion::Unspecified => "v103",
    }
}

/// A frame a device made, which may be on air several times.
#[derive(Clone, Debug)]
struct Made {
    what: What,
    uplink: Uplink,
    /// The device just after it had sent.
    sender: VirtualDevice,
    heard: Arc<Mutex<Answers>>,
}

/// How often a frame was on air, and the downlinks that answered it. Which of its transmissions a copy is of shows only where one
/// gateway has heard several, so that any of them may be answered in the windows of another.
#[derive(Debug, Default)]
struct Answers {
    times: usize,
    downlinks: BTreeSet<Vec<u8>>,
}

/// A frame on air.
#[derive(Debug)]
struct Frame {
    node: Arc<Node>,
    order: u64,
    made: Made,
}

/// Whether anything can be lost on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Weather {
    /// Everybody hears everything and answers.
    Calm,
    /// Gateways miss frames, refuse downlinks, and forget to answer.
    Rough,
}

/// What each gateway heard, by its counter at that moment.
type Frames = HashMap<(u64, u32), Arc<Frame>>;

/// The gateways of one running server.
pub(crate) struct Air {
    account: Arc<Account>,
    gateways: Vec<VirtualGateway>,
    frames: Arc<Mutex<Frames>>,
    weather: Weather,
    listeners: JoinSet<()>,
}

/// Counts what all fields have made, so that nothing is made twice.
static ORDERS: AtomicU64 = AtomicU64::new(1);
static NUMBERS: AtomicU32 = AtomicU32::new(1);

fn fresh_order() -> u64 {
    ORDERS.fetch_add(1, Ordering::Relaxed)
}

/// A number nobody has had.
pub(crate) fn fresh_number() -> u32 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

impl Air {
    /// Connects the gateways, as many as the server answers before it ends.
    pub(crate) async fn connect(loam: &Loam, account: &Arc<Account>, weather: Weather) -> Self {
        let mut air = Self {
            account: Arc::clone(account),
            gateways: Vec::new(),
            frames: Arc::default(),
            weather,
            listeners: JoinSet::new(),
        };
        let connected = GATEWAYS.map(|eui| {
            let connect = VirtualGateway::connect(loam.udp, GatewayEui::new(eui));
            tokio::time::timeout(CONNECT_PATIENCE, connect)
        });
        for connected in futures_util::future::join_all(connected).await {
            let Ok(Ok((gateway, mut downlinks))) = connected else { continue };
            air.gateways.push(gateway);
            let (account, frames) = (Arc::clone(account), Arc::clone(&air.frames));
            air.listeners.spawn(async move {
                while let Some(transmission) = downlinks.recv().await {
                    deliver(&account, &frames, &transmission);
                }
            });
        }
        air
    }

    /// PUSH_ACKs that came.
    pub(crate) fn push_acks(&self) -> u64 {
        self.gateways.iter().map(|gateway| gateway.counts().push_acks.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn weather(&self) -> Weather {
        self.weather
    }

    /// Sends an uplink and tells its session and counter; its payload is a number nobody has had.
    pub(crate) async fn uplink(
        &self,
        node: &Arc<Node>,
        confirmed: bool,
        rng: &mut StdRng,
    ) -> (SessionKey, u32) {
        let payload = fresh_number().to_be_bytes();
        let (session, made) = {
            let mut radio = node.radio();
            let uplink = radio.device.uplink(rng.random(), Some((1, &payload)), confirmed);
            let session = (node.dev_eui, radio.device.dev_addr().expect("it has a session").value());
            self.account.uplink_sent(session, uplink.fcnt, payload.to_vec());
            let what = What::Data { fcnt: uplink.fcnt, confirmed };
            (session, radio.remember(uplink, what))
        };
        let (order, fcnt) = (node.listen(), made.uplink.fcnt);
        self.carry(Frame { node: Arc::clone(node), order, made }, rng).await;
        (session, fcnt)
    }

    /// Sends a Join-Request. Its nonce is one above the last.
    pub(crate) async fn join(&self, node: &Arc<Node>, rng: &mut StdRng) {
        let made = {
            let mut radio = node.radio();
            let uplink = radio.device.join_request(rng.random());
            let nonce = uplink.phy_payload.get(17..19).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
            let what =
                What::Join { dev_nonce: u16::from_le_bytes(nonce.expect("a Join-Request has 23 bytes")) };
            radio.remember(uplink, what)
        };
        let order = node.listen();
        self.carry(Frame { node: Arc::clone(node), order, made }, rng).await;
    }

    /// The device sends its last frame once more.
    pub(crate) async fn repeat(&self, node: &Arc<Node>, rng: &mut StdRng) {
        let last = node.radio().history.front().cloned();
        if let Some(made @ Made { what: What::Data { .. }, .. }) = last {
            let order = node.listen();
            self.carry(Frame { node: Arc::clone(node), order, made }, rng).await;
        }
    }

    /// A stranger plays back a frame he recorded.
    pub(crate) async fn play_back(&self, node: &Arc<Node>, rng: &mut StdRng) {
        let recorded = node.radio().history.get(rng.random_range(0..HISTORY)).cloned();
        if let Some(made) = recorded {
            self.carry(Frame { node: Arc::clone(node), order: fresh_order(), made }, rng).await;
        }
    }

    /// Waits until the device hears an answer in its windows; false: it heard nothing for `patience`.
    pub(crate) async fn hears(&self, node: &Node, patience: Duration) -> bool {
        let answered = async {
            loop {
                let heard = node.heard.notified();
                {
                    let radio = node.radio();
                    if radio.answered == radio.listening {
                        return;
                    }
                }
                heard.await;
            }
        };
        tokio::time::timeout(patience, answered).await.is_ok()
    }

    async fn carry(&self, frame: Frame, rng: &mut StdRng) {
        if self.gateways.is_empty() {
            return;
        }
        frame.made.heard.lock().expect("no task panics").times += 1;
        let frame = Arc::new(frame);
        let first = rng.random_range(0..self.gateways.len());
        for (index, gateway) in self.gateways.iter().enumerate() {
            if self.weather == Weather::Rough && index != first && rng.random_bool(0.3) {
                continue;
            }
            if self.weather == Weather::Rough {
                match rng.random_range(0..40) {
                    0 => gateway.answer_next(TxAnswer::Silent),
                    1 => gateway.answer_next(TxAnswer::Refuse("TOO_LATE")),
                    _ => {}
                }
            }
            let tmst_us = {
                let mut frames = self.frames.lock().expect("no task panics");
                let mut tmst_us = gateway.tmst_us();
                while frames.contains_key(&(gateway.eui().value(), tmst_us)) {
                    tmst_us = tmst_us.wrapping_add(1);
                }
                frames.insert((gateway.eui().value(), tmst_us), Arc::clone(&frame));
                tmst_us
            };
            let snr_db = rng.random_range(-10..10);
            let reception = Reception {
                phy_payload: frame.made.uplink.phy_payload.clone(),
                freq_hz: frame.made.uplink.freq_hz,
                data_rate: frame.made.uplink.data_rate.clone(),
                rssi_dbm: -80,
                #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                snr_db: snr_db as f32,
                tmst_us,
            };
            // A server that was just killed refuses; the frame is lost on air.
            let _ = gateway.push(&[reception]).await;
        }
    }
}

impl Radio {
    fn remember(&mut self, uplink: Uplink, what: What) -> Made {
        let made = Made { what, uplink, sender: self.device.clone(), heard: Arc::default() };
        self.history.push_front(made.clone());
        self.history.truncate(HISTORY);
        made
    }
}

/// Brings what a gateway sends to the device that listens, and writes it into the account.
fn deliver(account: &Account, frames: &Mutex<Frames>, transmission: &Transmission) {
    let at_us = transmission.tmst_us.expect("class A names a time");
    let answered = {
        let frames = frames.lock().expect("no task panics");
        DELAYS_US.into_iter().find_map(|delay_us| {
            let heard_us = at_us.wrapping_sub(delay_us);
            let frame = frames.get(&(transmission.gateway.value(), heard_us))?;
            let hit =
                frame.made.uplink.window_hit(heard_us, at_us, transmission.freq_hz, &transmission.data_rate);
            hit.map(|_| Arc::clone(frame))
        })
    };
    let Some(frame) = answered else {
        return account.fault(format!("no device listens to {transmission:x?}"));
    };
    let phy = &transmission.phy_payload;
    let what = frame.made.what;
    let (again, times, answers) = {
        let mut heard = frame.made.heard.lock().expect("no task panics");
        let again = !heard.downlinks.insert(phy.clone());
        (again, heard.times, heard.downlinks.len())
    };
    if answers > times {
        let dev_eui = frame.node.dev_eui;
        account.fault(format!("{answers} downlinks answer {what:?} of {dev_eui:x}, on air {times} times"));
    }
    let mut radio = frame.node.radio();
    let listens = radio.listening == frame.order;
    let mut stand_in = frame.made.sender.clone();
    let device = if listens { &mut radio.device } else { &mut stand_in };
    let heard = match what {
        What::Join { dev_nonce } => hear_accept(account, &frame, device, dev_nonce, phy),
        What::Data { fcnt, confirmed } => hear_data(account, &frame, device, (fcnt, confirmed), phy),
    };
    if let Err(ignored) = heard {
        let again = if again { ", which is there a second time" } else { "" };
        let dev_eui = frame.node.dev_eui;
        let earlier = account.on_air(phy).unwrap_or_default();
        account.fault(format!("{dev_eui:x} ignored the answer to {what:?}{again}: {ignored}; {earlier}"));
    } else if listens {
        radio.has_session = true;
        radio.answered = frame.order;
        frame.node.heard.notify_one();
    }
}

fn hear_accept(
    account: &Account,
    frame: &Frame,
    device: &mut VirtualDevice,
    dev_nonce: u16,
    phy: &[u8],
) -> Result<(), Ignored> {
    let dev_eui = frame.node.dev_eui;
    let root = root_keys(dev_eui, frame.node.kind);
    let key = root.nwk_key.unwrap_or(root.app_key);
    let opened = JoinAccept::open(phy, &key).ok_or(Ignored::NotMine)?;
    account.accept_on_air(dev_eui, dev_nonce, opened.accept.join_nonce.value(), phy);
    device.take_join_accept(phy)
}

fn hear_data(
    account: &Account,
    frame: &Frame,
    device: &mut VirtualDevice,
    (answers, confirmed): (u32, bool),
    phy: &[u8],
) -> Result<(), Ignored> {
    let session = (frame.node.dev_eui, device.dev_addr().ok_or(Ignored::Unexpected)?.value());
    let heard = device.take_downlink(phy)?;
    let from_application = heard.payload.as_ref().is_some_and(|(port, _)| *port > 0);
    let is_1_1 = frame.node.kind.version == MacVersion::MacVersion110;
    let counter = if is_1_1 && from_application { Counter::Application } else { Counter::Network };
    account.downlink_on_air(session, (counter, heard.fcnt), answers, phy);
    if heard.ack && !confirmed {
        account.fault(format!("FCntUp {answers} of {session:x?} was not confirmed and got an ACK"));
    }
    if let Some((ITEM_PORT, payload)) = &heard.payload {
        match payload.first_chunk() {
            Some(number) => account.item_on_air(u32::from_be_bytes(*number), session, heard.fcnt),
            None => account.fault(format!("{session:x?} got an item of {} bytes", payload.len())),
        }
    }
    Ok(())
}

/// RX1 and RX2 of data and of joins.
const DELAYS_US: [u32; 4] = [1_000_000, 2_000_000, 5_000_000, 6_000_000];
const HISTORY: usize = 8;
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
