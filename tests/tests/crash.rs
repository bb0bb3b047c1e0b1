//! The promise that comes first: what was accepted is there after a power cut, once, and no counter is used twice.
//!
//! The real binary is killed fifty times under load, at moments a seed chooses. What left it before each kill (events on a
//! stream, acknowledged positions, frames handed to gateways) is held against what it knows afterwards.

#![allow(clippy::print_stdout, reason = "the seed repeats a failure; the counts tell what was proved")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loam_tests::story::{self, AbpKeys, Stream};
use loam_tests::{Client, Loam};
use mac::ids::{DevAddr, DevEui, GatewayEui};
use mac::region::RegionId;
use proto::v1::{self, Region, event, watch_request::Start};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use simulator::device::{Ignored, VirtualDevice};
use simulator::gateway::{Downlinks, Reception, VirtualGateway};

const KILLS: usize = 50;
const DEVICES: u64 = 16;
const GATEWAYS: [u64; 2] = [0x00c0_0000_0000_0001, 0x00c0_0000_0000_0002];
const CONSUMER: &str = "crash";

/// Rows FCNT-010, FCNT-011, AS-003, AS-004, DEDUP-001 under kill -9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_under_load_lose_nothing_and_reuse_no_counter() {
    let seed = std::env::var("LOAM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_124);
    println!("seed {seed} (set LOAM_SEED to repeat)");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().join("data");
    std::fs::create_dir(&data_dir).expect("empty");

    let loam = Loam::start(&data_dir);
    let client = loam.client();
    story::register_basics(&client, Region::Eu868, &GATEWAYS).await;
    let mut devices: Vec<VirtualDevice> = Vec::new();
    for number in 1..=DEVICES {
        // Two devices share each DevAddr.
        let dev_addr = 0x0100_0000 + u32::try_from(number / 2).expect("small");
        story::register_abp(&client, dev_eui(number), dev_addr).await;
        let AbpKeys { nwk_s_key, app_s_key } = AbpKeys::of(dev_eui(number));
        devices.push(VirtualDevice::abp(
            DevEui::new(dev_eui(number)),
            DevAddr::new(dev_addr),
            RegionId::Eu868,
            nwk_s_key,
            app_s_key,
        ));
    }
    drop(client);
    loam.kill();

    let seen = Arc::new(Mutex::new(Seen::default()));
    for round in 0..KILLS {
        let loam = Loam::start(&data_dir);
        let client = loam.client();
        let watcher = tokio::spawn(watch(client.clone(), Arc::clone(&seen)));
        let lifetime = Duration::from_millis(rng.random_range(250..700));
        let mut air = Air::connect(&loam).await;
        // Being cut off is the point.
        let _ = tokio::time::timeout(lifetime, load(&mut air, &client, &mut devices, &mut rng)).await;
        loam.kill();
        watcher.abort();
        let _ = watcher.await;
        air.deliver(&mut devices, &seen);
        let faults = std::mem::take(&mut seen.lock().expect("no panic").faults);
        assert!(faults.is_empty(), "round {round}: {faults:#?}");
    }

    let loam = Loam::start(&data_dir);
    let client = loam.client();
    let log = whole_log(&loam, &client, &mut devices).await;
    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    println!(
        "{} uplinks in the log, {} delivered, {} answered on air with {} counters",
        log.len(),
        seen.delivered.len(),
        seen.answered.len(),
        seen.counters_down.len(),
    );
    assert!(seen.delivered.len() > 500, "too little was delivered to prove anything");
    assert!(seen.answered.len() > 200, "too little was answered to prove anything");

    // What a stream delivered is there, under the same id.
    let ids: BTreeSet<&str> = log.iter().map(|u| u.id.as_str()).collect();
    let missing: Vec<_> = seen.delivered.keys().filter(|id| !ids.contains(id.as_str())).collect();
    assert!(missing.is_empty(), "delivered and gone: {missing:?}");

    // An uplink whose ACK or downlink reached a gateway is there.
    let counters: BTreeSet<(u64, u32)> = log.iter().map(|u| (u.dev_eui, u.fcnt)).collect();
    let lost: Vec<_> = seen.answered.iter().filter(|key| !counters.contains(key)).collect();
    assert!(lost.is_empty(), "answered on air and gone: {lost:?}");

    // No counter twice, in order for each device.
    assert_eq!(counters.len(), log.len(), "an FCntUp was accepted twice");
    assert_eq!(ids.len(), log.len(), "an event id stands for two events");
    let mut last = BTreeMap::new();
    for uplink in &log {
        let before = last.insert(uplink.dev_eui, uplink.fcnt);
        assert!(before.is_none_or(|b| b < uplink.fcnt), "{uplink:?} after {before:?}");
    }

    // The acknowledged position is not forgotten.
    let consumers =
        client.clone().events.list_consumers(v1::ListConsumersRequest {}).await.expect("a list").into_inner();
    let position = consumers.consumers.iter().find(|c| c.name == CONSUMER).map_or(0, |c| c.position);
    assert!(position >= seen.acknowledged_position, "{position} < {}", seen.acknowledged_position);

    // Everything still works.
    assert!(loam.terminate().success());
}

#[derive(Debug, Default)]
struct Seen {
    /// Uplink events a stream delivered: id → what it was.
    delivered: BTreeMap<String, (u64, u32)>,
    /// Uplinks (device, FCntUp) whose downlink reached a gateway.
    answered: BTreeSet<(u64, u32)>,
    /// (device, FCntDown) of every downlink that reached a gateway.
    counters_down: BTreeSet<(u64, u32)>,
    /// The highest position whose Acknowledge was answered.
    acknowledged_position: u64,
    faults: Vec<String>,
}

fn dev_eui(number: u64) -> u64 {
    0x70b3_d57e_c000_0000 + number
}

async fn watch(client: Client, seen: Arc<Mutex<Seen>>) {
    let request = v1::WatchRequest {
        consumer: CONSUMER.into(),
        start: Some(Start::Committed(true)),
        ..v1::WatchRequest::default()
    };
    let Ok(response) = client.clone().events.watch(request).await else { return };
    let mut stream = response.into_inner();
    let mut count = 0u32;
    while let Ok(Some(message)) = stream.message().await {
        let Some(v1::watch_response::Item::Event(event)) = message.item else { continue };
        if let Some(event::Kind::Uplink(uplink)) = &event.kind {
            let key = (u64::from_str_radix(&event.dev_eui, 16).expect("hexadecimal"), uplink.fcnt_up);
            let mut seen = seen.lock().expect("no panic");
            match seen.delivered.get(&event.id) {
                Some(before) if *before != key => {
                    let fault = format!("event {} was {before:?} and is {key:?}", event.id);
                    seen.faults.push(fault);
                }
                _ => {
                    seen.delivered.insert(event.id.clone(), key);
                }
            }
        }
        count += 1;
        if count.is_multiple_of(16) {
            let acknowledge = v1::AcknowledgeRequest { consumer: CONSUMER.into(), cursor: message.cursor };
            if client.clone().events.acknowledge(acknowledge).await.is_ok()
                && let Ok(list) = client.clone().events.list_consumers(v1::ListConsumersRequest {}).await
            {
                let list = list.into_inner();
                let position = list.consumers.iter().find(|c| c.name == CONSUMER).map_or(0, |c| c.position);
                let mut seen = seen.lock().expect("no panic");
                if position < seen.acknowledged_position {
                    let fault = format!("position {position} after {}", seen.acknowledged_position);
                    seen.faults.push(fault);
                }
                seen.acknowledged_position = position;
            }
        }
    }
}

/// Two gateways on the running server, and what each frame they brought was.
struct Air {
    gateways: Vec<VirtualGateway>,
    downlinks: Vec<Downlinks>,
    /// (gateway, tmst at its end) of each copy → the uplink.
    sent: BTreeMap<(u64, u32), SentUplink>,
}

#[derive(Clone, Copy)]
struct SentUplink {
    /// The how many-eth uplink of the round: the order in which answers are on air, whichever gateway sends them.
    order: usize,
    dev_eui: u64,
    fcnt: u32,
    confirmed: bool,
}

impl Air {
    async fn connect(loam: &Loam) -> Self {
        let mut air = Self { gateways: Vec::new(), downlinks: Vec::new(), sent: BTreeMap::new() };
        for eui in GATEWAYS {
            let (gateway, sent) =
                VirtualGateway::connect(loam.udp, GatewayEui::new(eui)).await.expect("a path");
            air.gateways.push(gateway);
            air.downlinks.push(sent);
        }
        air
    }

    /// One uplink, heard by both gateways.
    async fn send(&mut self, device: &mut VirtualDevice, payload: &[u8], confirmed: bool, pick: u32) -> u32 {
        let uplink = device.uplink(pick, Some((1, payload)), confirmed);
        let order = self.sent.len();
        for gateway in &self.gateways {
            let tmst_us = gateway.tmst_us();
            let (dev_eui, fcnt) = (device.dev_eui().value(), uplink.fcnt);
            self.sent.insert((gateway.eui().value(), tmst_us), SentUplink { order, dev_eui, fcnt, confirmed });
            let reception = Reception {
                phy_payload: uplink.phy_payload.clone(),
                freq_hz: uplink.freq_hz,
                data_rate: uplink.data_rate.clone(),
                rssi_dbm: -80,
                snr_db: 7.0,
                tmst_us,
            };
            // A server that was just killed refuses; the frame is lost on air.
            let _ = gateway.push(&[reception]).await;
        }
        uplink.fcnt
    }

    /// Hands everything the gateways were asked to send to the devices, in the order in which it is on air.
    fn deliver(&mut self, devices: &mut [VirtualDevice], seen: &Mutex<Seen>) {
        let mut seen = seen.lock().expect("no panic");
        let mut answers = Vec::new();
        for downlinks in &mut self.downlinks {
            while let Ok(transmission) = downlinks.try_recv() {
                let sent_us = transmission.tmst_us.expect("class A names a time");
                let answered = [1_000_000, 2_000_000].into_iter().find_map(|delay_us| {
                    self.sent.get(&(transmission.gateway.value(), sent_us.wrapping_sub(delay_us)))
                });
                match answered {
                    Some(uplink) => answers.push((*uplink, transmission.phy_payload)),
                    None => seen.faults.push(format!("a downlink at {sent_us} answers no uplink")),
                }
            }
        }
        answers.sort_by_key(|(uplink, _)| uplink.order);
        for (SentUplink { dev_eui, fcnt, confirmed, .. }, phy_payload) in answers {
            let device = devices.iter_mut().find(|d| d.dev_eui().value() == dev_eui).expect("it sent");
            match device.take_downlink(&phy_payload) {
                Ok(heard) => {
                    if !seen.counters_down.insert((dev_eui, heard.fcnt)) {
                        seen.faults.push(format!("FCntDown {} of {dev_eui:x} was used twice", heard.fcnt));
                    }
                    if heard.ack && !confirmed {
                        seen.faults.push(format!("{dev_eui:x}/{fcnt} was not confirmed and got an ACK"));
                    }
                    seen.answered.insert((dev_eui, fcnt));
                }
                Err(Ignored::CounterReused { got, last }) => {
                    seen.faults.push(format!("device {dev_eui:x}: FCntDown {got} after {last}"));
                }
                Err(other) => seen.faults.push(format!("device {dev_eui:x}: {other}")),
            }
        }
    }
}

/// Sends without end: each device in turn; every third frame is confirmed, now and then a downlink is queued.
async fn load(air: &mut Air, client: &Client, devices: &mut [VirtualDevice], rng: &mut StdRng) {
    let mut turn = 0u32;
    loop {
        let index = usize::try_from(turn).expect("small") % devices.len();
        turn += 1;
        air.send(&mut devices[index], &turn.to_be_bytes(), turn.is_multiple_of(3), rng.random()).await;
        if turn.is_multiple_of(7) {
            let enqueue = v1::EnqueueDownlinkRequest {
                dev_eui: devices[index].dev_eui().to_string(),
                f_port: 9,
                content: Some(v1::enqueue_downlink_request::Content::Payload(turn.to_be_bytes().to_vec())),
                ..v1::EnqueueDownlinkRequest::default()
            };
            // Cut off or not: a queue that grows is fine here.
            let _ = client.clone().downlinks.enqueue_downlink(enqueue).await;
        }
        let pause = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>());
        pause.await.expect_err("nothing ends it early");
    }
}

struct Logged {
    id: String,
    dev_eui: u64,
    fcnt: u32,
}

impl std::fmt::Debug for Logged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:x}/{}", self.id, self.dev_eui, self.fcnt)
    }
}

/// Every uplink in the log, in order, up to a last one that is sent here.
async fn whole_log(loam: &Loam, client: &Client, devices: &mut [VirtualDevice]) -> Vec<Logged> {
    let mut stream = Stream::earliest(client).await;
    let mut air = Air::connect(loam).await;
    let last = (devices[0].dev_eui().value(), air.send(&mut devices[0], b"the end", false, 0).await);
    let mut log = Vec::new();
    loop {
        let (event, uplink) = stream.uplink().await;
        let dev_eui = u64::from_str_radix(&event.dev_eui, 16).expect("hexadecimal");
        log.push(Logged { id: event.id, dev_eui, fcnt: uplink.fcnt_up });
        if (dev_eui, uplink.fcnt_up) == last {
            return log;
        }
    }
}
