//! A small farm on the air: three gateways, twelve devices, copies lost, frames heard by several gateways.
//!
//! The farm knows what it sent and what it heard, and keeps the list for whoever wants to compare: see [`Ledger`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mac::ids::{DevEui, GatewayEui, JoinEui};
use mac::region::RegionId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::device::{Heard, RootKeys, Uplink, VirtualDevice};
use crate::gateway::{Reception, Transmission, VirtualGateway};

/// What a device measures and does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Soil moisture, every 6 s.
    Soil,
    /// Level of a tank, every 8 s.
    Tank,
    /// A weather station, every 7 s.
    Weather,
    /// An irrigation valve that takes downlinks, confirmed, every 5 s.
    Valve,
}

impl Kind {
    /// A word for the codec's id.
    pub fn codec_id(self) -> &'static str {
        match self {
            Self::Soil => "soil-probe",
            Self::Tank => "tank-gauge",
            Self::Weather => "weather-station",
            Self::Valve => "irrigation-valve",
        }
    }

    /// The codec as its vendor would publish it.
    pub fn codec_script(self) -> &'static str {
        match self {
            Self::Soil => include_str!("codecs/soil.js"),
            Self::Tank => include_str!("codecs/tank.js"),
            Self::Weather => include_str!("codecs/weather.js"),
            Self::Valve => include_str!("codecs/valve.js"),
        }
    }

    fn period(self) -> Duration {
        Duration::from_secs(match self {
            Self::Soil => 6,
            Self::Tank => 8,
            Self::Weather => 7,
            Self::Valve => 5,
        })
    }
}

/// A device as the farm describes it, to be registered with the server.
#[derive(Clone, Debug)]
pub struct FarmDevice {
    /// What the farmer calls it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its DevEUI.
    pub dev_eui: DevEui,
    /// Its JoinEUI.
    pub join_eui: JoinEui,
    /// Its root key.
    pub app_key: [u8; 16],
}

/// The farm's gateways: name and EUI.
pub const GATEWAYS: [(&str, u64); 3] = [
    ("barn roof", 0x0016_c001_ff10_0001),
    ("silo", 0x0016_c001_ff10_0002),
    ("pump house", 0x0016_c001_ff10_0003),
];

const NAMES: [(&str, Kind); 12] = [
    ("north field 1", Kind::Soil),
    ("north field 2", Kind::Soil),
    ("south field 1", Kind::Soil),
    ("south field 2", Kind::Soil),
    ("orchard", Kind::Soil),
    ("water tank", Kind::Tank),
    ("diesel tank", Kind::Tank),
    ("slurry tank", Kind::Tank),
    ("hill weather", Kind::Weather),
    ("yard weather", Kind::Weather),
    ("north valve", Kind::Valve),
    ("south valve", Kind::Valve),
];

/// One copy in this many does not reach its gateway's server.
const COPY_LOST_ONE_IN: u32 = 6;

/// The devices of the farm.
pub fn devices() -> Vec<FarmDevice> {
    (1u64..)
        .zip(NAMES)
        .map(|(number, (name, kind))| {
            let mut app_key = [0x5a; 16];
            app_key[8..].copy_from_slice(&(0xfa12_0000 + number).to_be_bytes());
            FarmDevice {
                name,
                kind,
                dev_eui: DevEui::new(0x70b3_d57e_d006_0000 + number),
                join_eui: JoinEui::new(0x70b3_d57e_d000_0001),
                app_key,
            }
        })
        .collect()
}

/// A data frame of which at least one copy was handed to the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentFrame {
    /// When the first copy was.
    pub first_copy_at: Instant,
    /// Its port.
    pub f_port: u8,
    /// The application's bytes in clear.
    pub payload: Vec<u8>,
}

/// A payload a device took.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TakenPayload {
    /// The device.
    pub dev_eui: DevEui,
    /// The counter of the frame.
    pub fcnt_down: u32,
    /// Its port.
    pub f_port: u8,
    /// Decrypted bytes.
    pub payload: Vec<u8>,
}

/// What was sent and heard, to hold against what the server says.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Data frames of which at least one copy was handed to the server, by device and FCntUp.
    pub frames: BTreeMap<(DevEui, u32), SentFrame>,
    /// Data frames of which every copy was lost; the server cannot know them.
    pub frames_lost: u64,
    /// Copies of data frames handed to the server.
    pub copies: u64,
    /// Copies lost on the way.
    pub copies_lost: u64,
    /// Join-Requests of which at least one copy was handed over.
    pub join_requests: u64,
    /// Joins completed.
    pub joins: u64,
    /// Downlinks that hit a window and were accepted by their device.
    pub downlinks: u64,
    /// Downlinks a gateway got after the moment they were to be on air.
    pub downlinks_late: u64,
    /// Payloads devices took.
    pub payloads: Vec<TakenPayload>,
    /// Confirmed uplinks handed over, and how many of them were acknowledged.
    pub confirmed: u64,
    /// See `confirmed`.
    pub confirmed_acknowledged: u64,
    /// What must never happen, in words.
    pub faults: Vec<String>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Farm {
    air: Arc<Air>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Air {
    gateways: Vec<VirtualGateway>,
    downlinks: broadcast::Sender<Transmission>,
    ledger: Mutex<Ledger>,
}

impl Farm {
    /// Connects the gateways and switches the devices on. The same seed gives the same places and losses.
    ///
    /// # Errors
    /// When a gateway gets no answer from `server`.
    pub async fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let (downlinks, _) = broadcast::channel(256);
        let mut gateways = Vec::new();
        let mut tasks = JoinSet::new();
        for (_, eui) in GATEWAYS {
            let (gateway, mut sent) = VirtualGateway::connect(server, GatewayEui::new(eui)).await?;
            gateways.push(gateway);
            let downlinks = downlinks.clone();
            tasks.spawn(async move {
                while let Some(transmission) = sent.recv().await {
                    // Nobody listening is a frame lost on air.
                    let _ = downlinks.send(transmission);
                }
            });
        }
        let air = Arc::new(Air { gateways, downlinks, ledger: Mutex::default() });
        let (stop, stopped) = watch::channel(false);
        for (number, device) in (0u64..).zip(devices()) {
            let place =
                Place::new(device, StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number)));
            tasks.spawn(place.live(Arc::clone(&air), stopped.clone()));
        }
        Ok(Self { air, stop, tasks })
    }

    /// What happened so far.
    pub fn ledger(&self) -> Ledger {
        self.air.ledger().clone()
    }

    /// Lets every device finish the exchange it is in, then switches all off.
    pub async fn stop(mut self) -> Ledger {
        let _ = self.stop.send(true);
        // The tasks of the gateways go on; only devices end.
        for _ in NAMES {
            if let Some(Err(error)) = self.tasks.join_next().await {
                self.air.ledger().faults.push(format!("a simulated device broke: {error}"));
            }
        }
        self.tasks.abort_all();
        self.ledger()
    }
}

impl Air {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One device in its place: what it hears, and how well it is heard.
struct Place {
    info: FarmDevice,
    device: VirtualDevice,
    /// RSSI and SNR at each gateway; `None`: out of reach.
    links: [Option<(i32, f32)>; 3],
    rng: StdRng,
    readings: u32,
    valve_open: bool,
}

impl Place {
    fn new(info: FarmDevice, mut rng: StdRng) -> Self {
        let root = RootKeys { app_key: info.app_key, nwk_key: None };
        let device = VirtualDevice::otaa(info.dev_eui, info.join_eui, RegionId::Eu868, root);
        let nearest = rng.random_range(0..3);
        let mut links = [None; 3];
        for (index, link) in links.iter_mut().enumerate() {
            let far = index != nearest;
            if far && rng.random_ratio(1, 4) {
                continue;
            }
            let rssi = if far { rng.random_range(-118..-95) } else { rng.random_range(-95..-60) };
            let snr = if far { rng.random_range(-6.0..4.0f32) } else { rng.random_range(5.0..11.0f32) };
            *link = Some((rssi, (snr * 10.0).round() / 10.0));
        }
        Self { info, device, links, rng, readings: 0, valve_open: false }
    }

    async fn live(mut self, air: Arc<Air>, mut stopped: watch::Receiver<bool>) {
        // Devices are not switched on in the same moment.
        let mut next = Instant::now() + Duration::from_millis(self.rng.random_range(0..2_000));
        while !*stopped.borrow() {
            tokio::select! {
                () = sleep_until(next) => {}
                _ = stopped.changed() => break,
            }
            if self.device.dev_addr().is_none() {
                if self.join(&air).await {
                    air.ledger().joins += 1;
                }
                next = Instant::now() + Duration::from_millis(self.rng.random_range(300..1_500));
                continue;
            }
            let started = Instant::now();
            self.report(&air).await;
            next = started + self.info.kind.period();
        }
    }

    async fn join(&mut self, air: &Air) -> bool {
        let request = self.device.join_request(self.rng.random());
        let mut downlinks = air.downlinks.subscribe();
        let sent = self.transmit(air, &request, false).await;
        if sent.is_empty() {
            return false;
        }
        air.ledger().join_requests += 1;
        let deadline = Instant::now() + Duration::from_millis(6_300);
        while let Some(frame) = next_in_window(air, &mut downlinks, &request, &sent, deadline).await {
            match self.device.take_join_accept(&frame) {
                Ok(()) => return true,
                Err(crate::device::Ignored::JoinNonceReused { got, last }) => {
                    air.ledger().faults.push(format!("{}: JoinNonce {got} after {last}", self.info.name));
                }
                Err(_) => {}
            }
        }
        false
    }

    async fn report(&mut self, air: &Air) {
        let (port, payload) = self.measure();
        let confirmed = self.info.kind == Kind::Valve;
        let uplink = self.device.uplink(self.rng.random(), Some((port, &payload)), confirmed);
        let mut downlinks = air.downlinks.subscribe();
        let first_copy_at = Instant::now();
        let sent = self.transmit(air, &uplink, true).await;
        {
            let mut ledger = air.ledger();
            if sent.is_empty() {
                ledger.frames_lost += 1;
                return;
            }
            let frame = SentFrame { first_copy_at, f_port: port, payload };
            ledger.frames.insert((self.info.dev_eui, uplink.fcnt), frame);
            ledger.confirmed += u64::from(confirmed);
        }
        let last_us = uplink.windows().map(|w| w.delay_us).max().unwrap_or(2_000_000);
        let deadline = Instant::now() + Duration::from_micros(u64::from(last_us)) + Duration::from_millis(300);
        while let Some(frame) = next_in_window(air, &mut downlinks, &uplink, &sent, deadline).await {
            match self.device.take_downlink(&frame) {
                Ok(heard) => {
                    self.hear(air, &heard, confirmed);
                    return;
                }
                Err(crate::device::Ignored::CounterReused { got, last }) => {
                    air.ledger().faults.push(format!("{}: FCntDown {got} after {last}", self.info.name));
                }
                Err(_) => {}
            }
        }
    }

    fn hear(&mut self, air: &Air, heard: &Heard, confirmed: bool) {
        let mut ledger = air.ledger();
        ledger.downlinks += 1;
        ledger.confirmed_acknowledged += u64::from(confirmed && heard.ack);
        if let Some((port, bytes)) = &heard.payload {
            self.valve_open = bytes.first() == Some(&1);
            ledger.payloads.push(TakenPayload {
                dev_eui: self.info.dev_eui,
                fcnt_down: heard.fcnt,
                f_port: *port,
                payload: bytes.clone(),
            });
        }
    }

    /// Hands the frame to the gateways in reach; answers which got it, with their counter at its end.
    async fn transmit(&mut self, air: &Air, uplink: &Uplink, counted: bool) -> BTreeMap<GatewayEui, u32> {
        let mut sent = BTreeMap::new();
        for (gateway, link) in air.gateways.iter().zip(self.links) {
            let Some((rssi_dbm, snr_db)) = link else { continue };
            if self.rng.random_ratio(1, COPY_LOST_ONE_IN) {
                air.ledger().copies_lost += u64::from(counted);
                continue;
            }
            let tmst_us = gateway.tmst_us();
            let reception = Reception {
                phy_payload: uplink.phy_payload.clone(),
                freq_hz: uplink.freq_hz,
                data_rate: uplink.data_rate.clone(),
                rssi_dbm,
                snr_db,
                tmst_us,
            };
            if gateway.push(&[reception]).await.is_ok() {
                air.ledger().copies += u64::from(counted);
                sent.insert(gateway.eui(), tmst_us);
            }
        }
        sent
    }

    fn measure(&mut self) -> (u8, Vec<u8>) {
        self.readings += 1;
        let drift = self.rng.random_range(0..40u16);
        match self.info.kind {
            Kind::Soil => {
                let mut bytes = 3_500u16.saturating_sub(drift).to_be_bytes().to_vec();
                bytes.extend((2_600 + drift * 3).to_be_bytes());
                bytes.extend((1_240 + drift).to_be_bytes());
                bytes.extend((410 + drift).to_be_bytes());
                (2, bytes)
            }
            Kind::Tank => {
                let distance_mm = 700 + u16::try_from(self.readings % 200).unwrap_or(0) * 4 + drift;
                let [high, low] = distance_mm.to_be_bytes();
                // Foam hides the surface now and then.
                let no_echo = u8::from(self.rng.random_ratio(1, 12));
                (10, vec![no_echo, high, low, 11, 178])
            }
            Kind::Weather => {
                let [t0, t1] = (118 + drift).to_le_bytes();
                let [w0, w1] = (20 + drift).to_le_bytes();
                let [p0, p1] = (10_093 + drift).to_le_bytes();
                (1, vec![1, 3, t0, t1, 1, 4, 128, 1, 5, w0, w1, 1, 0x73, p0, p1])
            }
            Kind::Valve => {
                let flow = if self.valve_open { 184 + drift } else { 0 };
                let [high, low] = flow.to_be_bytes();
                (5, vec![u8::from(self.valve_open), high, low, 0, u8::from(self.valve_open) * 12])
            }
        }
    }
}

/// Waits for a transmission that hits a window of `uplink`, until the moment it is on air.
async fn next_in_window(
    air: &Air,
    downlinks: &mut broadcast::Receiver<Transmission>,
    uplink: &Uplink,
    sent: &BTreeMap<GatewayEui, u32>,
    deadline: Instant,
) -> Option<Vec<u8>> {
    loop {
        let transmission = match timeout_at(deadline, downlinks.recv()).await {
            Ok(Ok(transmission)) => transmission,
            Ok(Err(broadcast::error::RecvError::Lagged(_))) => continue,
            Ok(Err(broadcast::error::RecvError::Closed)) | Err(_) => return None,
        };
        let (Some(tmst_us), Some(sent_us)) = (sent.get(&transmission.gateway), transmission.tmst_us) else {
            continue;
        };
        if uplink.window_hit(*tmst_us, sent_us, transmission.freq_hz, &transmission.data_rate).is_none() {
            continue;
        }
        let Ok(lead_us) = u64::try_from(transmission.lead_us) else {
            air.ledger().downlinks_late += 1;
            continue;
        };
        sleep_until(Instant::now() + Duration::from_micros(lead_us)).await;
        return Some(transmission.phy_payload);
    }
}
